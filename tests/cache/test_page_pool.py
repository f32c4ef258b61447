"""The pool against two plain dicts of counts."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from radixserve.cache.page_pool import PagePool
from radixserve.errors import ConfigError, OutOfPagesError
from radixserve.ids import PageArray


def pages_of(pages: set[int] | list[int]) -> PageArray:
    return np.array(sorted(pages), dtype=np.int32)


WANTED = st.one_of(
    st.sets(st.integers(0, 11)),
    st.tuples(st.integers(0, 200), st.integers(1, 60)).map(
        lambda run: set(range(run[0], run[0] + run[1]))
    ),
)


class PoolMachine(RuleBasedStateMachine):
    """Any sequence of allowed calls, on any set of pages."""

    # Large ones have extents of more than one page, and a last one that is shorter.
    @initialize(num_pages=st.one_of(st.integers(1, 12), st.integers(128, 260)))
    def start(self, num_pages: int) -> None:
        self.pool = PagePool(num_pages)
        self.uses = dict.fromkeys(range(num_pages), 0)
        self.nodes = dict.fromkeys(range(num_pages), 0)

    def free(self) -> set[int]:
        return {page for page in self.uses if not self.uses[page] and not self.nodes[page]}

    @rule(
        num_pages=st.one_of(st.integers(0, 13), st.integers(14, 100)),
        after=st.one_of(st.none(), st.integers(0, 259)),
    )
    def allocate(self, num_pages: int, after: int | None) -> None:
        free = self.free()
        if after not in self.uses:
            after = None
        if num_pages > len(free):
            with pytest.raises(OutOfPagesError, match=f"{num_pages} pages are needed"):
                self.pool.allocate(num_pages, after)
            return
        pages = self.pool.allocate(num_pages, after)
        if after is not None:
            behind = [after + 1 + index for index in range(num_pages)]
            gap = next((index for index, page in enumerate(behind) if page not in free), num_pages)
            assert pages[:gap].tolist() == behind[:gap]
        assert pages.dtype == np.int32
        assert len(set(pages.tolist())) == num_pages
        assert set(pages.tolist()) <= free
        for page in pages.tolist():
            self.uses[page] = 1

    @rule(wanted=WANTED)
    def use(self, wanted: set[int]) -> None:
        pages = {page for page in wanted if page in self.uses} - self.free()
        self.pool.use(pages_of(pages))
        for page in pages:
            self.uses[page] += 1

    @rule(wanted=WANTED)
    def attach(self, wanted: set[int]) -> None:
        pages = {page for page in wanted if page in self.uses} - self.free()
        self.pool.attach(pages_of(pages))
        for page in pages:
            self.nodes[page] += 1

    @rule(wanted=WANTED)
    def unuse(self, wanted: set[int]) -> None:
        pages = {page for page in wanted if self.uses.get(page)}
        before = self.free()
        num_freed = self.pool.unuse(pages_of(pages))
        for page in pages:
            self.uses[page] -= 1
        assert num_freed == len(self.free() - before)

    @rule(wanted=WANTED)
    def detach(self, wanted: set[int]) -> None:
        pages = {page for page in wanted if self.nodes.get(page)}
        before = self.free()
        num_freed = self.pool.detach(pages_of(pages))
        for page in pages:
            self.nodes[page] -= 1
        assert num_freed == len(self.free() - before)

    @invariant()
    def agrees(self) -> None:
        self.pool.check_invariants()
        for page in self.uses:
            assert self.pool.use_count(page) == self.uses[page]
            assert self.pool.node_count(page) == self.nodes[page]
            assert self.pool.ref_count(page) == self.uses[page] + self.nodes[page]
        assert self.pool.free_pages == len(self.free())
        assert self.pool.in_use_pages == sum(count > 0 for count in self.uses.values())
        total = self.pool.free_pages + self.pool.cached_pages + self.pool.in_use_pages
        assert total == self.pool.num_pages


PoolMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestPool = PoolMachine.TestCase


def test_pages_come_out_ascending_and_again_after_coming_back() -> None:
    pool = PagePool(8)
    assert pool.allocate(3).tolist() == [0, 1, 2]
    pages = pool.allocate(4)
    assert pages.tolist() == [3, 4, 5, 6]
    assert pool.unuse(pages) == 4
    assert pool.allocate(5).tolist() == [3, 4, 5, 6, 7]


def num_runs(pages: list[int]) -> int:
    return 1 + sum(after != page + 1 for page, after in itertools.pairwise(pages))


def test_those_that_grow_side_by_side_have_runs() -> None:
    pool = PagePool(1024)
    tables = [pool.allocate(5).tolist() for _ in range(20)]
    for _ in range(11):
        for table in tables:
            table.extend(pool.allocate(1, after=table[-1]).tolist())
    assert [num_runs(table) for table in tables] == [1] * 20
    # Then each begins another.
    for table in tables:
        table.extend(pool.allocate(16, after=table[-1]).tolist())
    assert max(map(num_runs, tables)) == 2
    assert len({page for table in tables for page in table}) == 20 * 32


def test_a_long_prompt_is_one_run_if_there_is_one() -> None:
    pool = PagePool(1024)
    pages = pool.allocate(400)
    assert pages.tolist() == list(range(400))
    pool.unuse(pages[:200])
    pool.unuse(pages[200:])
    pages = pool.allocate(1024)
    assert pages.tolist() == list(range(1024))
    pool.unuse(pages)
    # Extents that were begun one by one come back in their order, too.
    for _ in range(64):
        pool.allocate(16)
    pool.unuse(pages[320:352])
    assert pool.allocate(32).tolist() == list(range(320, 352))


def test_no_page_is_held_back() -> None:
    pool = PagePool(130)
    # Every extent is begun, none is left whole.
    singles = [int(pool.allocate(1)[0]) for _ in range(64)]
    assert singles == list(range(0, 128, 2))
    assert sorted(pool.allocate(66).tolist()) == sorted(set(range(130)) - set(singles))
    assert pool.free_pages == 0
    # An extent that is whole again comes before others with a free page.
    pool.unuse(pages_of([6, 20, 21, 40]))
    assert pool.allocate(1).tolist() == [20]
    pool.check_invariants()


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_pages is 0"):
        PagePool(0)


def test_running_out_says_where_the_pages_are() -> None:
    pool = PagePool(4)
    pages = pool.allocate(3)
    pool.attach(pages[:1])
    pool.unuse(pages[:1])
    message = "2 pages are needed and 1 of 4 are free (1 are cached, 2 in use); evict or preempt"
    with pytest.raises(OutOfPagesError, match=re.escape(message)):
        pool.allocate(2)


def test_misuse_is_caught() -> None:
    pool = PagePool(4)
    page = pages_of([2])
    for call, message in (
        (pool.use, "using a free page"),
        (pool.attach, "attaching a free page"),
        (pool.unuse, "without a user"),
        (pool.detach, "without a node"),
    ):
        with pytest.raises(AssertionError, match=message):
            call(page)
    pool.check_invariants()


def test_broken_counts_are_named() -> None:
    pool = PagePool(4)
    pool._use_count[1] = 1
    with pytest.raises(AssertionError, match="but nobody holds"):
        pool.check_invariants()
    pool = PagePool(4)
    pool.cached_pages = 1
    with pytest.raises(AssertionError, match="cached_pages is 1, not 0"):
        pool.check_invariants()
    pool = PagePool(4)
    pool.free_pages = 3
    with pytest.raises(AssertionError, match="free_pages is 3"):
        pool.check_invariants()
    pool = PagePool(200)
    pool._free_in_extent[1] = 2
    with pytest.raises(AssertionError, match="extents have"):
        pool.check_invariants()
    for name in ("_listed", "_listed_whole"):
        pool = PagePool(200)
        getattr(pool, name).remove(5)
        with pytest.raises(AssertionError, match="say so"):
            pool.check_invariants()
        getattr(pool, f"_is{name}")[5] = False
        with pytest.raises(AssertionError, match=r"extents \[5\] are not listed"):
            pool.check_invariants()
    for name in ("_use_count", "_node_count"):
        pool = PagePool(4)
        getattr(pool, name)[1] = -1
        with pytest.raises(AssertionError, match=f"negative {name[1:]}"):
            pool.check_invariants()
