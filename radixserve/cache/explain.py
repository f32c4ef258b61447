"""Why a match ended where it did: one cause of a small closed set, from what one namespace holds.

    complete      nothing is left to find
    evicted       what follows was cached, and was evicted so many seconds ago
    diverged      the tree goes on there, with other tokens
    never_seen    neither: as far as the cache knows, nobody has come this way
    whole_pages   more matched, but was cut at a page border (``PrefixCache.acquire``)

The first that holds is the cause; where nothing matched nobody has "diverged". What other
namespaces hold never makes a difference here, by a word or by a bit, but for public tokens, which
are everybody's; ``is_held_elsewhere`` is for those who may know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from radixserve.cache.evicted import EvictedPrefixes
from radixserve.cache.lookup import Match, longest_match, longest_tenant_match
from radixserve.cache.node import Node, Root
from radixserve.cache.tenant_edges import TenantEdges
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


def explain(
    match: Match, tokens: TokenArray, evicted: EvictedPrefixes, tenant_edges: TenantEdges
) -> Finding:
    """Why the match of ``tokens`` (int32[n]) goes no further. *Cost*: ``seconds_since``."""
    num_tokens, node = match.num_tokens, match.node
    if num_tokens == len(tokens):
        return Finding(num_tokens, "complete")
    evicted_s_ago = evicted.seconds_since(match, tokens)
    if evicted_s_ago is not None:
        return Finding(num_tokens, "evicted", evicted_s_ago)
    if node is not None and num_tokens > 0 and _goes_on(node, match, tenant_edges):
        return Finding(num_tokens, "diverged")
    return Finding(num_tokens, "never_seen")


def _goes_on(node: Node, match: Match, tenant_edges: TenantEdges) -> bool:
    """Whether anything that the namespace may see follows the match. *Cost*: O(1)."""
    if match.num_tokens < node.end or node.namespace is not None:
        return match.num_tokens < node.end or bool(node.children)
    has_public = len(node.children) > tenant_edges.num_below(node)
    return has_public or tenant_edges.begin_at(node, match.namespace)


def is_held_elsewhere(
    roots: Mapping[Namespace | None, Root], match: Match, tokens: TokenArray, num_tokens: int
) -> bool:
    """Whether another namespace holds more than ``num_tokens`` of ``tokens`` (int32[n]), whose
    match is given. What is public is nobody else's.

    *Cost*: a match in every namespace, about 2 µs each where its first token differs.
    """
    num_public = match.num_public_tokens
    public_root = roots.get(None)
    if num_public and public_root is not None:
        node, depth = longest_match(public_root, tokens[:num_public])
        others = {key[0] for key in node.children if isinstance(key, tuple)} - {match.namespace}
        if depth == num_public and any(
            longest_tenant_match(node, depth, other, tokens)[1] > num_tokens for other in others
        ):
            return True
    return any(
        longest_match(root, tokens)[1] > num_tokens
        for other, root in roots.items()
        if other is not None and other != match.namespace
    )
