"""Which prefixes eviction has dropped, and when: so a miss can say "you had this a minute ago".

Of every evicted page one hash is kept: of the whole prefix up to the page's first token on that
edge, that token included. Below, P = 4, the match ends at 8, and token i is looked for there:

    a b c d e f g h | i j k l | m        evicted: [8, 13)
                      ^         ^        remembered: a..i and a..m

So "has what follows been evicted" is one look-up where a match ends at a page border, which is
where eviction cuts, or where an evicted edge began. Elsewhere inside a page (part of the evicted
has come back since) it is answered by the next page's first token, if the prompt reaches so far.

A namespace's hashes begin with a keyed hash of its name, whose key nobody else has, so nobody can
make a prompt of one namespace collide with another's. Hashes explain; they never share a page.
Below the public root the hashes of all nodes begin with the public name's, and as a prefix hash is
a sum, what is a namespace's there is remembered, and asked for, with the difference of the two
names' hashes added: as if all of the prefix were the namespace's.

Entries live in two generations, as ``Ghosts`` do: at least the last ``limit // 2`` are remembered,
at most ``limit``, some 130 bytes each. It works under any policy: the tree tells what it cuts.

A node keeps the hashes at the page borders of its own path that have been needed (``page_hashes``).
What lies on a node's path never changes while the node lives, except by the cuts told here.

Costs: of an evicted edge each token is hashed once, about 2 ns; a cut costs some 15 µs and 0.1 µs
a page; a question costs 2 ns for each token behind the nearest hash known, and some 20 µs.
"""

import hashlib
import secrets
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from radixserve.cache.lookup import Match, path_tokens
from radixserve.cache.node import Node, Root
from radixserve.cache.page_hashes import PageHashes
from radixserve.cache.prefix_hash import HashArray, HashState, PrefixHasher
from radixserve.ids import Namespace, TokenArray

Clock = Callable[[], float]
"""Seconds, from any origin."""

_MASK: Final = (1 << 64) - 1
_PART: Final = 0x9FB21C651E98DF25
_TOKEN: Final = 0xC2B2AE3D27D4EB4F
_MIX: Final = 0x165667B19E3779F9

_PUBLIC_NAME: Final = b"\xffpublic"
"""No namespace's name in UTF-8."""


class _Burial(NamedTuple):
    """When an entry's tokens were evicted, and from which namespace."""

    evicted_s: float
    root_hash: int


