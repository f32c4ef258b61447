"""Why a match ended where it did: one cause of a small closed set, from what one namespace holds.

    complete      nothing is left to find
    evicted       what follows was cached, and was evicted so many seconds ago
    diverged      the tree goes on there, with other tokens
    never_seen    neither: as far as the cache knows, nobody has come this way
    whole_pages   more matched, but was cut at a page border (``PrefixCache.acquire``)

The first that holds is the cause; where nothing matched nobody has "diverged". What other
namespaces hold never makes a difference here, by a word or by a bit; ``is_held_elsewhere`` is for
those who may know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from radixserve.cache.evicted import EvictedPrefixes
from radixserve.cache.lookup import Match, longest_match
from radixserve.cache.node import Root
from radixserve.ids import Namespace, TokenArray
from radixserve.types import MissCause


@dataclass(frozen=True, slots=True)
class Finding:
    """How far a prompt matches, and why no further."""

    num_tokens: int
    cause: MissCause
    evicted_s_ago: float | None = None
    """Set if the cause is "evicted"."""

    def whole_pages(self, page_size: int) -> "Finding":
        """The same, cut at the last page border."""
        num_cut = self.num_tokens % page_size
        if not num_cut:
            return self
        return replace(
            self, num_tokens=self.num_tokens - num_cut, cause="whole_pages", evicted_s_ago=None
        )


def explain(match: Match, tokens: TokenArray, evicted: EvictedPrefixes) -> Finding:
    """Why the match of ``tokens`` (int32[n]) goes no further. *Cost*: ``seconds_since``."""
    num_tokens, node = match.num_tokens, match.node
    if num_tokens == len(tokens):
        return Finding(num_tokens, "complete")
    evicted_s_ago = evicted.seconds_since(match, tokens)
    if evicted_s_ago is not None:
        return Finding(num_tokens, "evicted", evicted_s_ago)
    if node is not None and num_tokens > 0 and (num_tokens < node.end or node.children):
        return Finding(num_tokens, "diverged")
    return Finding(num_tokens, "never_seen")


def is_held_elsewhere(
    roots: Mapping[Namespace, Root], namespace: Namespace, tokens: TokenArray, num_tokens: int
) -> bool:
    """Whether another namespace holds more than ``num_tokens`` of ``tokens`` (int32[n]).

    *Cost*: a match in every namespace, about 2 µs each where its first token differs.
    """
    return any(
        longest_match(root, tokens)[1] > num_tokens
        for other, root in roots.items()
        if other != namespace
    )
