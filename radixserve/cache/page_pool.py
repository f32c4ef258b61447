"""The pool of KV pages: who holds each page, and which pages nobody holds.

A page is held by *users* (a request's own pages, a pending copy's source, a locked tree node) and
by *nodes* (every tree node whose edge it covers). The pool counts the two separately, because their
difference is what the scheduler needs to know:

    free      no user, no node       may be allocated
    cached    no user, some node     may be had by evicting
    in use    some user              must not move

It knows no tokens, no tree and no request, and it is the only owner of these counts.

Who reads the keys of a page table likes *runs*, pages that are neighbours. So whoever names its
last page gets the next one, if that is free; and who begins anew begins an *extent*, up to 16 pages
in a row that are all free, as long as there is one. Others do the same elsewhere, so what lies
behind its last page stays free for it. When no extent is all free any more, pages come from any
that has some. It is a preference: no page is held back for anybody.

Invariants: each page is in exactly one of the three states, so ``free + cached + in_use ==
num_pages`` after every call; extents are listed once each, those with a free page as such and those
that are all free as whole, both among others that were so before; counts never go below zero.

Costs: every method is O(pages given), vectorised but for a few microseconds for every run that is
allocated; the three totals are kept, not recounted.

Forbidden: the arrays given to one call must not name a page twice (numpy would count it once);
a free page must not be used or attached, only allocated.
"""

from collections import Counter
from typing import Final

import numpy as np
import numpy.typing as npt

from radixserve.errors import ConfigError, OutOfPagesError
from radixserve.ids import PageArray, PageId

_MAX_EXTENT_PAGES: Final = 16
_MIN_EXTENTS: Final = 64
"""A small pool has smaller ones: it takes as many requests to begin all of them."""


class PagePool:
    """Reference counts and free extents of ``num_pages`` pages. *Raises* ``ConfigError``."""

    __slots__ = (
        "_extent_pages",
        "_free_in_extent",
        "_is_free",
        "_is_listed",
        "_is_listed_whole",
        "_listed",
        "_listed_whole",
        "_node_count",
        "_use_count",
        "cached_pages",
        "free_pages",
        "num_pages",
    )

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ConfigError(f"num_pages is {num_pages}; a pool needs at least one page")
        self.num_pages = num_pages
        self.free_pages = num_pages
        self.cached_pages = 0
        self._use_count: npt.NDArray[np.int32] = np.zeros(num_pages, dtype=np.int32)
        self._node_count: npt.NDArray[np.int32] = np.zeros(num_pages, dtype=np.int32)
        self._is_free: npt.NDArray[np.bool_] = np.ones(num_pages, dtype=np.bool_)
        size = self._extent_pages = min(_MAX_EXTENT_PAGES, max(1, num_pages // _MIN_EXTENTS))
        num_extents = -(-num_pages // size)
        self._free_in_extent = [size] * num_extents
        self._free_in_extent[-1] = num_pages - size * (num_extents - 1)
        # Stacks: the first extent is on top.
        self._listed = list(range(num_extents - 1, -1, -1))
        self._listed_whole = list(range(num_pages // size - 1, -1, -1))
        self._is_listed = [True] * num_extents
        self._is_listed_whole = [extent < num_pages // size for extent in range(num_extents)]

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

    def allocate(self, num_pages: int, after: int | None = None) -> PageArray:
        """Take free pages, int32[num_pages], in runs as far as possible; each has one user then.

        ``after``: the page behind which they will be read. *Raises* ``OutOfPagesError``; then
        nothing was allocated. *Cost*: O(num_pages).
        """
        if num_pages > self.free_pages:
            raise OutOfPagesError(
                f"{num_pages} pages are needed and {self.free_pages} of {self.num_pages} are free "
                f"({self.cached_pages} are cached, {self.in_use_pages} in use); evict or preempt"
            )
        runs = []
        num_missing = num_pages
        while num_missing:
            runs.append(self._take_run(self._first_page(after), num_missing))
            num_missing -= len(runs[-1])
        if len(runs) == 1:
            return runs[0]
        return np.concatenate(runs) if runs else np.empty(0, dtype=np.int32)

    def _first_page(self, after: int | None) -> int:
        """Where a run is to begin; some page is free."""
        if after is not None and after + 1 < self.num_pages and self._is_free[after + 1]:
            return after + 1
        size = self._extent_pages
        while self._listed_whole:
            extent = self._listed_whole.pop()
            self._is_listed_whole[extent] = False
            if self._free_in_extent[extent] == size:
                return extent * size
        while not self._free_in_extent[self._listed[-1]]:
            self._is_listed[self._listed.pop()] = False
        first = self._listed[-1] * size
        return first + int(self._is_free[first : first + size].argmax())

    def _take_run(self, first: int, max_pages: int) -> PageArray:
        """The page ``first``, which is free, and as many free ones right behind it."""
        size = self._extent_pages
        is_free = self._is_free[first : first + max_pages]
        num_pages = 1
        if max_pages > 1:
            num_pages = len(is_free) if is_free.all() else int(is_free.argmin())
        is_free[:num_pages] = False
        end = first + num_pages
        self._use_count[first:end] = 1
        self.free_pages -= num_pages
        for extent in range(first // size, (end - 1) // size + 1):
            begin = extent * size
            self._free_in_extent[extent] -= min(end, begin + size) - max(first, begin)
        return np.arange(first, end, dtype=np.int32)

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
        """Nobody holds these any more."""
        if not len(pages):
            return
        self._is_free[pages] = True
        self.free_pages += len(pages)
        size = self._extent_pages
        # So that the first extent comes out first.
        for extent, count in Counter((pages[::-1] // size).tolist()).items():
            self._free_in_extent[extent] += count
            if not self._is_listed[extent]:
                self._is_listed[extent] = True
                self._listed.append(extent)
            if self._free_in_extent[extent] == size and not self._is_listed_whole[extent]:
                self._is_listed_whole[extent] = True
                self._listed_whole.append(extent)

    def check_invariants(self) -> None:
        """Recount everything. *Raises* ``AssertionError`` saying what broke. *Cost*: O(pages)."""
        assert self._use_count.min() >= 0, f"negative use_count: {self._use_count}"
        assert self._node_count.min() >= 0, f"negative node_count: {self._node_count}"
        idle = self._use_count == 0
        free = idle & (self._node_count == 0)
        cached = int(np.count_nonzero(idle & (self._node_count > 0)))
        assert np.array_equal(self._is_free, free), (
            f"free are {np.flatnonzero(self._is_free).tolist()}, "
            f"but nobody holds {np.flatnonzero(free).tolist()}"
        )
        assert self.free_pages == np.count_nonzero(free), f"free_pages is {self.free_pages}"
        assert self.cached_pages == cached, f"cached_pages is {self.cached_pages}, not {cached}"
        counts = np.add.reduceat(
            free, np.arange(0, self.num_pages, self._extent_pages), dtype=np.int32
        )
        assert self._free_in_extent == counts.tolist(), (
            f"extents have {counts.tolist()} free pages, not {self._free_in_extent}"
        )
        for name, listed, is_listed, least in (
            ("listed", self._listed, self._is_listed, 1),
            ("listed as whole", self._listed_whole, self._is_listed_whole, self._extent_pages),
        ):
            flagged = [extent for extent, is_there in enumerate(is_listed) if is_there]
            assert sorted(listed) == flagged, f"{listed} are {name}, and {flagged} say so"
            missing = set(np.flatnonzero(counts >= least).tolist()) - set(listed)
            assert not missing, f"extents {sorted(missing)} are not {name}"
