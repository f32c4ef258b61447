"""Pages to write and to copy into: free ones, or made free by evicting.

Stands between the pool, which only knows what is free, and the tree, which only knows what can go.
It knows no leases: who is given a page holds it as a user, as ``PagePool.allocate`` says.

Invariants: who asks for more than can be had gets nothing, and nothing is evicted in vain.

Costs: O(pages asked for) while as many are free, else the eviction too (``RadixTree.evict``); if
even what is cached is too little, O(locked nodes + their children) to see what else could go.
"""

import numpy as np

from radixserve.cache.lease import PageCopy
from radixserve.cache.page_pool import PagePool
from radixserve.cache.radix_tree import RadixTree
from radixserve.errors import OutOfPagesError
from radixserve.ids import PageArray, PageId


class Allocator:
    """Takes pages from ``pool``, and makes ``tree`` give some up when there are too few."""

    __slots__ = ("_pool", "_tree", "evicted_pages")

    def __init__(self, pool: PagePool, tree: RadixTree) -> None:
        self._pool = pool
        self._tree = tree
        self.evicted_pages = 0
        """Pages that eviction made free since the start."""

    def allocate(self, num_pages: int, behind: PageArray | None = None) -> PageArray:
        """Pages that nobody else holds, int32[num_pages]; if possible the next ones ``behind``
        others (int32[m]), which they will follow in a page table.

        *Mutates* pool, tree. *Raises* ``OutOfPagesError``; then nothing was allocated, nor, unless
        the pool itself refused, evicted. *Cost*: see the module.
        """
        num_short = num_pages - self._pool.free_pages
        if num_short > 0:
            # All cached pages are evictable. If they are too few, evict nothing in vain.
            num_evictable = self._pool.cached_pages
            if num_short > num_evictable:
                num_evictable += self._tree.num_superseded_pages()
            if num_short <= num_evictable:
                self.evict(num_short)
        return self._pool.allocate(
            num_pages, int(behind[-1]) if behind is not None and len(behind) else None
        )

    def plan_copy(self, source: PageId) -> PageCopy:
        """A copy of ``source`` into a new page; the caller holds both as a user from now on.

        *Mutates* pool, tree. *Raises* ``OutOfPagesError`` as ``allocate`` does; then ``source`` is
        held no more than before. *Cost*: ``allocate`` of one page.
        """
        # The source must outlive the step, and before that the eviction that makes room for the
        # target, even if the tree lets go of it meanwhile.
        held = np.array([source], dtype=np.int32)
        self._pool.use(held)
        try:
            target = self.allocate(1)
        except OutOfPagesError:
            self._pool.unuse(held)
            raise
        return PageCopy(source, PageId(int(target[0])))

    def evict(self, num_pages: int) -> int:
        """As ``RadixTree.evict``, and counted."""
        num_freed = self._tree.evict(num_pages)
        self.evicted_pages += num_freed
        return num_freed
