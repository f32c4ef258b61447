"""What leaves the radix tree: leaves trimmed by eviction, subtrees dropped by order.

Whatever goes is told to the policy and to those who watch; what eviction trims also to those who
remember it or keep it elsewhere. Its pages lose a node each. ``RadixTree.tidy`` mends what is left.

Knows the tree's structure; no leases. Costs: O(what goes), and now and then the children of a
locked node that has lost one (``_inherit_partial_page``).
"""

from typing import TYPE_CHECKING

import numpy as np

from radixserve.cache.lookup import path_tokens
from radixserve.cache.node import ChildKey, Node
from radixserve.cache.partial_page import (
    is_partial_page_needed,
    replace_partial_page,
    superseded,
)
from radixserve.ids import Namespace

if TYPE_CHECKING:
    from radixserve.cache.radix_tree import RadixTree


def _lock_count(node: Node) -> int:
    return node.lock_count


def evict(tree: "RadixTree", num_pages: int) -> int:
    """See ``RadixTree.evict``."""
    before = tree.pool.free_pages
    wanted = before + num_pages
    if num_pages > tree.pool.cached_pages:
        for node, heir in list(superseded(tree.roots.values(), tree.page_size, tree.pool)):
            if tree.pool.free_pages < wanted:
                replace_partial_page(node, heir.pages[:1], tree.page_size, tree.pool)
    while tree.pool.free_pages < wanted and (leaf := tree.policy.victim()) is not None:
        trim(tree, leaf, wanted)
    return tree.pool.free_pages - before


def trim(tree: "RadixTree", leaf: Node, wanted: int) -> None:
    """Drop pages from the end of an edge until ``wanted`` are free, or its floor is reached."""
    num_kept = leaf.num_pages
    first = leaf.start // tree.page_size
    depth = tree.policy.floor(leaf)
    floor = 0
    if depth > leaf.start:
        # A page that begins above the floor stays, unless it is the last one.
        floor = min(-(-depth // tree.page_size) - first, num_kept - 1)
    while num_kept > floor and (missing := wanted - tree.pool.free_pages) > 0:
        # Not every page becomes free (the parent may list it, a copy may wait for it), but
        # never more than are missing.
        end, num_kept = num_kept, max(floor, num_kept - missing)
        tree.pool.detach(leaf.pages[num_kept:end])
    if num_kept:
        end_depth = (first + num_kept) * tree.page_size
        if tree.events is not None:
            tree.events.removed(leaf, end_depth)
        if tree.evicted is not None:
            tree.evicted.bury(leaf, end_depth)
        if tree.demoter is not None:
            tree.demoter.demote(leaf, end_depth)
        tree.policy.trim(leaf, end_depth)
        leaf.truncate(end_depth, num_kept)
        if tree.log is not None:
            tree.log.changed(leaf)
        return
    if tree.events is not None:
        tree.events.removed(leaf, leaf.start)
    if tree.evicted is not None:
        tree.evicted.bury(leaf, leaf.start)
    if tree.demoter is not None:
        tree.demoter.demote(leaf, leaf.start)
    tree.policy.trim(leaf, leaf.start)
    tree.policy.remove(leaf)
    parent = leaf.parent
    assert parent is not None
    tree.remove_child(parent, leaf.key)
    if tree.log is not None:
        tree.log.gone(leaf)
    tree.tidy(parent)
    if parent.lock_count and parent.children and parent.end % tree.page_size:
        # The leaf may have been the last to need the parent's partial page beside the parent.
        _inherit_partial_page(tree, parent)


def _inherit_partial_page(tree: "RadixTree", node: Node) -> None:
    """Let a child supply the page that a locked node ends in, if nothing else needs the node's.

    A public node may have thousands of children, so they are looked at only if it comes to that;
    and of the unlocked the youngest is taken, the last that eviction would have do it all again.
    """
    if is_partial_page_needed(node, tree.page_size, tree.pool):
        return
    heir = max(reversed(list(node.children.values())), key=_lock_count)
    replace_partial_page(node, heir.pages[:1], tree.page_size, tree.pool)


def forget(tree: "RadixTree", namespace: Namespace) -> int:
    """See ``RadixTree.forget``."""
    before = tree.pool.free_pages
    root = tree.roots.get(namespace)
    if root is not None:
        forget_below(tree, root, list(root.children))
    for node, tokens in tree.tenant_edges.of(namespace):
        forget_below(tree, node, [(namespace, token) for token in tokens])
    return tree.pool.free_pages - before


def forget_all(tree: "RadixTree") -> int:
    """See ``RadixTree.forget_all``."""
    before = tree.pool.free_pages
    for root in list(tree.roots.values()):
        forget_below(tree, root, list(root.children))
    return tree.pool.free_pages - before


def forget_below(tree: "RadixTree", top: Node, keys: list[ChildKey]) -> None:
    """Drop the unlocked nodes of some of a node's subtrees.

    *Mutates* topology, pool, policy. *Cost*: O(nodes and pages of these subtrees).
    """
    stack = [(top, keys)]
    while stack:
        node, keys = stack.pop()
        for key in keys:
            child = node.children[key]
            if child.lock_count:
                stack.append((child, list(child.children)))
            else:
                tree.remove_child(node, key)
                _drop_subtree(tree, child)
    tree.tidy(top)


def drop_misplaced(tree: "RadixTree") -> None:
    """Drop the unlocked nodes that lie where no walk comes since other prefixes are public.

    *Mutates* topology, pool, policy. *Cost*: ``RadixTree.set_public``.
    """
    stack: list[Node] = list(tree.roots.values())
    while stack:
        node = stack.pop()
        above = path_tokens(node, 0, node.end)
        misplaced: list[ChildKey] = []
        for key, child in node.children.items():
            is_public = child.namespace is None
            part = child.tokens if is_public else child.tokens[:1]
            num_public = tree.public.length(np.concatenate([above, part]))
            if num_public != (child.end if is_public else child.start):
                misplaced.append(key)
            elif is_public:
                stack.append(child)
        if misplaced:
            forget_below(tree, node, misplaced)


def _drop_subtree(tree: "RadixTree", top: Node) -> None:
    stack, dropped = [top], []
    while stack:
        node = stack.pop()
        dropped.append(node)
        if not node.children:
            tree.policy.remove(node)
        if tree.events is not None:
            tree.events.removed(node, node.start)
        tree.policy.drop(node)
        tree.pool.detach(node.pages)
        for key, child in node.children.items():
            stack.append(child)
            if isinstance(key, tuple):
                tree.tenant_edges.remove(node, *key)
    if tree.log is not None:
        for node in reversed(dropped):
            tree.log.gone(node)
