"""What must be true of a radix tree, checked; and the tree as text, for when it is not.

Reads everything, changes nothing. Meant for tests and for idle moments in debug mode: every
function here is O(nodes + pages + tokens).
"""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from radixserve.cache.edge import merges_with_child
from radixserve.cache.node import Node, Root

if TYPE_CHECKING:
    from radixserve.cache.radix_tree import RadixTree

UseCounts: TypeAlias = npt.NDArray[np.int32]
"""Indexed by page id."""

_SHOWN = 8


def _abbreviate(entries: npt.NDArray[np.int32]) -> str:
    shown = " ".join(map(str, entries[:_SHOWN].tolist()))
    return shown if len(entries) <= _SHOWN else f"{shown} … ({len(entries)})"


def format_tree(tree: "RadixTree") -> str:
    """One line a node: interval, tokens, pages with their counts, locks, last access."""
    lines = []
    stack: list[tuple[int, Node]] = [(0, root) for root in reversed(list(tree.roots.values()))]
    while stack:
        indent, node = stack.pop()
        state = f"locks {node.lock_count}, last access {node.last_access}"
        if isinstance(node, Root):
            name = "public" if node.namespace is None else f"namespace {node.namespace!r}"
            lines.append(f"{name}: {state}")
        else:
            counts = " ".join(
                f"{page}(nodes {tree.pool.node_count(page)}, uses {tree.pool.use_count(page)})"
                for page in node.pages[:_SHOWN].tolist()
            )
            lines.append(
                f"{'  ' * indent}{_owner_change(node)}[{node.start}, {node.end}) "
                f"tokens {_abbreviate(node.tokens)} | {node.num_pages} pages {counts} | {state}"
            )
        stack.extend((indent + 1, child) for child in reversed(list(node.children.values())))
    return "\n".join(lines) or "(empty tree)"


def _owner_change(node: Node) -> str:
    return f"{node.key[0]!r}: " if isinstance(node.key, tuple) else ""


def check_tree(tree: "RadixTree") -> UseCounts:
    """Check structure, lock counts, evictability and node counts; see ``RadixTree``."""
    try:
        tree.pool.check_invariants()
        node_counts, use_counts = _recount(tree)
        for page, count in enumerate(node_counts.tolist()):
            kept = tree.pool.node_count(page)
            assert kept == count, f"page {page} lies in {count} nodes, the pool says {kept}"
    except AssertionError as error:
        raise AssertionError(f"{error}\n{format_tree(tree)}") from error
    return use_counts


def _recount(tree: "RadixTree") -> tuple[UseCounts, UseCounts]:
    node_counts = np.zeros(tree.pool.num_pages, dtype=np.int32)
    use_counts = np.zeros(tree.pool.num_pages, dtype=np.int32)
    num_evictable = 0
    heads: dict[int, Node] = {}
    for node in tree.nodes():
        if isinstance(node, Root):
            _check_root(tree, node)
        else:
            _check_edge(tree, node)
            node_counts[node.pages] += 1
            if node.lock_count:
                use_counts[node.pages] += 1
            _check_holders(tree, node, heads)
        _check_children(node)
        evictable = node.parent is not None and not node.children and node.lock_count == 0
        num_evictable += evictable
        assert (node in tree.policy) == evictable, (
            f"{node} is {'not ' * (not evictable)}evictable, the policy believes otherwise"
        )
    _check_tenant_edges(tree)
    assert len(tree.policy) == num_evictable, (
        f"the policy holds {len(tree.policy)} nodes, {num_evictable} of the tree are evictable"
    )
    return node_counts, use_counts


def _check_root(tree: "RadixTree", root: Root) -> None:
    name = f"the root of namespace {root.namespace!r}"
    assert tree.roots.get(root.namespace) is root, f"{name} is filed under another name"
    assert root.parent is None, f"{name} has a parent"
    assert root.start == root.end == root.num_pages == 0, f"{name} is not empty: {root}"
    assert root.children or root.lock_count, f"{name} holds nothing and is kept"


def _check_edge(tree: "RadixTree", node: Node) -> None:
    size = tree.page_size
    assert len(node.tokens) == node.end - node.start, f"{node} has {len(node.tokens)} tokens"
    num_pages = (node.end - 1) // size - node.start // size + 1
    assert num_pages == node.num_pages == len(node.pages), (
        f"{node} needs {num_pages} pages and has {node.num_pages}"
    )
    assert len(set(node.pages.tolist())) == num_pages, f"{node} lists a page twice"
    assert not merges_with_child(node), (
        f"{node} is unlocked, has one child, and was not merged with it"
    )


def _check_holders(tree: "RadixTree", node: Node, heads: dict[int, Node]) -> None:
    """Nodes that share a page hang together, and it is the page that their common border is in."""
    shared = None
    if node.parent is not None and node.start % tree.page_size and node.parent.num_pages:
        above, own = int(node.parent.last_page[0]), int(node.pages[0])
        shared = own if own == above else None
    for page in node.pages.tolist():
        if page != shared:
            other = heads.setdefault(page, node)
            assert other is node, f"page {page} lies in both {other} and {node}, which do not touch"


def _is_border(node: Node, child: Node) -> bool:
    """Whether a namespace's part may begin there: below a public node that has tokens."""
    return node.namespace is None and node.end > 0 and child.namespace is not None


def _check_tenant_edges(tree: "RadixTree") -> None:
    """The index says what hangs below public nodes: that, and nothing else."""
    indexed = {
        (node, name, token)
        for name in tree.tenant_edges
        for node, tokens in tree.tenant_edges.of(name)
        for token in tokens
    }
    found = {
        (node, *key) for node in tree.nodes() for key in node.children if isinstance(key, tuple)
    }
    assert indexed == found, f"the index of tenants' edges says {indexed}, the tree {found}"
    for node in tree.nodes():
        num_below = sum(isinstance(key, tuple) for key in node.children)
        assert tree.tenant_edges.num_below(node) == num_below, (
            f"{num_below} tenants' edges begin at {node}, the index says "
            f"{tree.tenant_edges.num_below(node)}"
        )


def _check_children(node: Node) -> None:
    below = 0
    for key, child in node.children.items():
        assert child.parent is node, f"{child} below {node} has parent {child.parent}"
        assert child.start == node.end, f"{child} hangs below {node}, which ends elsewhere"
        assert child.start < child.end, f"{child} has no tokens"
        assert key == child.key, f"{child} begins with {child.tokens[0]}, filed as {key}"
        assert child.namespace == node.namespace or _is_border(node, child), (
            f"{child} of {child.namespace!r} below {node} of {node.namespace!r}"
        )
        below += child.lock_count
    assert node.lock_count >= below, f"{node} is locked less often than its children ({below})"
