"""Who watches the cache: snapshots where they belong, bounded memory, and nobody left behind."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.cache_watch import CacheWatch, CacheWatchers
from radixserve.engine.messages import WatchFailed
from radixserve.errors import ShuttingDownError
from radixserve.ids import Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.types import CacheEvent
from tests.engine.in_process_client import client_of, is_sending, use_in_process_client
from tests.engine.reference import family_prompts

TIMEOUT_S = 20.0
PROMPTS = family_prompts(seed=5)


def stored(*hashes: int) -> CacheEvent:
    return CacheEvent(kind="stored", hashes=[*hashes])


def snapshot(count: int = 0) -> CacheEvent:
    return CacheEvent(kind="snapshot", count=count)


class Wire:
    """The engine's side: what it was told."""

    def __init__(self) -> None:
        self.told: list[int | None] = []
        self.watchers = CacheWatchers(self.told.append, linger_s=0.0)


async def turn() -> None:
    """Let every task that can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


async def reading(watch: CacheWatch) -> "asyncio.Task[CacheEvent]":
    """Somebody who waits for the next event."""
    task = asyncio.ensure_future(anext(watch))
    await turn()
    return task


async def test_one_snapshot_serves_all_who_wait_for_it() -> None:
    wire = Wire()
    first, second, third = (wire.watchers.open(8) for _ in range(3))
    one, two = await reading(first), await reading(second)
    assert wire.told == [1]
    # Before the snapshot: not theirs to know.
    wire.watchers.feed([stored(99)], None)
    wire.watchers.feed([snapshot(), stored(1)], 1)
    wire.watchers.feed([stored(2)], None)
    assert await one == await two == snapshot()
    assert [await anext(first) for _ in range(2)] == [stored(1), stored(2)]
    # The third has asked for nothing, and got it all the same.
    assert [await anext(third) for _ in range(3)] == [snapshot(), stored(1), stored(2)]
    assert wire.told == [1]

    late = await reading(wire.watchers.open(8))
    assert wire.told == [1, 2]
    wire.watchers.feed([snapshot(2), stored(1, 2)], 2)
    assert await late == snapshot(2)
    waiting = await reading(first)
    assert not waiting.done(), "who is current has no use for another's snapshot"
    wire.watchers.feed([CacheEvent(kind="cleared")], None)
    assert (await waiting).kind == "cleared"


async def test_a_snapshot_from_before_everybody_left_is_not_taken_for_a_new_one() -> None:
    wire = Wire()
    gone = wire.watchers.open(8)
    asking = await reading(gone)
    await gone.aclose()
    await gone.aclose()
    with pytest.raises(StopAsyncIteration):
        await asking
    await turn()
    assert wire.told == [1, None]
    watch = wire.watchers.open(8)
    asking = await reading(watch)
    assert wire.told == [1, None, 2]
    wire.watchers.feed([snapshot(1), stored(1)], 1)
    wire.watchers.feed([stored(7)], None)
    await turn()
    assert not asking.done()
    wire.watchers.feed([snapshot(2), stored(2, 3)], 2)
    assert await asking == snapshot(2)


async def test_others_stay_when_one_leaves() -> None:
    wire = Wire()
    one, other = wire.watchers.open(8), wire.watchers.open(8)
    await one.aclose()
    await turn()
    assert wire.told == []
    await other.aclose()
    await turn()
    assert wire.told == [None]


async def test_the_engine_goes_on_noting_for_who_comes_back_soon() -> None:
    """Beginning to note costs the engine a look at all that it holds."""
    wire = Wire()
    wire.watchers = CacheWatchers(wire.told.append, linger_s=0.01)
    gone = wire.watchers.open(8)
    await reading(gone)
    await gone.aclose()
    back = wire.watchers.open(8)
    asking = await reading(back)
    # The timer that would have told the engine is due by now, were there one.
    await asyncio.sleep(0.02)
    assert wire.told == [1, 2]
    wire.watchers.feed([snapshot(1), stored(5)], 2)
    assert await asking == snapshot(1)


async def test_another_engines_snapshot_comes_to_all_whether_or_not_they_read() -> None:
    wire = Wire()
    reader, idle = wire.watchers.open(8), wire.watchers.open(8)
    asking = await reading(reader)
    wire.watchers.feed([snapshot(1), stored(1)], 1)
    assert await asking == snapshot(1)
    assert await anext(reader) == stored(1)
    waiting = await reading(reader)

    wire.watchers.restart()
    assert wire.told == [1, 2]
    # What the engine says before the snapshot that it was asked for is part of that.
    wire.watchers.feed([stored(2)], None)
    wire.watchers.feed([snapshot(1), stored(2)], 2)
    wire.watchers.feed([stored(3)], None)
    assert await waiting == snapshot(1)
    assert [await anext(reader) for _ in range(2)] == [stored(2), stored(3)]
    # Replayed, what was not read before makes no difference.
    assert [await anext(idle) for _ in range(5)] == [
        snapshot(1),
        stored(1),
        snapshot(1),
        stored(2),
        stored(3),
    ]


async def test_who_was_asking_when_the_engine_died_gets_the_next_ones_snapshot() -> None:
    wire = Wire()
    asking = await reading(wire.watchers.open(8))
    wire.watchers.restart()
    assert wire.told == [1, 2]
    wire.watchers.feed([snapshot(7)], 1)
    await turn()
    assert not asking.done()
    wire.watchers.feed([snapshot(0)], 2)
    assert await asking == snapshot(0)


async def test_a_restart_that_nobody_watches_asks_for_nothing() -> None:
    wire = Wire()
    gone = wire.watchers.open(8)
    await gone.aclose()
    wire.watchers.restart()
    await turn()
    assert wire.told == [], "the new engine notes nothing yet, so it need not be told to stop"


async def test_who_reads_too_slowly_is_told_and_starts_anew() -> None:
    wire = Wire()
    slow, quick = wire.watchers.open(8), wire.watchers.open(8)
    asking = [await reading(slow), await reading(quick)]
    wire.watchers.feed([snapshot()], 1)
    await asyncio.gather(*asking)
    most = 0
    for _ in range(1000):
        wire.watchers.feed([stored(*range(100))], None)
        assert (await anext(quick)).kind == "stored"
        most = max(most, sum(1 + len(event.hashes) for event in slow._events))
    assert most <= 4 * 8 + 2**14
    assert len(slow._events) == slow._num_unread == 0
    assert wire.told == [1], "a watcher that does not read needs no snapshot"

    assert await anext(slow) == CacheEvent(kind="lost", count=1000)
    waiting = await reading(slow)
    assert wire.told == [1, 2]
    wire.watchers.feed([stored(5)], None)
    wire.watchers.feed([snapshot(1), stored(5)], 2)
    wire.watchers.feed([stored(6)], None)
    assert [await waiting, await anext(slow), await anext(slow)] == [
        snapshot(1),
        stored(5),
        stored(6),
    ]
    # The quick one was never disturbed.
    assert [await anext(quick), await anext(quick)] == [stored(5), stored(6)]


async def test_a_snapshot_for_others_does_not_fill_the_memory_of_one_who_does_not_read() -> None:
    wire = Wire()
    slow = wire.watchers.open(8)
    asking = await reading(slow)
    wire.watchers.feed([snapshot()], 1)
    await asking
    wire.watchers.feed([stored(*range(2**15))], None)
    new = await reading(wire.watchers.open(8))
    wire.watchers.feed([snapshot()], 2)
    assert await new == snapshot()
    assert not slow._events
    assert await anext(slow) == CacheEvent(kind="lost", count=1)


async def test_the_end_is_everybodys_and_unread_events_are_dropped() -> None:
    wire = Wire()
    unread, waiting = wire.watchers.open(8), wire.watchers.open(8)
    asking = await reading(waiting)
    wire.watchers.feed([snapshot(), stored(1)], 1)
    await asking
    assert await anext(waiting) == stored(1)
    last = await reading(waiting)
    wire.watchers.end()
    with pytest.raises(StopAsyncIteration):
        await last
    assert [event async for event in unread] == []
    await turn()
    assert wire.told == [1], "an engine that is about to go need not be told"


# Through messages, with a core


@pytest.fixture
async def engine(noise_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    use_in_process_client(monkeypatch)
    settings: dict[str, Any] = {"dtype": "float32", "num_pages": 40, "num_threads": 1}
    started = await AsyncEngine.start(EngineConfig(model=str(noise_dir), **settings))
    yield started
    await started.aclose()


def cache_of(engine: AsyncEngine) -> PrefixCache:
    return client_of(engine).core._cache


async def mirror(watch: CacheWatch, held: set[int]) -> None:
    """Keep ``held`` equal to what the events say."""
    async for event in watch:
        match event.kind:
            case "snapshot" | "cleared":
                held.clear()
            case "stored":
                assert not held & set(event.hashes)
                held |= set(event.hashes)
            case "removed":
                assert held >= set(event.hashes)
                held -= set(event.hashes)


def stored_now(cache: PrefixCache) -> set[int]:
    """What a fresh snapshot says, whoever watches; the engine is left as it was."""
    log = cache.tree.events
    cache.tree.events = None
    hashes = {one for event in cache.watch() for one in event.hashes}
    cache.tree.events = log
    return hashes


def is_noting(cache: PrefixCache) -> bool:
    return cache.tree.events is not None


async def test_watchers_follow_an_engine_at_work(engine: AsyncEngine) -> None:
    cache = cache_of(engine)
    rng = random.Random(4)
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    watches: list[CacheWatch] = []
    held: list[set[int]] = []
    tasks: list[asyncio.Task[None]] = []

    async def ask(number: int) -> None:
        stream = await engine.submit(
            PROMPTS[number % len(PROMPTS)], params, namespace=Namespace(rng.choice(["", "salt"]))
        )
        async for _ in stream:
            if number % 5 == 0:
                break
        await stream.aclose()

    async def come_to_rest() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while cache.in_use_pages or is_sending(engine):
                await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)

    assert not is_noting(cache)
    for _ in range(3):
        watches.append(engine.watch_cache())
        held.append(set())
        tasks.append(asyncio.ensure_future(mirror(watches[-1], held[-1])))
        await asyncio.gather(*(ask(rng.randrange(100)) for _ in range(6)))
        await come_to_rest()
        assert stored_now(cache)
        assert all(one == stored_now(cache) for one in held)
    assert cache.evicted_pages > 0
    for watch in watches:
        await watch.aclose()
    await asyncio.gather(*tasks)
    await come_to_rest()
    assert is_noting(cache), "somebody may come back soon"
    watchers = engine._watchers
    assert watchers._unwatching is not None
    # As if the time were up.
    watchers._unwatching.cancel()
    watchers._send(None)
    await come_to_rest()
    assert not is_noting(cache), "then the cache notes nothing"


async def test_watching_ends_with_the_engine(engine: AsyncEngine) -> None:
    before = engine.watch_cache()
    assert (await anext(before)).kind == "snapshot"
    asking = await reading(before)
    await engine.drain(0.0)
    with pytest.raises(StopAsyncIteration):
        await asking
    with pytest.raises(ShuttingDownError):
        engine.watch_cache()


async def test_watching_goes_on_in_the_next_engine(engine: AsyncEngine) -> None:
    watch = engine.watch_cache()
    held: set[int] = set()
    following = asyncio.ensure_future(mirror(watch, held))
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    prompt = max(PROMPTS, key=len)

    async def ask() -> None:
        async for _ in await engine.submit(prompt, params):
            pass
        async with asyncio.timeout(TIMEOUT_S):
            while held != stored_now(cache_of(engine)) or not held:
                await asyncio.sleep(0)

    await ask()
    first = cache_of(engine)
    client_of(engine).die()
    await ask()
    assert cache_of(engine) is not first
    await watch.aclose()
    await following


async def test_a_cache_that_cannot_be_watched_ends_the_watches_and_nothing_else(
    engine: AsyncEngine,
) -> None:
    watch = engine.watch_cache()
    assert (await anext(watch)).kind == "snapshot"
    waiting = await reading(watch)
    engine.on_watched(WatchFailed())
    with pytest.raises(StopAsyncIteration):
        await waiting
    assert engine.is_alive
    assert (await anext(engine.watch_cache())).kind == "snapshot"
