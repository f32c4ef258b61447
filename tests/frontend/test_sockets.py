"""What only a real connection shows: oversized bodies, pings, headers."""

import asyncio

from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, MESSAGES, error_of
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, config_of, serving

BODY = {"model": MODEL, "messages": MESSAGES}


async def test_a_body_of_50_megabytes() -> None:
    async with serving(FakeEngine()) as server, server.client() as client:
        for _ in range(2):
            response = await client.post(
                CHAT, content=b" " * 50_000_000, headers={"Content-Type": "application/json"}
            )
            error = error_of(response, 413)
            assert "50000000" in error["message"]
        assert (await client.post(CHAT, json=BODY)).status_code == 200


async def test_a_client_that_asks_before_it_sends_is_told_at_once() -> None:
    async with serving(FakeEngine()) as server, asyncio.timeout(TIMEOUT_S):
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n"
            b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n"
        )
        status = await reader.readline()
        assert status.startswith(b"HTTP/1.1 413")
        await reader.read()
        writer.close()
        await writer.wait_closed()


async def test_a_silent_stream_is_pinged() -> None:
    engine = FakeEngine()
    engine.gate.hold()
    async with (
        asyncio.timeout(TIMEOUT_S),
        serving(engine, config_of(sse_ping_s=0.1)) as server,
        server.client() as client,
        client.stream("POST", CHAT, json={**BODY, "stream": True}) as response,
    ):
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith(": ping")
        engine.gate.release()
        assert "data: [DONE]" in [line async for line in lines]


async def test_headers_of_a_stream() -> None:
    async with serving(FakeEngine()) as server, server.client() as client:
        response = await client.post(CHAT, json={**BODY, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    assert len(response.headers["x-request-id"]) == 32
    assert response.text.endswith("data: [DONE]\n\n")


async def test_the_head_of_an_endless_stream_ends() -> None:
    engine = FakeEngine()
    async with serving(engine) as server, server.client() as client, asyncio.timeout(TIMEOUT_S):
        response = await client.head("/cache/events")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert (await client.get("/health")).status_code == 200
    assert [watch.is_closed for watch in engine.watches] == [True]
