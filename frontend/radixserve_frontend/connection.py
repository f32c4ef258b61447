"""One client's connection: how long it may take, how much of it may lie about, how many there are.

uvicorn's HTTP/1.1 protocol, with the limits that it lacks:

- A request's head must be there ``header_timeout_s`` after its first byte (on a new connection:
  after its start), else 408. What is no HTTP gets 400 and what is too long 431, as JSON.
- A body that stays away for longer than any answer waits for it (``body.py`` says 408 first) is
  broken off; so is one that nobody wants any more.
- Nothing is sent to a client that has not taken what was sent before: a stream waits, so that what
  is buffered for a connection is one chunk at most. If the client takes less than
  ``_MIN_PROGRESS_BYTES`` in ``send_timeout_s``, the connection is broken off, which the request
  sees as a disconnect: its pages come back.
- Requests on more connections than ``max_connections`` are marked (``Connection.is_surplus``), for
  the app to refuse; connections far beyond that are closed unheard.

Knows nothing of routes and dialects. *Cost*: nothing per chunk, as long as the client reads.
"""

import asyncio
import sys
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from radixserve_frontend.config import ServerConfig
from radixserve_frontend.http_errors import ErrorAnswer, openai_error
from radixserve_frontend.json_text import encode_json

_MIN_PROGRESS_BYTES: Final = 16 * 2**10
_MAX_SURPLUS: Final = 128
# How much later than the app's own answer to a slow body the connection is broken off.
_BODY_GRACE_S: Final = 15.0
_SCOPE_KEY: Final = "radixserve.connection"


class Connection(Protocol):
    """What the app may know of and do to the connection that a request came on."""

    is_surplus: bool
    """There are more than the server wants."""

    def abort(self) -> None:
        """Break it off, and forget what was not sent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """See the module."""

    max_connections: int
    header_timeout_s: float
    body_timeout_s: float
    send_timeout_s: float

    @classmethod
    def of(cls, config: ServerConfig) -> "ConnectionLimits":
        return cls(
            max_connections=config.max_connections,
            header_timeout_s=config.header_timeout_s,
            body_timeout_s=config.body_timeout_s,
            send_timeout_s=config.send_timeout_s,
        )


def connection_of(scope: Scope) -> Connection | None:
    """The connection a request came on; None under another server than ours (tests)."""
    connection: Connection | None = scope.get(_SCOPE_KEY)
    return connection


class GuardedProtocol(H11Protocol):
    """Implements ``Connection``. Made by uvicorn, for each connection."""

    def __init__(self, limits: ConnectionLimits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits = limits
        self._inner: ASGIApp = self.app
        self.app = self._run
        self.is_surplus = False
        self._has_begun = False
        """A request's head has come, at least once."""
        self._receiving: Literal["head", "body"] | None = None
        self._receive_limit: asyncio.TimerHandle | None = None
        self._send_limit: asyncio.TimerHandle | None = None
        self._num_unsent = 0

    def abort(self) -> None:
        """See ``Connection.abort``."""
        self.transport.abort()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_SCOPE_KEY] = self
        cycle, flow, transport = self.cycle, self.flow, self.transport
        is_chunked = False

        async def send_swiftly(message: Message) -> None:
            nonlocal is_chunked
            if is_chunked and message.get("more_body") and message["body"]:
                # A piece of a stream. uvicorn and h11 would do the same, in three times the time.
                if flow.write_paused and not cycle.disconnected:
                    await flow.drain()
                if not cycle.disconnected:
                    body = message["body"]
                    transport.write(b"%x\r\n%b\r\n" % (len(body), body))
                return
            if message["type"] == "http.response.start":
                is_chunked = _is_chunked(scope, message)
            await send(message)

        await self._inner(scope, receive, send_swiftly)

    # Called by asyncio and uvicorn

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        """A client has come."""
        super().connection_made(transport)
        # Whatever cannot be sent at once makes the sender wait.
        transport.set_write_buffer_limits(high=0)
        num_more = len(self.connections) - self._limits.max_connections
        self.is_surplus = num_more > 0
        if num_more > _MAX_SURPLUS:
            transport.abort()
        else:
            self._watch_receiving()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        for limit in (self._receive_limit, self._send_limit):
            if limit is not None:
                limit.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """It says something."""
        super().data_received(data)
        self._watch_receiving()

    def on_response_complete(self) -> None:
        """An answer was handed over; the next request may be here already."""
        super().on_response_complete()
        self._watch_receiving()

    def pause_writing(self) -> None:
        """It does not read as fast as we write."""
        super().pause_writing()
        self._watch_sending()

    def resume_writing(self) -> None:
        """It has taken everything."""
        super().resume_writing()
        if self._send_limit is not None:
            self._send_limit.cancel()
            self._send_limit = None

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP, or too long."""
        error = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        if status == 431:
            limit = self.config.h11_max_incomplete_event_size
            msg = f"the request's head is too long; at most {limit} bytes are accepted (the "
            msg += "server's --max-header-bytes)"
        self._answer(status, msg, {400: "invalid_http", 431: "headers_too_large"}.get(status))

    # Slow senders

    def _watch_receiving(self) -> None:
        """Set the clock when a head or a body begins; stop it when it is complete."""
        self._has_begun = self._has_begun or self.conn.their_state is not h11.IDLE
        receiving = self._what_is_received()
        if receiving == self._receiving:
            return
        self._receiving = receiving
        if self._receive_limit is not None:
            self._receive_limit.cancel()
            self._receive_limit = None
        if receiving is not None:
            limits = self._limits
            limit_s = {
                "head": limits.header_timeout_s,
                "body": limits.body_timeout_s + _BODY_GRACE_S,
            }[receiving]
            self._receive_limit = self.loop.call_later(limit_s, self._received_too_slowly)

    def _what_is_received(self) -> Literal["head", "body"] | None:
        if self.transport.is_closing():
            return None
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        # Between two requests it is uvicorn's keep-alive time that runs.
        is_head = not self._has_begun or self.conn.trailing_data[0]
        return "head" if self.conn.their_state is h11.IDLE and is_head else None

    def _received_too_slowly(self) -> None:
        if self._receiving == "body":
            self.transport.abort()
        elif self.conn.trailing_data[0]:
            limit_s = self._limits.header_timeout_s
            self._answer(
                408, f"the request's head took longer than {limit_s:g} s", "request_timeout"
            )
        else:
            self.transport.close()

    def _answer(self, status: int, message: str, code: str | None) -> None:
        """Say what is wrong, outside of any request, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # An answer is on its way already: too late for another.
            self.transport.abort()
            return
        answer = ErrorAnswer(
            status=status, message=message, error_type="invalid_request_error", code=code
        )
        body = encode_json(openai_error(answer))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    # Slow readers

    def _watch_sending(self) -> None:
        self._num_unsent = self.transport.get_write_buffer_size()
        if self._send_limit is not None:
            self._send_limit.cancel()
        self._send_limit = self.loop.call_later(self._limits.send_timeout_s, self._check_sending)

    def _check_sending(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent > self._num_unsent - _MIN_PROGRESS_BYTES:
            self.transport.abort()
        else:
            self._watch_sending()


def _is_chunked(scope: Scope, start: Message) -> bool:
    """Whether h11 sends this response's body in chunks: where nothing says how long it is."""
    if scope["http_version"] != "1.1" or scope["method"] == "HEAD":
        return False
    return not any(
        name.lower() in (b"content-length", b"transfer-encoding") for name, _ in start["headers"]
    )
