"""Draining: what is in flight finishes, what is new gets 503, and time limits hold."""

import asyncio
import json
import signal
import socket
from dataclasses import replace
from typing import Any

import httpx
import pytest

from radixserve.engine.interface import EngineHealth
from radixserve_frontend import server as server_module
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, COMPLETIONS, MESSAGES, error_of
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
            while (await other.get("/ready")).status_code == 200:
                pass
            refused = await other.post(CHAT, json=BODY)
            assert error_of(refused, 503)["code"] == "shutting_down"
            assert int(refused.headers["retry-after"]) > 0
            assert (await other.get("/ready")).json() == {"status": "draining"}
            # It is not to be killed for that.
            assert (await other.get("/health")).json() == {"status": "ok"}
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
    assert json.loads(lines[-1])["error"]["code"] == "shutting_down"
    assert engine.is_closed


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (CHAT, {"messages": MESSAGES}),
        (CHAT, {"messages": MESSAGES, "n": 2}),
        (COMPLETIONS, {"prompt": "Hello"}),
        (COMPLETIONS, {"prompt": ["Hello", "Goodbye"], "n": 2}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 20}),
        ("/v1/responses", {"input": "Hello"}),
    ],
)
async def test_when_the_time_is_up_every_kind_of_answer_has_last_words(
    path: str, more: dict[str, Any]
) -> None:
    """A stream an event that tells of an error, in its dialect; what is not streamed a 503."""
    engine = FakeEngine()
    engine.gate.hold(2)
    body = {"model": MODEL, **more}
    async with (
        serving(engine, config_of(shutdown_timeout_s=0.05)) as server,
        server.client() as client,
        server.client() as other,
    ):
        lines: list[str] = []
        started = asyncio.Event()

        async def read() -> None:
            async with client.stream("POST", path, json={**body, "stream": True}) as response:
                assert response.status_code == 200
                async for line in response.aiter_lines():
                    if line:
                        lines.append(line)
                        started.set()

        async with asyncio.timeout(TIMEOUT_S):
            streaming = asyncio.create_task(read())
            await started.wait()
            num_submitted = len(engine.submitted)
            whole = asyncio.create_task(other.post(path, json=body))
            while len(engine.submitted) < 2 * num_submitted:
                await asyncio.sleep(0)
            server.server.request_stop("test")
            await streaming
            answer = await whole
            await server.stopped()
    last = json.loads(lines[-1].removeprefix("data: "))
    assert "shutting down" in json.dumps(last)
    assert "error" in last or last.get("type") in ("error", "response.failed")
    assert answer.status_code == 503
    assert "shutting down" in answer.json()["error"]["message"]


async def test_a_server_whose_engine_is_given_up_ends_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that whoever runs it starts it anew."""
    engine = EngineThatEnds()
    monkeypatch.setattr(server_module, "AsyncEngine", engine)

    def banner(*_: object) -> str:
        engine.is_given_up.set()
        return ""

    monkeypatch.setattr(server_module, "banner", banner)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    async with asyncio.timeout(TIMEOUT_S):
        assert await server_module.serve(config_of(), listener) == 1
    assert engine.is_closed
    listener.close()


class EngineThatEnds(FakeEngine):
    """It is given up when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_given_up = asyncio.Event()

    async def start(self, *_: object) -> "EngineThatEnds":
        return self

    async def given_up(self) -> None:
        await self.is_given_up.wait()
        await self.die()

    @property
    def health(self) -> EngineHealth:
        return replace(super().health, has_given_up=self.is_given_up.is_set())


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
            await engine.die()
            await streaming
        assert json.loads(lines[-1])["error"]["code"] == "engine_dead"
        error = error_of(await client.post(CHAT, json=BODY), 503)
        assert error["code"] == "engine_dead"
        for path in ("/health", "/ready"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()) == (503, {"status": "engine dead"})
