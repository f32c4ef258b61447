"""Clients that send too slowly, read too slowly, come in too great numbers, or speak no HTTP."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from radixserve_frontend.connection import GuardedProtocol
from radixserve_frontend.endpoint import GenerationEndpoint
from tests.frontend.fake_engine import FakeEngine, Submitted, delta_of
from tests.frontend.http_calls import CHAT, MESSAGES, error_of
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, RunningServer, config_of, serving

BODY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)


class Raw:
    """A connection as bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, Any]:
        """Status and JSON of an answer that is followed by the connection's end."""
        head, _, body = (await self.reader.read()).partition(b"\r\n\r\n")
        assert b"application/json" in head
        return int(head.split()[1]), json.loads(body)


@asynccontextmanager
async def connected(server: RunningServer) -> AsyncIterator[Raw]:
    host, port = server.url.removeprefix("http://").split(":")
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield Raw(reader, writer)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_head_that_does_not_end() -> None:
    async with (
        serving(FakeEngine(), config_of(header_timeout_s=0.05)) as server,
        connected(server) as client,
    ):
        client.writer.write(b"GET /health HTTP/1.1\r\nX-Slow: ")
        status, body = await client.answer()
    assert status == 408
    assert body["error"]["code"] == "request_timeout"


async def test_a_connection_on_which_nothing_comes_is_closed() -> None:
    async with (
        serving(FakeEngine(), config_of(header_timeout_s=0.05)) as server,
        connected(server) as client,
    ):
        assert await client.reader.read() == b""


async def test_the_head_of_a_second_request_has_its_time_too() -> None:
    async with (
        serving(FakeEngine(), config_of(header_timeout_s=0.05)) as server,
        connected(server) as client,
    ):
        client.writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /he")
        assert (await client.reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        status, _ = await client.answer()
    assert status == 408


async def test_between_requests_a_connection_may_rest() -> None:
    # Far longer than the head's time, because a stream runs; then another request.
    engine = FakeEngine()
    engine.gate.hold()
    config = config_of(header_timeout_s=0.05, sse_ping_s=0.1)
    async with serving(engine, config) as server, server.client() as client:
        async with client.stream("POST", CHAT, json={**BODY, "stream": True}) as response:
            lines = response.aiter_lines()
            for _ in range(2):
                assert (await anext(lines)).startswith(": ping")
                await anext(lines)
            engine.gate.release()
            assert "data: [DONE]" in [line async for line in lines]
        assert (await client.post(CHAT, json=BODY)).status_code == 200
        assert len(server.server.server_state.connections) == 1


@pytest.mark.parametrize("content", [b"", b"{"])
async def test_a_body_that_does_not_come(content: bytes) -> None:
    engine = FakeEngine()
    async with (
        serving(engine, config_of(body_timeout_s=0.05)) as server,
        connected(server) as client,
    ):
        client.writer.write(HEAD % 100 + content)
        status, body = await client.answer()
    assert status == 408
    assert "--body-timeout-s" in body["error"]["message"]
    assert not engine.submitted


async def test_a_body_that_nobody_wants_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radixserve_frontend.connection._BODY_GRACE_S", 0.0)
    config = config_of(body_timeout_s=0.05, api_keys="a:0123456789abcdefg")
    async with serving(FakeEngine(), config) as server, connected(server) as client:
        client.writer.write(HEAD % 100)
        assert (await client.reader.readuntil(b"}")).startswith(b"HTTP/1.1 401")
        assert await client.reader.read() == b"}"


async def test_bodies_share_a_bounded_room() -> None:
    config = config_of(max_body_bytes=100_000)
    async with serving(FakeEngine(), config) as server:
        holders = []
        for _ in range(16):
            holder = connected(server)
            raw = await holder.__aenter__()
            raw.writer.write(HEAD % 100_000 + b" " * 99_999)
            await raw.writer.drain()
            holders.append((holder, raw))
        async with server.client() as client:
            bodies = server.server.config.app.state.bodies  # type: ignore[union-attr]
            async with asyncio.timeout(TIMEOUT_S):
                while bodies._num_bytes < 16 * 99_999:
                    await asyncio.sleep(0)
            refused = await client.post(CHAT, json={**BODY, "user": "x" * 50})
            error = error_of(refused, 503)
            assert error["code"] == "overloaded"
            assert "retry-after" in refused.headers
            for holder, raw in holders:
                raw.writer.write(b"{")
                assert (await raw.reader.readline()).startswith(b"HTTP/1.1 400")
                await holder.__aexit__(None, None, None)
            assert bodies._num_bytes == 0
            assert (await client.post(CHAT, json=BODY)).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"Hello!\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n" % (b"x" * 3000), 431, "headers_too_large"),
    ],
)
async def test_what_is_no_request(sent: bytes, status: int, code: str) -> None:
    async with (
        serving(FakeEngine(), config_of(max_header_bytes=2048)) as server,
        connected(server) as client,
    ):
        client.writer.write(sent)
        answer = await client.answer()
        assert answer[0] == status
        assert answer[1]["error"]["code"] == code
        assert set(answer[1]["error"]) == {"message", "type", "param", "code"}


