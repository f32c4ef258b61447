"""Requests over bare sockets: cheap enough that hundreds of streams leave the server its cores, and
close enough to the wire to go away in the middle of anything.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PATH = "/v1/completions"


@dataclass(slots=True)
class Answer:
    """What came of one request."""

    status: int = 0
    """0: no answer came."""
    text: str = ""
    finish_reason: str | None = None
    error_code: str | None = None
    is_complete: bool = False
    """The stream's end marker came, or the whole body."""
    num_events: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    """Of what is no stream."""


class Http:
    """One server's address."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._host, self._port = address.hostname, address.port

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        async with self._connection() as (reader, writer):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            data = await reader.read()
        head, _, body = data.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = b"".join(body.split(b"\r\n")[1::2])
        return int(head.split()[1]), body.decode()

    async def get_json(self, path: str) -> Any:
        """The body of a 200. *Raises* ``RuntimeError`` for anything else."""
        status, body = await self.get(path)
        if status != 200:
            raise RuntimeError(f"GET {path} was answered with {status}: {body[:200]}")
        return json.loads(body)

    async def stream(self, body: Mapping[str, Any], leave_after: int | None = None) -> Answer:
        """Stream a completion; go away without a word after so many events, if told to.

        *Raises* ``OSError`` if the connection breaks.
        """
        answer = Answer()
        async with self._connection() as (reader, writer):
            writer.write(_post({**body, "stream": True}))
            answer.status = await _read_head(reader)
            if answer.status != 200:
                answer.body = json.loads(await _read_body(reader))
                answer.error_code = answer.body["error"]["code"]
                return answer
            while line := await reader.readline():
                if not line.startswith(b"data: "):
                    continue
                if line == b"data: [DONE]\n":
                    answer.is_complete = True
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    answer.error_code = event["error"]["code"]
                    continue
                answer.num_events += 1
                for choice in event["choices"]:
                    answer.text += choice["text"]
                    answer.finish_reason = choice["finish_reason"] or answer.finish_reason
                if answer.num_events == leave_after:
                    return answer
        return answer

    async def ask(self, body: Mapping[str, Any]) -> Answer:
        """A completion in one piece. *Raises* ``OSError`` if the connection breaks."""
        answer = Answer()
        async with self._connection() as (reader, writer):
            writer.write(_post(body))
            answer.status = await _read_head(reader)
            answer.body = json.loads(await _read_body(reader))
        if answer.status == 200:
            (choice,) = answer.body["choices"]
            answer.text, answer.finish_reason = choice["text"], choice["finish_reason"]
            answer.is_complete = True
        else:
            answer.error_code = answer.body["error"]["code"]
        return answer

    @contextlib.asynccontextmanager
    async def _connection(
        self,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=2**20)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _post(body: Mapping[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def _read_head(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1])


async def _read_body(reader: asyncio.StreamReader) -> bytes:
    """What is left until the connection ends: never chunked, where it is no stream."""
    return await reader.read()
