"""Cache events: hashes that anybody can compute, and a replay that is right at every moment."""

import hashlib
import importlib.util
import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import xxhash
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from radixserve.cache import events
from radixserve.cache.events import chain_hashes, root_hash
from radixserve.cache.eviction import LRU
from radixserve.cache.page_pool import PagePool
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cache.return_time import ReturnTime
from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from radixserve.types import CacheEvent
from tests.cache.filling import keep, put, tokens_of

MACHINE = Path(__file__).with_name("test_prefix_cache_stateful.py")


def by_hand(
    namespace: str, tokens: tuple[int, ...], page_size: int, num_public: int = 0
) -> list[int]:
    """The hashes as the documentation defines them, in other words than the code's."""
    own = hashlib.sha256(namespace.encode()).digest()[:8]
    state = hashlib.sha256(b"\xffpublic").digest()[:8] if num_public else own
    hashes = []
    for start in range(0, len(tokens) - page_size + 1, page_size):
        if num_public > 0 and start <= num_public < start + page_size:
            state = xxhash.xxh3_64_digest(state + own + struct.pack("<q", num_public))[::-1]
        page = struct.pack(f"<{page_size}i", *tokens[start : start + page_size])
        state = xxhash.xxh3_64_digest(state + page)[::-1]
        hashes.append(int.from_bytes(state, "little"))
    return hashes


class Mirror:
    """A router: knows what the events say, and insists that they make sense."""

    def __init__(self) -> None:
        self.stored: set[int] = set()
        self.parents: dict[int, int | None] = {}
        self.num_expected = 0

    def replay(self, news: list[CacheEvent]) -> None:
        for event in news:
            match event.kind:
                case "snapshot":
                    self.stored.clear()
                    self.num_expected = event.count
                case "stored":
                    assert event.hashes
                    assert event.parent is None or event.parent in self.stored
                    parent = event.parent
                    for one in event.hashes:
                        assert one not in self.stored, "stored twice"
                        self.stored.add(one)
                        assert self.parents.setdefault(one, parent) == parent
                        parent = one
                case "removed":
                    assert event.hashes
                    for one in event.hashes:
                        assert one in self.stored, "removed twice, or never stored"
                        self.stored.remove(one)
                case "cleared":
                    self.stored.clear()
                case _:
                    raise AssertionError(f"the cache does not say {event.kind}")

    def replay_snapshot(self, news: list[CacheEvent]) -> None:
        assert news[0].kind == "snapshot"
        assert all(event.kind == "stored" for event in news[1:])
        self.replay(news)
        assert len(self.stored) == self.num_expected


@pytest.fixture(scope="module")
def machine() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cache_machine_of_events", MACHINE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("by_return_time", [False, True])
def test_replaying_the_events_gives_what_the_tree_holds(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch, by_return_time: bool
) -> None:
    """The cache's own stateful test, with a router that begins to watch whenever it likes."""
    told = {"stored", "removed", "again"}
    seen: list[str] = []
    ticks = itertools.count()

    def cache_of(num_pages: int, page_size: int, *, pool: PagePool) -> PrefixCache:
        # The one trims edges to their start, the other as far down as its floor.
        policy = ReturnTime(lambda: float(next(ticks)), num_pages, page_size)
        return PrefixCache(num_pages, page_size, policy if by_return_time else LRU(), pool=pool)

    monkeypatch.setattr(machine, "PrefixCache", cache_of)

    class Watched(machine.CacheMachine):  # type: ignore[misc,name-defined]  # loaded from a path
        mirror: Mirror | None = None

        def attempt(self, call: Any) -> Any:
            # Reads every event of the call also if it failed half-way.
            try:
                return super().attempt(call)
            finally:
                self.read()

        def read(self) -> None:
            news = self.cache.take_events()
            if self.mirror is None:
                assert news == []
            else:
                seen.extend(event.kind for event in news)
                self.mirror.replay(news)

        @rule(late=st.booleans())
        def watch(self, late: bool) -> None:
            if not late:
                self.read()
            # Else what was not read is in the snapshot.
            if self.mirror is not None:
                seen.append("again")
            self.mirror = Mirror()
            self.mirror.replay_snapshot(self.cache.watch())

        @rule(look_away=st.integers(0, 3))
        def unwatch(self, look_away: int) -> None:
            if look_away == 0:
                self.cache.unwatch()
                self.mirror = None

        @rule(really=st.integers(0, 2))
        def clear(self, really: int) -> None:
            if really == 0:
                self.cache.clear()
                self.lossless = False

        @invariant()
        def the_mirror_is_right(self) -> None:
            self.read()
            if self.mirror is not None:
                assert self.mirror.stored == {
                    one
                    for path in self.paths()
                    for one in by_hand(path.owner, path.tokens, self.page_size, path.num_public)
                }

    # One seed in twelve tells next to nothing, and which one depends on the modules loaded. Seeds
    # are given because under CI hypothesis would draw the same every time.
    for number in range(8):
        run_state_machine_as_test(
            seed(number)(Watched),
            settings=settings(max_examples=40, stateful_step_count=50, deadline=None),
        )
        if told <= set(seen):
            break
    assert told <= set(seen)


@pytest.fixture
def cache() -> Iterator[PrefixCache]:
    made = PrefixCache(64, 4)
    yield made
    made.check_invariants()


