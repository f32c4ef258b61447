"""Who watches the tree: pictures where they belong, at each one's pace, and nobody left behind."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.interface import (
    NodeTokens,
    TreeFigures,
    TreeLost,
    TreeNodes,
    TreeWhole,
)
from radixserve.engine.messages import TreeChanged, WatchFailed
from radixserve.engine.tree_feed import BUSY_NODES, PAUSE_S, PICTURE_SHARE, TreeFeed
from radixserve.engine.tree_watch import MAX_NODES, TreeWatch
from radixserve.errors import ShuttingDownError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from radixserve.sampling.params import SamplingParams
from tests.engine.in_process_client import client_of, use_in_process_client
from tests.engine.reference import family_prompts
from tests.engine.tree_drawing import ADMIN, Drawing, WatchedCache, tenant

TIMEOUT_S = 20.0
PROMPTS = family_prompts(seed=5)


def shown(world: WatchedCache, watch: TreeWatch) -> Drawing:
    drawing = Drawing()
    for event in world.told(watch):
        drawing.apply(event)
    return drawing


def fill(world: WatchedCache, count: int) -> None:
    for number in range(count):
        world.run(DEFAULT_NAMESPACE, [number % 50, number // 50 % 50, number // 2500, 1, 2])


# When the engine looks


class Ticking:
    """A clock that says how late it is, and later each time."""

    def __init__(self, tick_s: float) -> None:
        self.now_s = 50.0
        self.tick_s = tick_s

    def __call__(self) -> float:
        self.now_s += self.tick_s
        return self.now_s


def test_looks_take_a_small_share_of_the_time_while_steps_run() -> None:
    world = WatchedCache()
    fill(world, 2000)
    clock = Ticking(0.001)
    feed = TreeFeed(world.cache.tree, clock)
    feed.watch(1)
    looks = []
    begun_s = clock.now_s
    for _ in range(100_000):
        news = feed.take(is_busy=True)
        if news is not None:
            looks.append(news)
            assert len(news.rows) <= 56 * BUSY_NODES
            if news.is_whole:
                break
    assert len(looks) > 2000 // BUSY_NODES
    # Each look takes one tick.
    assert 0.001 * len(looks) / (clock.now_s - begun_s) < 1.5 * PICTURE_SHARE
    assert feed.take(is_busy=True) is None
    # From then on what changes often is told now and then.
    clock.tick_s = 0.0002
    clock.now_s += 1.0
    begun_s = clock.now_s
    num_looks = 0
    while clock.now_s < begun_s + 5 * PAUSE_S:
        world.run(DEFAULT_NAMESPACE, [7, 7, 7])
        num_looks += feed.take(is_busy=True) is not None
    assert num_looks in (4, 5)


def test_an_idle_engine_tells_all_at_once_and_then_nothing() -> None:
    world = WatchedCache()
    fill(world, 3000)
    world.watchers.open(ADMIN, 4)
    looks = 0
    while (news := world.feed.take(is_busy=False)) is not None:
        looks += 1
        world.watchers.feed(TreeChanged(world.feed.picture, news))
    assert 3 <= looks <= 5
    assert not world.feed.has_news
    world.feed.unwatch()
    world.run(DEFAULT_NAMESPACE, [1])
    assert not world.feed.has_news
    assert world.feed.take(is_busy=False) is None
    assert world.feed.read(1, []) is None


# What watchers are told


def test_the_first_picture_comes_in_parts_and_ends() -> None:
    world = WatchedCache()
    fill(world, 3 * MAX_NODES)
    watch = world.open(ADMIN)
    assert [event for event in world.told(watch) if isinstance(event, TreeNodes)] == []
    world.flush()
    events = world.told(watch)
    parts = [event for event in events if isinstance(event, TreeNodes)]
    assert all(len(part.nodes) <= MAX_NODES for part in parts)
    assert len(parts) >= 3
    assert events[len(parts)] == TreeWhole()
    # Who comes later is shown the same without another word to the engine.
    world.feed.unwatch()
    late = shown(world, world.open(ADMIN))
    assert late.is_whole
    # Ids are each viewer's own.
    assert len(late.nodes) == sum(len(part.nodes) for part in parts)


def test_news_come_in_rounds_and_each_node_once_a_round() -> None:
    world = WatchedCache()
    world.watchers.pause_s = 0.5
    watch = world.open(ADMIN)
    world.flush()
    kinds = [type(event) for event in world.told(watch)]
    assert kinds == [TreeWhole, TreeFigures]
    world.begin("grows", DEFAULT_NAMESPACE, [*range(8)])
    for _ in range(10):
        world.pass_time(0.04)
        world.flush()
        assert world.told(watch) == []
    world.end("grows")
    world.flush()
    world.pass_time(0.2)
    (event,) = world.told(watch)
    assert isinstance(event, TreeNodes)
    (node,) = event.nodes
    assert event.at_s == pytest.approx(0.6)
    assert (node.tokens, node.locks, node.age_s) == (8, 0, 0.2)


def test_ages_are_of_when_they_are_told() -> None:
    world = WatchedCache()
    world.run(DEFAULT_NAMESPACE, [1, 2, 3])
    world.pass_time(2.0)
    watch = world.open(ADMIN)
    world.flush()
    # The engine has said nothing since.
    world.now_s += 60.0
    (node,) = shown(world, watch).nodes.values()
    assert node.age_s == 62.0
    world.begin("uses it", DEFAULT_NAMESPACE, [1, 2, 3])
    world.flush()
    ages = [
        node.age_s
        for event in world.told(watch)
        if isinstance(event, TreeNodes)
        for node in event.nodes
    ]
    assert ages == [None, 62.0]


def test_who_does_not_read_holds_no_more_than_there_is() -> None:
    world = WatchedCache()
    slow = world.open(ADMIN)
    world.flush()
    world.told(slow)
    for number in range(200):
        world.run(Namespace(f"salt {number}"), [number, *range(9)])
        world.flush()
        world.cache.clear()
    world.run(DEFAULT_NAMESPACE, [1, 2, 3])
    world.flush()
    view = slow._view
    held = [*view._due, *view._ids, *view._gone, *view._moved, *view._owners, *view._order]
    assert len(held) <= 4
    drawing = shown(world, slow)
    assert [node.tokens for node in drawing.nodes.values()] == [3]


def test_a_picture_that_nobody_wants_any_more_is_ignored() -> None:
    world = WatchedCache()
    fill(world, 10)
    watch = world.open(ADMIN)
    news = world.feed.take(is_busy=False)
    assert news is not None
    world.watchers.restart()
    world.watchers.feed(TreeChanged(1, news))
    assert world.told(watch)[0] == TreeLost()
    assert not shown(world, watch).nodes
    world.flush()
    drawing = shown(world, watch)
    assert drawing.is_whole
    assert len(drawing.nodes) == 10


async def test_between_the_parts_of_a_picture_others_have_their_turn() -> None:
    world = WatchedCache()
    fill(world, 3 * MAX_NODES)
    watch = world.open(ADMIN)
    world.flush()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    num_parts = 0
    async for event in watch:
        if event == TreeWhole():
            break
        num_parts += 1
    task.cancel()
    assert num_parts >= 3
    assert turns >= num_parts


# Through messages, with a core


@pytest.fixture
async def engine(noise_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    use_in_process_client(monkeypatch)
    settings: dict[str, Any] = {"dtype": "float32", "num_pages": 40, "num_threads": 1}
    started = await AsyncEngine.start(EngineConfig(model=str(noise_dir), **settings))
    started._tree_watchers.pause_s = 0.0
    yield started
    await started.aclose()


def cache_of(engine: AsyncEngine) -> PrefixCache:
    return client_of(engine).core._cache


def edges_of(cache: PrefixCache) -> list[tuple[int, int, int]]:
    """Of every node: where it starts, its tokens, its locks."""
    nodes = (node for node in cache.tree.nodes() if node.parent is not None)
    return sorted((node.start, node.end - node.start, node.lock_count) for node in nodes)


async def draw(watch: TreeWatch, drawing: Drawing) -> None:
    async for event in watch:
        drawing.apply(event)


async def until_drawn(engine: AsyncEngine, drawing: Drawing) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not drawing.is_whole or edges_of(cache_of(engine)) != sorted(
            (node.start, node.tokens, node.locks) for node in drawing.nodes.values()
        ):
            await asyncio.sleep(0)


async def ask(engine: AsyncEngine, prompt: list[int], namespace: str = "") -> None:
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    async for _ in await engine.submit(prompt, params, namespace=Namespace(namespace)):
        pass


async def test_watchers_follow_an_engine_at_work_and_into_the_next_one(engine: AsyncEngine) -> None:
    rng = random.Random(4)
    assert cache_of(engine).tree.log is None
    drawing, other = Drawing(), Drawing()
    watch, of_salt = engine.watch_tree(ADMIN), engine.watch_tree(tenant("salt"))
    tasks = [asyncio.ensure_future(draw(watch, drawing))]
    tasks.append(asyncio.ensure_future(draw(of_salt, other)))
    for _ in range(3):
        await asyncio.gather(
            *(ask(engine, rng.choice(PROMPTS), rng.choice(["", "salt"])) for _ in range(6))
        )
        await until_drawn(engine, drawing)
    assert cache_of(engine).evicted_pages > 0
    assert {node.owner for node in drawing.nodes.values()} == {1, 2}
    client_of(engine).die()
    await ask(engine, max(PROMPTS, key=len), "salt")
    await until_drawn(engine, drawing)
    assert drawing.num_lost == other.num_lost == 1
    assert {node.owner for node in other.nodes.values()} == {1}
    await watch.aclose()
    await of_salt.aclose()
    await asyncio.gather(*tasks)
    watchers = engine._tree_watchers
    assert cache_of(engine).tree.log is not None, "somebody may come back soon"
    assert watchers._unwatching is not None
    # As if the time were up.
    watchers._unwatching.cancel()
    watchers._leave()
    async with asyncio.timeout(TIMEOUT_S):
        while cache_of(engine).tree.log is not None:
            await asyncio.sleep(0)


async def test_tokens_of_a_node_come_from_the_engine(engine: AsyncEngine) -> None:
    prompt = max(PROMPTS, key=len)
    await ask(engine, prompt, "salt")
    drawing = Drawing()
    watch = engine.watch_tree(tenant("salt"))
    task = asyncio.ensure_future(draw(watch, drawing))
    await until_drawn(engine, drawing)
    ((node_id, node),) = drawing.nodes.items()
    found = await watch.read(node_id, num_before=3, num_first=4, num_last=2)
    assert isinstance(found, NodeTokens)
    assert (found.start, found.end, found.before) == (0, node.tokens, [])
    assert found.first == list(prompt[:4])
    whole = await watch.read(node_id, num_before=0, num_first=10_000, num_last=5)
    assert whole is not None
    assert len(whole.first) == node.tokens
    assert whole.last == []
    assert whole.first[-2:] == found.last
    assert await watch.read(node_id + 1, num_before=0, num_first=1, num_last=1) is None
    # Had another engine somebody else's node under that number.
    stranger = engine.watch_tree(ADMIN)
    shown_to_stranger = Drawing()
    other = asyncio.ensure_future(draw(stranger, shown_to_stranger))
    await until_drawn(engine, shown_to_stranger)
    stranger._viewer = tenant("somebody")
    assert await stranger.read(node_id, num_before=0, num_first=1, num_last=1) is None
    await engine.clear_cache()
    assert await watch.read(node_id, num_before=0, num_first=1, num_last=1) is None
    await watch.aclose()
    await stranger.aclose()
    await asyncio.gather(task, other)


async def test_watching_ends_with_the_engine(engine: AsyncEngine) -> None:
    watch = engine.watch_tree(tenant("nobody"))
    assert await anext(watch) == TreeWhole()
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await engine.drain(0.0)
    with pytest.raises(StopAsyncIteration):
        await waiting
    with pytest.raises(ShuttingDownError):
        engine.watch_tree(ADMIN)


async def test_a_tree_that_cannot_be_watched_ends_the_watches_and_nothing_else(
    engine: AsyncEngine,
) -> None:
    watch = engine.watch_tree(tenant("nobody"))
    events = engine.watch_cache()
    assert await anext(watch) == TreeWhole()
    engine.on_watched(WatchFailed(is_tree=True))
    with pytest.raises(StopAsyncIteration):
        await anext(watch)
    assert (await anext(events)).kind == "snapshot"
    assert await anext(engine.watch_tree(tenant("nobody"))) == TreeWhole()
