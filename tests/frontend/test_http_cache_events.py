"""``GET /cache/events``: frames, numbers, refusals, and an end that nothing waits for."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from radixserve.types import CacheEvent
from radixserve_frontend import cache_events
from tests.frontend.fake_engine import FakeEngine, FakeWatch
from tests.frontend.http_calls import CHAT, MESSAGES, error_of
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, config_of, serving

PATH = "/cache/events"


async def read_events(response: httpx.Response) -> list[Any]:
    """(id, name, data) of every event until the end; comments skipped."""
    events: list[Any] = []
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, value = line.split(":", 1)
            fields[name] = value.strip()
        elif "data" in fields:
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
            fields = {}
        else:
            fields = {}
    return events


async def opened(engine: FakeEngine) -> FakeWatch:
    async with asyncio.timeout(TIMEOUT_S):
        while not engine.watches:
            await asyncio.sleep(0)
    return engine.watches[0]


async def closed(watch: FakeWatch) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not watch.is_closed:
            await asyncio.sleep(0)


async def test_every_kind_of_event_as_a_router_reads_it() -> None:
    engine = FakeEngine()
    async with (
        serving(engine) as server,
        server.client() as client,
        client.stream("GET", PATH) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        watch = await opened(engine)
        for event in (
            CacheEvent(kind="snapshot", count=2, parent=0xAB),
            CacheEvent(kind="stored", hashes=[1, 2**64 - 1]),
            CacheEvent(kind="stored", hashes=[3], parent=2**63),
            CacheEvent(kind="removed", hashes=[3]),
            CacheEvent(kind="cleared"),
            CacheEvent(kind="lost", count=7),
            None,
        ):
            watch.events.put_nowait(event)
        assert await read_events(response) == [
            (
                0,
                "snapshot",
                {
                    "model": MODEL,
                    "page_size": 16,
                    "hash": "xxh3_64(parent as uint64, token ids as int32; little-endian)",
                    "root": "00000000000000ab",
                    "total_pages": 1024,
                    "num_pages": 2,
                },
            ),
            (1, "stored", {"parent": None, "hashes": ["0000000000000001", "f" * 16]}),
            (2, "stored", {"parent": "8000000000000000", "hashes": ["0000000000000003"]}),
            (3, "removed", {"hashes": ["0000000000000003"]}),
            (4, "cleared", {}),
            (5, "lost", {"num_events": 7}),
        ]
        await closed(watch)


async def test_who_leaves_is_watched_no_more_and_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_events, "MAX_WATCHERS", 1)
    engine = FakeEngine()
    async with serving(engine) as server, server.client() as client:
        async with client.stream("GET", PATH):
            error = error_of(await client.get(PATH), 429)
            assert error["code"] == "too_many_watchers"
            assert len(engine.watches) == 1
        await closed(engine.watches[0])
        async with client.stream("GET", PATH) as response:
            assert response.status_code == 200


async def test_silence_is_filled_with_comments() -> None:
    engine = FakeEngine()
    async with (
        serving(engine, config_of(sse_ping_s=0.1)) as server,
        server.client() as client,
        client.stream("GET", PATH) as response,
    ):
        lines = response.aiter_lines()
        async with asyncio.timeout(TIMEOUT_S):
            assert (await anext(lines)).startswith(": ")
            (await opened(engine)).events.put_nowait(CacheEvent(kind="cleared"))
            engine.watches[0].events.put_nowait(None)
            assert [line async for line in lines if "cleared" in line] == ["event: cleared"]


async def test_a_shutdown_ends_it_while_answers_still_run() -> None:
    engine = FakeEngine()
    engine.gate.hold(1)
    async with serving(engine) as server, server.client() as client:
        body = {"model": MODEL, "messages": MESSAGES, "stream": True}
        async with (
            client.stream("GET", PATH) as watching,
            client.stream("POST", CHAT, json=body) as answering,
        ):
            await opened(engine)
            server.server.request_stop("test")
            assert await read_events(watching) == []
            assert error_of(await client.get(PATH), 503)["code"] == "shutting_down"
            engine.gate.release()
            lines = [line async for line in answering.aiter_lines() if line]
            assert lines[-1] == "data: [DONE]"
        async with asyncio.timeout(TIMEOUT_S):
            await server.stopped()


async def test_a_dead_engine_is_not_watched() -> None:
    engine = FakeEngine()
    async with serving(engine) as server, server.client() as client:
        await engine.die()
        assert error_of(await client.get(PATH), 503)["code"] == "engine_dead"
    assert engine.watches == []
