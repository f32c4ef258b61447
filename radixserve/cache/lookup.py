"""Reading the radix tree: the longest match of some tokens, and the page table of a path.

Nothing here changes anything: not the tree, not the pool, not the order of eviction.
"""

from dataclasses import dataclass

import numpy as np

from radixserve.cache.node import Node
from radixserve.ids import Namespace, PageArray, TokenArray


@dataclass(frozen=True, slots=True)
class Match:
    """The longest prefix that the tree holds. Good until the tree is next changed."""

    namespace: Namespace
    num_tokens: int
    node: Node | None
    """The node in whose edge the match ends; None if there is not even a root."""
    num_public_tokens: int = 0
    """How many leading ones of the tokens asked for are public."""

    @property
    def root_namespace(self) -> Namespace | None:
        """Whose root such tokens hang below; None: the public one."""
        return None if self.num_public_tokens else self.namespace


def common_prefix(edge: TokenArray, tokens: TokenArray) -> int:
    """How many leading tokens agree; neither is empty. *Cost*: O(min(len)), vectorised."""
    length = min(len(edge), len(tokens))
    differs = edge[:length] != tokens[:length]
    first = int(differs.argmax())
    return first if differs[first] else length


def longest_match(top: Node, tokens: TokenArray) -> tuple[Node, int]:
    """The node in whose edge the longest match ends that goes on below ``top``, and how many tokens
    match. Those above ``top.end`` are not looked at; where the owner changes, it ends.

    *Cost*: O(matched tokens + the rest of the last edge), vectorised, plus about 2 µs a node.
    """
    node, depth = top, top.end
    while depth < len(tokens):
        child = node.children.get(int(tokens[depth]))
        if child is None:
            break
        depth += common_prefix(child.tokens, tokens[depth:])
        node = child
        if depth < child.end:
            break
    return node, depth


def longest_tenant_match(
    node: Node, num_tokens: int, namespace: Namespace, tokens: TokenArray
) -> tuple[Node, int]:
    """The same, where all public ones of ``tokens`` match, ``num_tokens`` of them, in ``node``: go
    on with what a namespace has below."""
    if num_tokens < node.end or num_tokens == len(tokens):
        return node, num_tokens
    child = node.children.get((namespace, int(tokens[num_tokens])))
    if child is None:
        return node, num_tokens
    num_tokens += common_prefix(child.tokens, tokens[num_tokens:])
    return longest_match(child, tokens) if num_tokens == child.end else (child, num_tokens)


def page_table(node: Node, page_size: int, first: int = 0) -> PageArray:
    """The pages of the path to ``node``, from page index ``first`` on: a new int32 array.

    The deepest edge that covers a page index supplies it, so the walk is upwards, and each node
    fills what those below it have left open.

    *Cost*: O(pages returned + nodes that cover them).
    """
    limit = -(-node.end // page_size)
    table = np.empty(limit - first, dtype=np.int32)
    covering: Node | None = node
    while limit > first:
        assert covering is not None
        low = covering.start // page_size
        begin = max(low, first)
        if begin < limit:
            table[begin - first : limit - first] = covering.pages[begin - low : limit - low]
            limit = begin
        covering = covering.parent
    return table


def path_tokens(node: Node | None, low: int, high: int) -> TokenArray:
    """Tokens ``[low, high)`` of the way to ``node``, which is at least so deep: int32."""
    parts: list[TokenArray] = []
    while high > low:
        assert node is not None
        if node.start < high:
            begin = max(low, node.start)
            parts.append(node.tokens[begin - node.start : high - node.start])
            high = begin
        node = node.parent
    return np.concatenate(parts[::-1]) if parts else np.empty(0, dtype=np.int32)
