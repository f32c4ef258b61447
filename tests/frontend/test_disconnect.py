"""A client that goes away takes its work with it, promptly, and nobody else's."""

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from radixserve_frontend.disconnect import run_while_connected
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, COMPLETIONS, MESSAGES
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, serving


async def until(event: asyncio.Event) -> None:
    """Wait for what must come."""
    async with asyncio.timeout(TIMEOUT_S):
        await event.wait()


CHAT_BODY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 100}
SEVERAL_BODY: dict[str, Any] = {"model": MODEL, "prompt": ["a", "b", "c"], "max_tokens": 100}


@pytest.mark.parametrize(("path", "body"), [(CHAT, CHAT_BODY), (COMPLETIONS, SEVERAL_BODY)])
async def test_in_mid_stream(path: str, body: dict[str, Any]) -> None:
    engine = FakeEngine()
    engine.gate.hold(3)
    async with serving(engine) as server, server.client() as client:
        async with client.stream("POST", path, json={**body, "stream": True}) as response:
            async for line in response.aiter_lines():
                if line:
                    break
        for submitted in engine.submitted:
            await until(submitted.closed)
        assert all(submitted.was_aborted for submitted in engine.submitted)


async def test_before_the_first_token_of_a_stream() -> None:
    engine = FakeEngine()
    engine.gate.hold()
    async with serving(engine) as server, server.client() as client:
        async with client.stream("POST", CHAT, json={**CHAT_BODY, "stream": True}) as response:
            # The status is there as soon as the engine has accepted the request.
            assert response.status_code == 200
        await until(engine.submitted[0].closed)
        assert engine.submitted[0].was_aborted


@pytest.mark.parametrize(("path", "body"), [(CHAT, CHAT_BODY), (COMPLETIONS, SEVERAL_BODY)])
async def test_before_an_answer_in_one_piece(path: str, body: dict[str, Any]) -> None:
    engine = FakeEngine()
    engine.gate.hold(2)
    async with serving(engine) as server, server.client() as client:
        asking = asyncio.create_task(client.post(path, json=body))
        await until(engine.something_submitted)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        for submitted in engine.submitted:
            await until(submitted.closed)
        assert all(submitted.was_aborted for submitted in engine.submitted)


async def test_others_go_on() -> None:
    engine = FakeEngine()
    engine.gate.hold(4)
    async with serving(engine) as server, server.client() as client:
        staying = asyncio.create_task(client.post(CHAT, json=CHAT_BODY))
        await until(engine.something_submitted)
        async with client.stream("POST", CHAT, json={**CHAT_BODY, "stream": True}):
            pass
        leaver = engine.submitted[1]
        await until(leaver.closed)
        assert leaver.was_aborted
        assert not engine.submitted[0].closed.is_set()
        engine.gate.release()
        answer = (await staying).json()
    assert len(answer["choices"][0]["message"]["content"]) == 100


async def test_gone_while_sending_the_body() -> None:
    engine = FakeEngine()
    async with serving(engine) as server:
        host, port = server.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with server.client() as client:
            assert (await client.post(CHAT, json=CHAT_BODY)).status_code == 200
    assert len(engine.submitted) == 1


async def test_only_a_disconnect_ends_the_work() -> None:
    messages = iter([{"type": "http.request"}, {"type": "http.disconnect"}])

    async def receive() -> dict[str, str]:
        return next(messages)

    with pytest.raises(ClientDisconnect):
        await run_while_connected(receive, asyncio.Event().wait())


async def test_leavers_are_counted_as_499() -> None:
    engine = FakeEngine()
    engine.gate.hold()
    async with serving(engine) as server, server.client() as client:
        async with client.stream("POST", CHAT, json={**CHAT_BODY, "stream": True}):
            pass
        await until(engine.submitted[0].closed)
        metrics = (await client.get("/metrics")).text
    assert 'radixserve_requests_total{endpoint="/v1/chat/completions",status="499"} 1.0' in metrics