async def test_nonsense_in_the_middle_of_an_answer_ends_the_connection() -> None:
    engine = FakeEngine()
    engine.gate.hold()
    async with serving(engine) as server, connected(server) as client:
        content = json.dumps({**BODY, "stream": True}).encode()
        head = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")
        client.writer.write(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))
        assert (await client.reader.readline()).startswith(b"HTTP/1.1 200")
        client.writer.write(b"nonsense, which waits for its turn\r\n\r\n")
        engine.gate.release()
        rest = await client.reader.read()
    assert b"data: [DONE]" in rest
    assert b"HTTP/1.1 400" in rest


async def test_too_many_connections() -> None:
    config = config_of(max_connections=2)
    async with serving(FakeEngine(), config) as server, connected(server):
        async with connected(server), connected(server) as third:
            content = json.dumps(BODY).encode()
            third.writer.write(HEAD % len(content) + content)
            status, body = await third.answer()
        assert status == 503
        assert body["error"]["code"] == "too_many_connections"
        async with asyncio.timeout(TIMEOUT_S):
            while len(server.server.server_state.connections) > 1:
                await asyncio.sleep(0)
        async with server.client() as client:
            assert (await client.get("/health")).status_code == 200


async def test_far_too_many_connections_are_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radixserve_frontend.connection._MAX_SURPLUS", 0)
    async with (
        serving(FakeEngine(), config_of(max_connections=1)) as server,
        connected(server),
        connected(server) as second,
    ):
        assert await second.reader.read() == b""


# Who does not read


def long_answer(submitted: Submitted) -> list[Any]:
    """More than the kernel's buffers take."""
    return [delta_of("x" * 1000) for _ in range(6_000)] + [delta_of("", finish_reason="stop")]


