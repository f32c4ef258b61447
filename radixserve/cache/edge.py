"""Edges of the radix tree: cut in two, and joined where nothing parts them.

``radix_tree.py`` says when and shows what comes of it. Here is how: what the two halves of an edge
list, which page goes where two edges met inside one, and that pool, policy and log hear of it.
Knows nodes and counts; no leases, and of namespaces only that edges of two are never one.

Costs: a split or a merge copies the edges concerned.
"""

import itertools
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from radixserve.cache.node import Node

if TYPE_CHECKING:
    from radixserve.cache.radix_tree import RadixTree


def split(tree: "RadixTree", node: Node, depth: int) -> Node:
    """Cut an edge at ``depth``, strictly inside it; returns the upper half.

    *Mutates* topology, pool, policy. *Cost*: O(the edge's length); both halves get arrays of their
    own.
    """
    parent, page_size, pool = node.parent, tree.page_size, tree.pool
    assert parent is not None
    tokens, pages = node.tokens, node.pages
    num_upper = depth - node.start
    first = node.start // page_size
    below = depth // page_size - first
    num_shared = 1 if depth % page_size else 0
    upper = Node(
        parent, node.start, tokens[:num_upper], pages[: below + num_shared], node.namespace
    )
    upper.lock_count = node.lock_count
    upper.idle_since_s = node.idle_since_s
    if num_shared:
        pool.attach(upper.last_page)
        if upper.lock_count:
            pool.use(upper.last_page)
    parent.add_child(upper)
    node.set_edge(depth, tokens[num_upper:], pages[below:])
    node.parent = upper
    upper.add_child(node)
    tree.policy.split(upper, node)
    if tree.log is not None:
        tree.log.split(upper, node)
    return upper


def merges_with_child(node: Node | None) -> TypeGuard[Node]:
    """Whether nothing parts a node from the one below it: unlocked, one child, one owner, and no
    root."""
    return (
        node is not None
        and node.parent is not None
        and node.lock_count == 0
        and _only_child(node) is not None
    )


def _only_child(node: Node) -> Node | None:
    """The one child, if there is one and it has the same owner."""
    if len(node.children) != 1:
        return None
    (child,) = node.children.values()
    return child if child.namespace == node.namespace else None


def merge_chain(tree: "RadixTree", top: Node) -> None:
    """Make one node of ``top`` and the single children below it, all unlocked.

    Above a leaf ``top`` stays and grows, so that a chat turn appended to a long history costs only
    itself; above a fork the bottom stays, so that no child has to learn a new parent.

    *Mutates* topology, pool, policy. *Cost*: O(tokens below ``top``) in the first case, O(all
    tokens merged) in the second.
    """
    page_size, policy = tree.page_size, tree.policy
    chain = [top]
    while (below := _only_child(chain[-1])) is not None:
        chain.append(below)
    bottom = chain[-1]
    for upper in chain[:-1]:
        # The lower edge supplies the page that both cover.
        if upper.end % page_size:
            tree.pool.detach(upper.last_page)
    if not bottom.children:
        policy.remove(bottom)
        policy.merge(chain, top)
        top.children = bottom.children
        for lower in chain[1:]:
            kept = lower.start // page_size - top.start // page_size
            top.extend(lower.tokens, lower.pages, num_kept_pages=kept)
        policy.add(top)
        if tree.log is not None:
            tree.log.merged(chain, top)
        return
    policy.merge(chain, bottom)
    parent = top.parent
    assert parent is not None
    pages = [
        upper.pages[: lower.start // page_size - upper.start // page_size]
        for upper, lower in itertools.pairwise(chain)
    ]
    bottom.set_edge(
        top.start,
        np.concatenate([node.tokens for node in chain]),
        np.concatenate([*pages, bottom.pages]),
    )
    bottom.parent = parent
    bottom.idle_since_s = top.idle_since_s
    parent.add_child(bottom)
    if tree.log is not None:
        tree.log.merged(chain, bottom)