ROOT = 0x141CFC9842C4B0E3
GOLDEN = ["294b53958045ee51", "5826ff97658f374e"]


def test_the_hash_is_the_documented_one() -> None:
    assert root_hash(DEFAULT_NAMESPACE) == ROOT
    assert root_hash(Namespace("a salt")) != root_hash(DEFAULT_NAMESPACE)
    # JSON allows half a surrogate pair in a salt.
    assert root_hash(Namespace("\ud800")) != root_hash(Namespace("\ud801"))
    tokens = tokens_of(*range(10))
    hashes = chain_hashes(root_hash(DEFAULT_NAMESPACE), tokens, 4)
    assert hashes == by_hand("", tuple(range(10)), 4)
    # Fixed for ever: routers compute these too.
    assert [f"{one:016x}" for one in hashes] == GOLDEN
    assert chain_hashes(hashes[0], tokens[4:], 4) == hashes[1:]


def test_nobody_watching_nothing_is_noted(cache: PrefixCache) -> None:
    keep(cache, tokens_of(*range(9)))
    assert cache.take_events() == []
    assert cache.tree.events is None


def test_growing_forking_and_trimming(cache: PrefixCache) -> None:
    assert cache.watch() == [CacheEvent(kind="snapshot", parent=ROOT)]
    lease = put(cache, tokens_of(*range(8)))
    first, second, third = by_hand("", tuple(range(12)), 4)
    (branch,) = by_hand("", (*range(6), 9, 9), 4)[1:]
    assert cache.take_events() == [CacheEvent(kind="stored", hashes=[first, second])]
    # The same tokens once more, a page of them computed anew: the tree's pages stay.
    keep(cache, tokens_of(*range(8)))
    assert cache.take_events() == []
    cache.reserve(lease, 12)
    cache.commit(lease, tokens_of(*range(12)))
    grown = CacheEvent(kind="stored", hashes=[third], parent=second)
    assert cache.take_events() == [grown]
    keep(cache, tokens_of(*range(6), 9, 9, 9))
    # The edge was split inside the second page; its own border is still there.
    assert cache.take_events() == [CacheEvent(kind="stored", hashes=[branch], parent=first)]
    cache.release(lease, tokens_of(*range(12)))
    assert cache.take_events() == []
    cache.evict(64)
    removed = [one for event in cache.take_events() for one in event.hashes]
    assert len(removed) == 4
    assert set(removed) == {first, second, third, branch}


def test_a_partial_page_is_nobodys_news(cache: PrefixCache) -> None:
    cache.watch()
    keep(cache, tokens_of(1, 2, 3))
    assert cache.take_events() == []
    keep(cache, tokens_of(1, 2, 3, 4, 5))
    assert cache.take_events() == [CacheEvent(kind="stored", hashes=by_hand("", (1, 2, 3, 4), 4))]
    cache.evict(1)
    assert cache.take_events() == []


def test_behind_public_tokens_each_tenant_has_hashes_of_its_own(cache: PrefixCache) -> None:
    cache.set_public([tokens_of(*range(6))])
    cache.watch()
    for name in ("a", "b"):
        keep(cache, tokens_of(*range(7)), Namespace(name))
        # Its edge begins, and ended, inside the page that is full now.
        keep(cache, tokens_of(*range(9)), Namespace(name))
    first, of_a = by_hand("a", tuple(range(9)), 4, num_public=6)
    shared, of_b = by_hand("b", tuple(range(9)), 4, num_public=6)
    assert first == shared
    assert of_a != of_b
    assert cache.take_events() == [
        CacheEvent(kind="stored", hashes=[first]),
        CacheEvent(kind="stored", hashes=[of_a], parent=first),
        CacheEvent(kind="stored", hashes=[of_b], parent=first),
    ]


def test_a_long_run_is_told_in_parts(cache: PrefixCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_EVENT_HASHES", 2)
    cache.watch()
    keep(cache, tokens_of(*range(21)))
    hashes = by_hand("", tuple(range(20)), 4)
    parts = [
        CacheEvent(kind="stored", hashes=hashes[:2]),
        CacheEvent(kind="stored", hashes=hashes[2:4], parent=hashes[1]),
        CacheEvent(kind="stored", hashes=hashes[4:], parent=hashes[3]),
    ]
    assert cache.take_events() == parts
    assert cache.watch() == [CacheEvent(kind="snapshot", count=5, parent=ROOT), *parts]
    cache.forget(DEFAULT_NAMESPACE)
    assert [len(event.hashes) for event in cache.take_events()] == [2, 2, 1]


def test_cleared_is_said_only_if_nothing_is_left(cache: PrefixCache) -> None:
    cache.watch()
    keep(cache, tokens_of(*range(8)), Namespace("salt"))
    lease = put(cache, tokens_of(*range(4)))
    mirror = Mirror()
    mirror.replay(cache.take_events())
    cache.clear()
    news = cache.take_events()
    assert [event.kind for event in news] == ["removed"]
    mirror.replay(news)
    assert mirror.stored == {*by_hand("", (0, 1, 2, 3), 4)}
    cache.release(lease, tokens_of(*range(4)))
    # What was not read before a clear need not be read after it.
    keep(cache, tokens_of(7, 7, 7, 7, 7))
    cache.clear()
    assert cache.take_events() == [CacheEvent(kind="cleared")]
