"""What an administrator has named as public, and how much of a request's tokens that covers.

    named    a b c d e f        a b x y           two prompts, from the first token on
    tokens   a b c d Q R ...                      public: [0, 4), they part at Q
    tokens   a b Q R ...                          public: [0, 2)
    tokens   Q R ...                              nothing

Public is whatever begins a named prefix, so a token is public or not by itself and those before it,
whoever sends it. What is shared shows: whether somebody has used a public prefix lately in how fast
it is, and how far one's tokens agree with it in how many are cached. That is meant; what must not
show must not be named.

Costs: nothing while nothing is named; then some 2 µs, and with several prefixes 3 µs (the
longest has 200 tokens) to 18 µs (20,000), however many: of sorted ones the two that ``tokens``
would lie between agree with it longest.
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from radixserve.cache.lookup import common_prefix
from radixserve.ids import TokenArray


class PublicPrefixes:
    """A set of prefixes, replaced as a whole. Mutable."""

    __slots__ = ("_first_tokens", "_keys", "_prefixes", "max_tokens")

    def __init__(self) -> None:
        self._prefixes: list[TokenArray] = []
        self._keys: list[bytes] = []
        """The same, as bytes that sort like the tokens."""
        self._first_tokens: frozenset[int] = frozenset()
        self.max_tokens = 0
        """The length of the longest."""

    def replace(self, prefixes: Sequence[TokenArray]) -> bool:
        """Name these (int32[n] each, token ids are never negative) and no others. Returns whether
        that made a difference."""
        keys = sorted({_key(prefix) for prefix in prefixes if len(prefix)})
        # What begins another covers nothing more.
        longest = [key for key, after in pairwise([*keys, b""]) if not after.startswith(key)]
        if longest == self._keys:
            return False
        self._keys = longest
        self._prefixes = [np.frombuffer(key, dtype=">i4").astype(np.int32) for key in longest]
        self._first_tokens = frozenset(int(prefix[0]) for prefix in self._prefixes)
        self.max_tokens = max((len(prefix) for prefix in self._prefixes), default=0)
        return True

    def length(self, tokens: TokenArray) -> int:
        """How many leading ones of ``tokens`` (int32[n]) are public. *Cost*: see the module."""
        if not self._prefixes or not len(tokens) or int(tokens[0]) not in self._first_tokens:
            return 0
        if len(self._prefixes) == 1:
            return common_prefix(self._prefixes[0], tokens)
        place = bisect(self._keys, _key(tokens[: self.max_tokens]))
        neighbours = self._prefixes[max(0, place - 1) : place + 1]
        return max(common_prefix(prefix, tokens) for prefix in neighbours)

    def covers(self, tokens: TokenArray) -> bool:
        """Whether all of ``tokens`` (int32[n]) are public. *Cost*: as ``length``, O(1) if there are
        more than any prefix has."""
        return 0 < len(tokens) <= self.max_tokens and self.length(tokens) == len(tokens)


def _key(tokens: TokenArray) -> bytes:
    return tokens.astype(">i4").tobytes()
