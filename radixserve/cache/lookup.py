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
    """The node in whose edge the match ends; None if the namespace does not exist."""


def common_prefix(edge: TokenArray, tokens: TokenArray) -> int:
    """How many leading tokens agree; neither is empty. *Cost*: O(min(len)), vectorised."""
    length = min(len(edge), len(tokens))
    differs = edge[:length] != tokens[:length]
    first = int(differs.argmax())
    return first if differs[first] else length


def longest_match(root: Node, tokens: TokenArray) -> tuple[Node, int]:
    """The node below ``root`` in whose edge the longest match ends, and how many tokens match.

    *Cost*: O(matched tokens + the rest of the last edge), vectorised, plus about 2 µs a node.
    """
    node, depth = root, 0
    while depth < len(tokens):
        child = node.children.get(int(tokens[depth]))
        if child is None:
            break
        depth += common_prefix(child.tokens, tokens[depth:])
        node = child
        if depth < child.end:
            break
    return node, depth


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