class EvictedPrefixes:
    """What was evicted from one tree. Fed by the tree, asked by the cache."""

    __slots__ = ("_clock", "_hasher", "_limit", "_old", "_page_size", "_secret", "_young")

    def __init__(self, page_size: int, limit: int, clock: Clock) -> None:
        self._page_size = page_size
        self._limit = limit
        self._clock = clock
        self._hasher = PrefixHasher(page_size)
        self._secret = secrets.token_bytes(16)
        self._young: dict[int, _Burial] = {}
        self._old: dict[int, _Burial] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    # Eviction

    def bury(self, leaf: Node, end: int) -> None:
        """Eviction is about to cut ``leaf`` down to depth ``end``: a page border, or its start.

        *Mutates* the memory, and what nodes know of their hashes. *Cost*: see the module.
        """
        size = self._page_size
        known = self._hash_borders(leaf)
        first = -(-end // size)
        root = _root_of(leaf)
        root_hash = self._origin(root).at(0)
        added = 0
        if root.namespace != leaf.namespace:
            added = self._root_hash(leaf.namespace) - root_hash & _MASK
        keys = _keys(
            known.hashes[first - known.first :] + np.uint64(added),
            leaf.tokens[first * size - leaf.start :: size],
        )
        if end % size:
            state = self._state(leaf, end, known.at(end // size))
            keys.append(_key(_plus(state, added), int(leaf.tokens[0])))
        leaf.page_hashes = known.until(end // size)
        self._remember(keys, _Burial(self._clock(), root_hash + added & _MASK))

    def _remember(self, keys: list[int], burial: _Burial) -> None:
        if len(self._young) + len(keys) > self._limit // 2:
            self._old, self._young = self._young, {}
            # Those nearer to the root are asked for rather.
            keys = keys[: self._limit // 2]
        self._young.update(dict.fromkeys(keys, burial))

    def _hash_borders(self, leaf: Node) -> PageHashes:
        """The hashes at the borders from the one at or above ``leaf``'s start to its last inside.

        *Mutates* what the leaf and its parent know.
        """
        size = self._page_size
        first, last = leaf.start // size, (leaf.end - 1) // size
        known = leaf.page_hashes
        if known is None or known.first > first:
            parent = leaf.parent
            assert parent is not None
            known = self._nearest(parent, first)
            if known.last < first:
                tokens = path_tokens(parent, known.last * size, first * size)
                known = self._extend(known, tokens).since(first)
            # Its other children begin there too.
            parent.page_hashes = known = known.since(first)
        if known.last < last:
            known = self._extend(known, path_tokens(leaf, known.last * size, last * size))
        leaf.page_hashes = known
        return known

    def _extend(self, known: PageHashes, tokens: TokenArray) -> PageHashes:
        state = HashState(int(known.hashes[-1]), 0)
        _, more = self._hasher.advance(state, known.last * self._page_size, tokens)
        return PageHashes(known.first, np.append(known.hashes, np.array(more, np.uint64)))

    def _nearest(self, node: Node | None, border: int) -> PageHashes:
        """A border on the way to ``node``, ``border`` or one above it, whose hash is known."""
        while not isinstance(node, Root):
            assert node is not None, "a path that begins at no root"
            known = node.page_hashes
            if known is not None and known.first <= border:
                return known.until(border)
            node = node.parent
        return self._origin(node)

    def _origin(self, root: Root) -> PageHashes:
        if root.page_hashes is None:
            root.page_hashes = _one_hash(0, self._root_hash(root.namespace))
        return root.page_hashes

    def _state(self, node: Node, depth: int, whole: int) -> HashState:
        """The state at ``depth`` on the way to ``node``; ``whole`` is the hash at its border."""
        border = depth // self._page_size * self._page_size
        tokens = path_tokens(node, border, depth)
        return self._hasher.advance(HashState(whole, 0), border, tokens)[0]

    def _root_hash(self, namespace: Namespace | None) -> int:
        name = _PUBLIC_NAME if namespace is None else namespace.encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(name, digest_size=8, key=self._secret).digest())

    # Questions

    def seconds_since(self, match: Match, tokens: TokenArray) -> float | None:
        """How long ago what follows the match of ``tokens`` (int32[n]) was evicted; None if it was
        not, or that is forgotten, or nothing follows.

        *Mutates* nothing but what the match's node knows of its hashes, so that the next turn of a
        conversation need not hash the turns before. *Cost*: see the module.
        """
        depth, size = match.num_tokens, self._page_size
        if depth == len(tokens) or not len(self):
            return None
        if match.node is None:
            # There is no root, but what it held may have been evicted.
            known = _one_hash(0, self._root_hash(match.root_namespace))
        else:
            known = self._nearest(match.node, depth // size)
        start = known.last * size
        state = HashState(int(known.hashes[-1]), 0)
        state, _ = self._hasher.advance(state, start, tokens[start:depth])
        if match.node is not None and _is_less(match.node.page_hashes, depth // size):
            match.node.page_hashes = _one_hash(depth // size, state.whole)
        burial = self._recall(match, depth, state, int(tokens[depth]))
        border = -(-depth // size) * size
        if burial is None and depth < border < len(tokens):
            state, _ = self._hasher.advance(state, depth, tokens[depth:border])
            burial = self._recall(match, border, state, int(tokens[border]))
        return None if burial is None else max(0.0, self._clock() - burial.evicted_s)

    def _recall(self, match: Match, depth: int, state: HashState, token: int) -> _Burial | None:
        """The entry of the ``token`` behind ``depth``, where the state is ``state``."""
        if 0 < match.num_public_tokens <= depth:
            added = self._root_hash(match.namespace) - self._root_hash(None)
            state = _plus(state, added & _MASK)
        key = _key(state, token)
        return self._young.get(key) or self._old.get(key)

    # Forgetting

    def clear(self) -> None:
        """Forget everything."""
        self._young.clear()
        self._old.clear()

    def forget(self, namespace: Namespace) -> None:
        """Forget what a namespace has lost. *Cost*: O(all entries), about 0.1 µs each."""
        root_hash = self._root_hash(namespace)
        for generation in (self._young, self._old):
            for key in [key for key, burial in generation.items() if burial.root_hash == root_hash]:
                del generation[key]


def _plus(state: HashState, added: int) -> HashState:
    """The state of the same tokens behind a root whose hash is greater by ``added``."""
    return HashState(state.whole + added & _MASK, state.part)


def _key(state: HashState, token: int) -> int:
    """The entry of a prefix that ends with ``token``, behind ``state``."""
    mixed = ((state.whole ^ (state.part * _PART & _MASK)) + (token + 1) * _TOKEN) & _MASK
    return (mixed ^ mixed >> 32) * _MIX & _MASK


def _keys(wholes: HashArray, tokens: TokenArray) -> list[int]:
    """The same for several, each behind a border; hashes beyond the tokens are ignored."""
    if len(tokens) == 1:
        return [_key(HashState(int(wholes[0]), 0), int(tokens[0]))]
    mixed = wholes[: len(tokens)] + (tokens.astype(np.uint64) + np.uint64(1)) * np.uint64(_TOKEN)
    mixed ^= mixed >> np.uint64(32)
    keys: list[int] = (mixed * np.uint64(_MIX)).tolist()
    return keys


def _one_hash(border: int, value: int) -> PageHashes:
    return PageHashes(border, np.array([value], dtype=np.uint64))


def _is_less(known: PageHashes | None, border: int) -> bool:
    """Whether knowing ``border`` alone is worth more than what is known: what an eviction has
    hashed of an edge is kept for its next cut."""
    return known is None or (len(known.hashes) == 1 and known.first < border)


def _root_of(node: Node) -> Root:
    above: Node | None = node
    while above is not None and not isinstance(above, Root):
        above = above.parent
    assert above is not None
    return above
