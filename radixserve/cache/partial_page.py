"""The partial last page of a node: who lists it, and when a child's page can take its place.

A child that begins inside a page brings one of its own, which begins with its ancestors' tokens, so
theirs is needed no longer unless something else holds it: a sibling's edge, or a copy. Knows nodes
and page counts; no policy, no leases.
"""

from collections.abc import Iterable, Iterator

from radixserve.cache.node import Node
from radixserve.cache.page_pool import PagePool
from radixserve.ids import PageArray


def replace_partial_page(node: Node, page: PageArray, page_size: int, pool: PagePool) -> None:
    """Let ``page`` (int32[1]) take the place of ``node``'s partial last page, if only this path
    holds it. ``node`` is locked.

    After splits inside the page several nodes in a row list it; all of them are locked (as
    ``node`` is), so each accounts for one node and one use. Any further holder (a sibling edge, a
    pending copy) keeps it. *Mutates* nodes, pool. *Cost*: O(holders).
    """
    if is_partial_page_needed(node, page_size, pool):
        return
    old = node.last_page.copy()
    for holder in _holders_of_last_page(node, page_size):
        pool.attach(page)
        pool.use(page)
        holder.last_page[:] = page
        pool.unuse(old)
        pool.detach(old)


def is_partial_page_needed(node: Node, page_size: int, pool: PagePool) -> bool:
    """Whether anything but the way to ``node``, which is locked, holds its partial last page.

    *Cost*: O(holders on the way).
    """
    page = int(node.last_page[0])
    num_holders = len(_holders_of_last_page(node, page_size))
    return not pool.node_count(page) == pool.use_count(page) == num_holders


def _holders_of_last_page(node: Node, page_size: int) -> list[Node]:
    """``node`` and those right above it that list its last page too, after splits inside it."""
    page_start = (node.end - 1) // page_size * page_size
    holders = [node]
    while holders[-1].start > page_start:
        above = holders[-1].parent
        assert above is not None
        if above.last_page[0] != node.last_page[0]:
            break
        holders.append(above)
    return holders


def superseded(
    roots: Iterable[Node], page_size: int, pool: PagePool
) -> Iterator[tuple[Node, Node]]:
    """Locked nodes whose partial last page is of no use to any lease, each with a child that can
    supply another. *Cost*: O(locked nodes + their children).

    Such a page is kept for the sake of unlocked edges that list it too, or because a copy was
    waiting for it when it could have been replaced.
    """
    stack = [root for root in roots if root.lock_count]
    while stack:
        node = stack.pop()
        below = [child for child in node.children.values() if child.lock_count]
        stack.extend(below)
        if below and node.end % page_size:
            page = int(node.last_page[0])
            is_read = any(int(child.pages[0]) == page for child in below)
            num_locked = len(_holders_of_last_page(node, page_size))
            if not is_read and pool.use_count(page) == num_locked:
                yield node, below[0]