@asynccontextmanager
async def never_reading(server: RunningServer, **changes: Any) -> AsyncIterator[socket.socket]:
    """A client that asks, and then does not read. Its kernel takes as little as it can."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(TIMEOUT_S):
            await loop.sock_connect(client, (host, int(port)))
            content = json.dumps({**BODY, **changes}).encode()
            await loop.sock_sendall(client, HEAD % len(content) + content)
            yield client


def unsent_bytes(server: RunningServer) -> list[int]:
    """Per connection, what lies in this process."""
    return [
        connection.transport.get_write_buffer_size()
        for connection in server.server.server_state.connections
        if isinstance(connection, GuardedProtocol)
    ]


async def test_a_stream_that_is_not_read_waits_and_is_broken_off() -> None:
    engine = FakeEngine(long_answer)
    async with (
        serving(engine, config_of(send_timeout_s=0.2)) as server,
        never_reading(server, stream=True),
    ):
        await engine.something_submitted.wait()
        most = 0
        while not engine.submitted[0].closed.is_set():
            most = max([most, *unsent_bytes(server)])
            await asyncio.sleep(0)
        # Of 6 MB one chunk lay here, at most; and what ran for it is over.
        assert most < 3000
        assert engine.submitted[0].was_aborted
        while server.server.server_state.connections:
            await asyncio.sleep(0)


async def test_a_whole_answer_that_is_not_read_is_broken_off() -> None:
    engine = FakeEngine(long_answer)
    async with (
        serving(engine, config_of(send_timeout_s=0.1)) as server,
        never_reading(server),
    ):
        await engine.something_submitted.wait()
        await engine.submitted[0].closed.wait()
        while server.server.server_state.connections:
            await asyncio.sleep(0)


async def test_who_reads_slowly_but_reads_is_waited_for() -> None:
    engine = FakeEngine(long_answer)
    async with serving(engine) as server, never_reading(server) as client:
        while not any(unsent_bytes(server)):
            await asyncio.sleep(0)
        (connection,) = server.server.server_state.connections
        assert isinstance(connection, GuardedProtocol)
        # As if it had taken so much since the last look: the least that counts.
        connection._num_unsent = unsent_bytes(server)[0] + 16 * 2**10
        connection._check_sending()
        assert not connection.transport.is_closing()
        assert connection._num_unsent == unsent_bytes(server)[0]
        limit = connection._send_limit
        assert limit is not None
        # It reads everything: then there is nothing to wait for.
        loop = asyncio.get_running_loop()
        while any(unsent_bytes(server)):
            await loop.sock_recv(client, 2**20)
        assert limit.cancelled()
        assert connection._send_limit is None
        assert not engine.submitted[0].was_aborted


async def test_nonsense_after_an_answer_that_did_not_wait_for_the_body() -> None:
    config = config_of(api_keys="a:0123456789abcdefg")
    async with serving(FakeEngine(), config) as server, connected(server) as client:
        client.writer.write(HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked"))
        assert (await client.reader.readuntil(b"}}")).startswith(b"HTTP/1.1 401")
        client.writer.write(b"not the length of a chunk\r\n")
        assert await client.reader.read() == b""


async def test_a_shutdown_does_not_wait_for_who_sends_or_reads_slowly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("radixserve_frontend.server._CONNECTIONS_CLOSE_S", 0.1)
    engine = FakeEngine(long_answer)
    config = config_of(shutdown_timeout_s=0.1)
    async with (
        serving(engine, config) as server,
        connected(server) as silent,
        connected(server) as slow,
        never_reading(server, stream=True),
    ):
        slow.writer.write(HEAD % 100 + b"{")
        await engine.something_submitted.wait()
        while not any(unsent_bytes(server)):
            await asyncio.sleep(0)
        server.server.request_stop("test")
        await server.stopped()
        assert await silent.reader.read() == b""
    assert engine.submitted[0].was_aborted


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_streams_are_framed_as_the_client_understands(version: str) -> None:
    async with serving(FakeEngine()) as server, connected(server) as client:
        content = json.dumps({**BODY, "stream": True}).encode()
        head = (HEAD % len(content)).replace(b"HTTP/1.1", b"HTTP/" + version.encode())
        client.writer.write(head.replace(b"Host: x", b"Host: x\r\nConnection: close") + content)
        head, _, body = (await client.reader.read()).partition(b"\r\n\r\n")
    if version == "1.1":
        assert b"transfer-encoding: chunked" in head.lower()
        whole = b""
        while body:
            size, _, rest = body.partition(b"\r\n")
            whole += rest[: int(size, 16)]
            assert rest[int(size, 16) :].startswith(b"\r\n")
            body = rest[int(size, 16) + 2 :]
        body = whole
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")
    assert body.count(b'"content":"') == 11


async def test_a_failure_in_the_middle_of_a_stream_breaks_the_connection_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine()
    engine.gate.hold(2)
    async with serving(engine) as server, connected(server) as client:
        content = json.dumps({**BODY, "stream": True}).encode()
        client.writer.write(HEAD % len(content) + content)
        await client.reader.readuntil(b'"content":"b"')

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        # Not in the answer, which would be told of in the stream: in what comes after it.
        monkeypatch.setattr(GenerationEndpoint, "_totals", broken)
        engine.gate.release()
        rest = await client.reader.read()
        # No chunk of length 0: the client knows that something is missing.
        assert not rest.endswith(b"0\r\n\r\n")
        async with server.client() as other:
            assert (await other.get("/health")).status_code == 200
    (failed,) = (record for record in caplog.records if record.exc_info)
    assert failed.name == "radixserve_frontend.middleware"
