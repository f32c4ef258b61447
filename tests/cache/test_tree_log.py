"""The log of nodes: replaying it gives the tree, and half-way it always gives a tree."""

import importlib.util
import itertools
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from radixserve.cache.node import Node
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cache.radix_tree import RadixTree
from radixserve.cache.tree_log import NUM_COLUMNS, PathTokens, TreeLog, TreeNews
from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from tests.cache.filling import keep, put, tokens_of

MACHINE = Path(__file__).with_name("test_prefix_cache_stateful.py")


class Row(NamedTuple):
    """A node as the log tells of it, the owner by name; None: public."""

    parent: int
    start: int
    end: int
    locks: int
    idle_since_ms: int
    owner: str | None


def row_of(node: Node) -> Row:
    parent = node.parent
    assert parent is not None
    above = parent.serial if parent.parent is not None else 0
    idle_since_ms = int(1000 * node.idle_since_s)
    return Row(above, node.start, node.end, node.lock_count, idle_since_ms, node.namespace)


def rows_of(tree: RadixTree) -> dict[int, Row]:
    """What a whole picture shows."""
    return {node.serial: row_of(node) for node in tree.nodes() if node.parent is not None}


class Replay:
    """Whoever draws: knows what the news say, and insists that they make sense."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.names: dict[int, str] = {}
        self.owners_ever: set[int] = {0}
        self.ever: set[int] = set()
        self.is_whole = False
        self.num_told = 0

    def apply(self, news: TreeNews) -> None:
        for serial in array("q", news.gone):
            del self.rows[serial]
        for number, name in news.opened:
            assert number not in self.owners_ever, "an owner's number comes once"
            self.owners_ever.add(number)
            self.names[number] = name
        columns = array("q", news.rows)
        for first in range(0, len(columns), NUM_COLUMNS):
            serial, parent, start, end, locks, idle_ms, owner = columns[first : first + NUM_COLUMNS]
            assert parent == 0 or parent in self.rows, "a parent comes before its children"
            if serial not in self.rows:
                assert serial not in self.ever, "a serial number comes once"
                self.ever.add(serial)
            owner_name = self.names[owner] if owner else None
            self.rows[serial] = Row(parent, start, end, locks, idle_ms, owner_name)
            self.num_told += 1
        for number in news.closed:
            del self.names[number]
        assert len({*self.names.values()}) == len(self.names)
        assert {row.owner for row in self.rows.values()} - {None} == {*self.names.values()}
        assert news.is_whole >= self.is_whole
        self.is_whole = news.is_whole
        self.check_is_tree()

    def check_is_tree(self) -> None:
        for row in self.rows.values():
            assert row.start < row.end
            if row.parent:
                above = self.rows[row.parent]
                # The end of one whose growth has not been told of may lag behind.
                assert above.start < above.end <= row.start
                assert above.owner in (None, row.owner)


@pytest.fixture(scope="module")
def machine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cache_machine_of_tree_log", MACHINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_replaying_the_log_gives_the_tree(machine: ModuleType) -> None:
    """The cache's own stateful test, with somebody who begins to look whenever they like, and looks
    as much at a time as they like."""
    seen: set[str] = set()
    ticks = itertools.count()

    class Watched(machine.CacheMachine):  # type: ignore[misc,name-defined]  # loaded from a path
        replay: Replay | None = None

        def attempt(self, call: Any) -> Any:
            # Also what failed half-way is told of.
            try:
                return super().attempt(call)
            finally:
                self.tick()

        def tick(self) -> None:
            self.cache.tree.now_s = next(ticks) / 1000

        def take(self, num_nodes: int) -> bool:
            """Whether there was anything to take."""
            log = self.cache.tree.log
            if self.replay is None or not log.has_news:
                return False
            known = {*self.replay.rows}
            # A known node that is new again would have a known serial number.
            moved = {one: row.parent for one, row in self.replay.rows.items()}
            before = self.replay.num_told
            news = log.take(num_nodes, self.cache.tree.now_s)
            self.replay.apply(news)
            told = self.replay.num_told - before
            must = sum(
                row.parent != moved.get(one, row.parent) for one, row in self.replay.rows.items()
            )
            if must:
                seen.add("moved")
            if news.gone and self.replay.rows.keys() & known:
                seen.add("gone")
            if told >= num_nodes and log.has_news:
                seen.add("cut short")
            return True

        @rule(begin=st.integers(0, 2))
        def watch(self, begin: int) -> None:
            if begin == 0:
                self.cache.tree.log = TreeLog(self.cache.tree)
                self.replay = Replay()

        @rule(look_away=st.integers(0, 5))
        def unwatch(self, look_away: int) -> None:
            if look_away == 0:
                self.cache.tree.log = None
                self.replay = None

        @rule(num_nodes=st.integers(0, 3), times=st.integers(1, 3))
        def look(self, num_nodes: int, times: int) -> None:
            for _ in range(times):
                self.take(num_nodes)

        @rule()
        def look_at_all(self) -> None:
            while self.take(100):
                pass
            if self.replay is not None:
                assert self.replay.is_whole
                assert self.replay.rows == rows_of(self.cache.tree)
                seen.add("whole")

        @rule(really=st.integers(0, 2))
        def clear(self, really: int) -> None:
            if really == 0:
                self.cache.clear()
                self.lossless = False

        @invariant()
        def time_goes_on(self) -> None:
            if hasattr(self, "cache"):
                self.tick()

        def teardown(self) -> None:
            if hasattr(self, "cache"):
                self.look_at_all()
                super().teardown()
                self.look_at_all()
                assert self.replay is None or not self.replay.rows

    # See ``test_cache_events.py`` on seeds.
    for number in range(6):
        run_state_machine_as_test(
            seed(number)(Watched),
            settings=settings(max_examples=40, stateful_step_count=50, deadline=None),
        )
        if seen == {"moved", "gone", "cut short", "whole"}:
            break
    assert seen == {"moved", "gone", "cut short", "whole"}


@pytest.fixture
def cache() -> Iterator[PrefixCache]:
    made = PrefixCache(4096, 4)
    yield made
    made.check_invariants()


def watch(cache: PrefixCache) -> TreeLog:
    log = cache.tree.log = TreeLog(cache.tree)
    return log


def test_the_first_picture_comes_in_parts_and_what_happens_meanwhile_is_not_lost(
    cache: PrefixCache,
) -> None:
    for number in range(100):
        keep(cache, tokens_of(number % 10, number // 10, 7, 7, 7))
    log, replay = watch(cache), Replay()
    sizes = []
    for number in range(1000):
        if number % 2:
            # Grows one leaf, and splits another.
            keep(cache, tokens_of(number % 10, 3, 7, 7, 7, *range(5)))
            keep(cache, tokens_of(number % 10, number % 7, 7, number))
        before = replay.num_told
        replay.apply(log.take(5, 0.0))
        sizes.append(replay.num_told - before)
        if replay.is_whole:
            break
    assert len(sizes) > 20
    # What is split anew on the way is told on top.
    assert max(sizes) <= 5 + 4
    while log.has_news:
        replay.apply(log.take(5, 0.0))
    assert replay.rows == rows_of(cache.tree)


def test_who_looks_seldom_is_told_the_newest_once(cache: PrefixCache) -> None:
    log, replay = watch(cache), Replay()
    lease = put(cache, tokens_of(*range(8)))
    for end in range(12, 400, 4):
        cache.reserve(lease, end)
        cache.commit(lease, tokens_of(*range(end)))
    replay.apply(log.take(100, 0.0))
    assert replay.num_told == 1
    (row,) = replay.rows.values()
    assert (row.end, row.locks) == (396, 1)
    cache.tree.now_s = 2.5
    cache.reserve(lease, 400)
    cache.release(lease, tokens_of(*range(398)))
    cache.tree.now_s = 9.0
    before = replay.num_told
    replay.apply(log.take(100, 0.0))
    assert replay.num_told == before + 1
    (row,) = replay.rows.values()
    assert (row.end, row.locks, row.idle_since_ms) == (398, 0, 2500)
    # Another use, that ends later.
    cache.release(cache.acquire(DEFAULT_NAMESPACE, tokens_of(*range(398))), tokens_of(*range(398)))
    replay.apply(log.take(100, 0.0))
    assert [row.idle_since_ms for row in replay.rows.values()] == [9000]


def test_what_came_and_went_between_two_looks_is_never_told(cache: PrefixCache) -> None:
    log = watch(cache)
    log.take(1, 0.0)
    for number in range(50):
        keep(cache, tokens_of(1, 2, 3, 4, 5), Namespace(f"salt {number}"))
        cache.clear()
    assert not log.has_news
    assert not log._known
    assert not log._owners


def test_nothing_is_kept_of_namespaces_that_are_gone(cache: PrefixCache) -> None:
    log, replay = watch(cache), Replay()
    for number in range(50):
        keep(cache, tokens_of(1, 2, 3, 4, 5), Namespace(f"salt {number}"))
        replay.apply(log.take(100, 0.0))
        assert {*replay.names.values()} == {f"salt {number}"}
        cache.clear()
    replay.apply(log.take(100, 0.0))
    assert not log._owners
    assert not replay.names


def test_tokens_of_a_node_and_of_the_way_to_it(cache: PrefixCache) -> None:
    keep(cache, tokens_of(1, 2, 3, 4, 5, 6, 7))
    keep(cache, tokens_of(1, 2, 3, 9, 9), Namespace("salt"))
    keep(cache, tokens_of(1, 2, 3, 8, 8))
    log, replay = watch(cache), Replay()
    replay.apply(log.take(100, 0.0))
    (serial,) = (one for one, row in replay.rows.items() if row.end == 7)
    assert log.read(serial, [(1, 3), (3, 7), (7, 7)]) == PathTokens(
        DEFAULT_NAMESPACE, [[2, 3], [4, 5, 6, 7], []]
    )
    assert log.read(serial, [(3, 8)]) is None, "it is not so deep"
    assert log.read(max(replay.rows) + 1, [(0, 0)]) is None
    (other,) = (one for one, row in replay.rows.items() if row.owner == "salt")
    assert log.read(other, [(0, 5)]) == PathTokens(Namespace("salt"), [[1, 2, 3, 9, 9]])
    cache.clear()
    assert log.read(serial, [(1, 3)]) is None


def test_who_used_a_way_may_be_gone_before_it_is_told(cache: PrefixCache) -> None:
    cache.set_public([tokens_of(1, 2, 3, 4)])
    for name in ("a", "b"):
        keep(cache, tokens_of(1, 2, 3, 4, 5, 6, 7, 8, 9), Namespace(name))
    log, replay = watch(cache), Replay()
    replay.apply(log.take(100, 0.0))
    cache.tree.now_s = 5.0
    keep(cache, tokens_of(1, 2, 3, 4, 5, 6, 7, 8, 9), Namespace("a"))
    cache.clear(Namespace("a"))
    replay.apply(log.take(100, 5.0))
    assert replay.rows == rows_of(cache.tree)
    assert {row.owner: row.idle_since_ms for row in replay.rows.values()} == {None: 5000, "b": 0}


def test_what_changes_by_itself_is_told_of(cache: PrefixCache) -> None:
    """Locks that come, and go without anything new; pages that are evicted off a leaf's end."""
    keep(cache, tokens_of(*range(40)))
    keep(cache, tokens_of(*range(8), 50, 51, 52, 53))
    log, replay = watch(cache), Replay()
    replay.apply(log.take(100, 0.0))
    lease = cache.acquire(DEFAULT_NAMESPACE, tokens_of(*range(60)))
    replay.apply(log.take(100, 0.0))
    assert replay.rows == rows_of(cache.tree)
    assert sorted(row.locks for row in replay.rows.values()) == [0, 1, 1]
    cache.tree.now_s = 3.0
    cache.give_back(lease)
    replay.apply(log.take(100, 3.0))
    assert replay.rows == rows_of(cache.tree)
    assert sorted(row.locks for row in replay.rows.values()) == [0, 0, 0]
    before = {**replay.rows}
    assert cache.tree.evict(2) == 2
    replay.apply(log.take(100, 3.0))
    assert replay.rows == rows_of(cache.tree) != before
