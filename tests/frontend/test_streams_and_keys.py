"""Streams that have no end of their own tell nothing more once their key is removed."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from radixserve.engine.interface import TreeNodes
from radixserve.types import CacheEvent
from radixserve_frontend import caller, key_store
from tests.frontend.fake_engine import FakeEngine, FakeTreeWatch, FakeWatch
from tests.frontend.http_fixtures import TIMEOUT_S, config_of, serving
from tests.frontend.numbered_events import events_of

KEYS = {name: f"key-of-{name}-0123456789abc" for name in ("anna", "bob")}


def tell_of_events(watch: FakeWatch, number: int) -> None:
    watch.events.put_nowait(CacheEvent(kind="removed", hashes=[number]))


def tell_of_tree(watch: FakeTreeWatch, number: int) -> None:
    watch.events.put_nowait(TreeNodes(0.0, [], [number]))


@pytest.mark.parametrize(
    ("path", "tell"), [("/cache/events", tell_of_events), ("/cache/tree", tell_of_tree)]
)
async def test_a_stream_ends_when_its_key_is_removed(
    path: str,
    tell: Callable[[FakeWatch | FakeTreeWatch, int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (caller, key_store):
        monkeypatch.setattr(module, "CHECK_EVERY_S", 0.0)
    file = tmp_path / "keys.toml"
    engine = FakeEngine()

    def give_keys(*names: str) -> None:
        replaced = tmp_path / "replaced"
        tables = (f'[tenants.{name}]\nkeys = ["{KEYS[name]}"]\nadmin = true\n' for name in names)
        replaced.write_text("".join(tables))
        replaced.rename(file)

    give_keys("anna", "bob")
    config = config_of(api_keys_file=str(file))
    async with serving(engine, config) as server, server.client() as client:
        headers = {"Authorization": f"Bearer {KEYS['anna']}"}
        async with client.stream("GET", path, headers=headers) as response:
            events = events_of(response)
            watches = engine.watches if path == "/cache/events" else engine.tree_watches
            async with asyncio.timeout(TIMEOUT_S):
                while not watches:
                    await asyncio.sleep(0)
            tell(watches[0], 1)
            names = [(await anext(events))[1]]
            if names == ["hello"]:
                names.append((await anext(events))[1])
            assert names[-1] in ("nodes", "removed")
            give_keys("bob")
            tell(watches[0], 2)
            assert [event async for event in events] == []
        assert (await client.get(path, headers=headers)).status_code == 401


def test_a_key_is_not_looked_up_for_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, num_look_ups = 50.0, 0

    def look_up() -> caller.Caller:
        nonlocal num_look_ups
        num_look_ups += 1
        return caller.ANYBODY

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    scope: dict[str, object] = {}
    caller.attach_caller(scope, caller.ANYBODY, look_up)
    for _ in range(40):
        now_s += 0.1
        assert caller.is_still_known(scope)
    assert 3 <= num_look_ups <= 4
