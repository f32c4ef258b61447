"""Draining: what is in flight finishes, what is new gets 503, and time limits hold."""

import asyncio
import json
import signal

import httpx

from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, MESSAGES, error_of
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, config_of, serving

BODY = {"model": MODEL, "messages": MESSAGES, "max_tokens": 20}


async def read_after(
    client: httpx.AsyncClient, started: asyncio.Event, collected: list[str]
) -> None:
    """Stream an answer into ``collected``; tell when it has begun."""
    async with client.stream("POST", CHAT, json={**BODY, "stream": True}) as response:
        async for line in response.aiter_lines():
            if line:
                collected.append(line.removeprefix("data: "))
                started.set()


async def test_streams_finish_and_newcomers_are_refused() -> None:
    engine = FakeEngine()
    engine.gate.hold(2)
    async with serving(engine) as server, server.client() as client, server.client() as other:
        started = asyncio.Event()
        lines: list[str] = []
        streaming = asyncio.create_task(read_after(client, started, lines))
        async with asyncio.timeout(TIMEOUT_S):
            await started.wait()
            server.server.handle_exit(signal.SIGTERM, None)
            while (await other.get("/health")).status_code == 200:
                pass
            refused = await other.post(CHAT, json=BODY)
            assert error_of(refused, 503)["code"] == "shutting_down"
            assert int(refused.headers["retry-after"]) > 0
            assert (await other.get("/health")).json() == {"status": "draining"}
            # Looking is still allowed.
            assert (await other.get("/v1/models")).status_code == 200
            assert engine.is_alive
            engine.gate.release()
            await streaming
            await server.stopped()
    assert lines[-1] == "[DONE]"
    assert engine.is_closed
    assert not engine.submitted[0].was_aborted


async def test_when_the_time_is_up_streams_end_with_an_error() -> None:
    engine = FakeEngine()
    engine.gate.hold(2)
    config = config_of(shutdown_timeout_s=0.05)
    async with serving(engine, config) as server, server.client() as client:
        started = asyncio.Event()
        lines: list[str] = []
        streaming = asyncio.create_task(read_after(client, started, lines))
        async with asyncio.timeout(TIMEOUT_S):
            await started.wait()
            server.server.request_stop("test")
            await streaming
            await server.stopped()
    assert json.loads(lines[-1])["error"]["code"] == "engine_dead"
    assert engine.is_closed


async def test_a_second_signal_does_not_wait() -> None:
    engine = FakeEngine()
    engine.gate.hold(2)
    config = config_of(shutdown_timeout_s=3600)
    async with serving(engine, config) as server, server.client() as client:
        started = asyncio.Event()
        streaming = asyncio.create_task(read_after(client, started, []))
        async with asyncio.timeout(TIMEOUT_S):
            await started.wait()
            server.server.request_stop("test")
            server.server.request_stop("test")
            await server.stopped()
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)
    assert server.server.force_exit


async def test_a_dead_engine_is_503_and_streams_in_flight_are_told() -> None:
    engine = FakeEngine()
    engine.gate.hold(2)
    async with serving(engine) as server, server.client() as client:
        started = asyncio.Event()
        lines: list[str] = []
        streaming = asyncio.create_task(read_after(client, started, lines))
        async with asyncio.timeout(TIMEOUT_S):
            await started.wait()
            await engine.aclose()
            await streaming
        assert json.loads(lines[-1])["error"]["code"] == "engine_dead"
        error = error_of(await client.post(CHAT, json=BODY), 503)
        assert error["code"] == "engine_dead"
        health = await client.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "engine dead"})
