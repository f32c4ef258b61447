"""The pool of KV pages: who holds each page, and which pages nobody holds.

A page is held by *users* (a request's own pages, a pending copy's source, a locked tree node) and
by *nodes* (every tree node whose edge it covers). The pool counts the two separately, because their
difference is what the scheduler needs to know:

    free      no user, no node       may be allocated
    cached    no user, some node     may be had by evicting
    in use    some user              must not move

It knows no tokens, no tree and no request, and it is the only owner of these counts.

Invariants: each page is in exactly one of the three states, so ``free + cached + in_use ==
num_pages`` after every call; the free list holds each free page once; counts never go below zero.

Costs: every method is O(pages given), vectorised; the three totals are kept, not recounted.

Forbidden: the arrays given to one call must not name a page twice (numpy would count it once);
a free page must not be used or attached, only allocated.
"""

import numpy as np
import numpy.typing as npt

from radixserve.errors import ConfigError, OutOfPagesError
from radixserve.ids import PageArray, PageId


class PagePool:
    """Reference counts and the free list of ``num_pages`` pages. *Raises* ``ConfigError``."""

    __slots__ = ("_free", "_node_count", "_use_count", "cached_pages", "free_pages", "num_pages")

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ConfigError(f"num_pages is {num_pages}; a pool needs at least one page")
        self.num_pages = num_pages
        self.free_pages = num_pages
        self.cached_pages = 0
        self._use_count: npt.NDArray[np.int32] = np.zeros(num_pages, dtype=np.int32)
        self._node_count: npt.NDArray[np.int32] = np.zeros(num_pages, dtype=np.int32)
        # A stack whose top is at free_pages - 1. It starts descending, and pages are pushed in
        # reverse, so that pages which were neighbours come out as ascending neighbours again.
        self._free: PageArray = np.arange(num_pages - 1, -1, -1, dtype=np.int32)

    @property
    def in_use_pages(self) -> int:
        """Pages with at least one user."""
        return self.num_pages - self.free_pages - self.cached_pages

    def use_count(self, page: PageId | int) -> int:
        """How many users hold the page."""
        return int(self._use_count[page])

    def node_count(self, page: PageId | int) -> int:
        """How many tree nodes hold the page."""
        return int(self._node_count[page])

    def ref_count(self, page: PageId | int) -> int:
        """How many holders the page has, users and nodes together."""
        return int(self._use_count[page] + self._node_count[page])

    def allocate(self, num_pages: int) -> PageArray:
        """Take free pages, each held once by a user (the caller): int32[num_pages].

        *Raises* ``OutOfPagesError``; then nothing was allocated. *Cost*: O(num_pages).
        """
        remaining = self.free_pages - num_pages
        if remaining < 0:
            raise OutOfPagesError(
                f"{num_pages} pages are needed and {self.free_pages} of {self.num_pages} are free "
                f"({self.cached_pages} are cached, {self.in_use_pages} in use); evict or preempt"
            )
        pages = self._free[remaining : self.free_pages][::-1].copy()
        self.free_pages = remaining
        self._use_count[pages] = 1
        return pages

    def use(self, pages: PageArray) -> None:
        """Add one user to each page. The pages are held already, by whomever."""
        before = self._use_count[pages]
        assert (before + self._node_count[pages] > 0).all(), f"using a free page among {pages}"
        self._use_count[pages] = before + 1
        self.cached_pages -= len(pages) - int(np.count_nonzero(before))

    def unuse(self, pages: PageArray) -> int:
        """Take one user off each page; returns how many pages became free thereby."""
        after = self._use_count[pages] - 1
        assert (after >= 0).all(), f"unusing a page without a user among {pages}"
        self._use_count[pages] = after
        idle = pages[after == 0]
        if not len(idle):
            return 0
        unheld = idle[self._node_count[idle] == 0]
        self.cached_pages += len(idle) - len(unheld)
        self._push(unheld)
        return len(unheld)

    def attach(self, pages: PageArray) -> None:
        """Add one node to each page. The pages are held already, by whomever."""
        before = self._node_count[pages]
        assert (before + self._use_count[pages] > 0).all(), f"attaching a free page among {pages}"
        self._node_count[pages] = before + 1

    def detach(self, pages: PageArray) -> int:
        """Take one node off each page; returns how many pages became free thereby."""
        after = self._node_count[pages] - 1
        assert (after >= 0).all(), f"detaching a page without a node among {pages}"
        self._node_count[pages] = after
        unheld = pages[(after == 0) & (self._use_count[pages] == 0)]
        self.cached_pages -= len(unheld)
        self._push(unheld)
        return len(unheld)

    def _push(self, pages: PageArray) -> None:
        end = self.free_pages + len(pages)
        self._free[self.free_pages : end] = pages[::-1]
        self.free_pages = end

    def check_invariants(self) -> None:
        """Recount everything. *Raises* ``AssertionError`` saying what broke. *Cost*: O(pages)."""
        assert self._use_count.min() >= 0, f"negative use_count: {self._use_count}"
        assert self._node_count.min() >= 0, f"negative node_count: {self._node_count}"
        idle = self._use_count == 0
        free = np.flatnonzero(idle & (self._node_count == 0))
        cached = int(np.count_nonzero(idle & (self._node_count > 0)))
        listed = np.sort(self._free[: self.free_pages])
        assert np.array_equal(listed, free), (
            f"the free list holds {listed.tolist()}, but nobody holds {free.tolist()}"
        )
        assert self.cached_pages == cached, f"cached_pages is {self.cached_pages}, not {cached}"
