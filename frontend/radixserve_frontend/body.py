"""Reading a request's body: of JSON, of bounded size, in bounded time, not buffered beyond that,
and few of them at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import anyio
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from radixserve_frontend.http_errors import HttpError

T = TypeVar("T")

# How much of an oversized body is read and thrown away, so that a client which does not listen
# while it sends gets to read the 413 instead of a broken connection; and for how long.
_MAX_DISCARDED_BYTES: Final = 256 * 2**20
_MAX_DISCARD_S: Final = 10.0

MAX_BODIES_AT_ONCE: Final = 16
"""How many bodies of the largest size may be on their way at once."""
_RETRY_AFTER_S: Final = 5


class Bodies:
    """The bodies that are being received, all together, and how long one may take. One per app, at
    ``app.state.bodies``."""

    def __init__(self, *, max_total_bytes: int, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._max_total_bytes = max_total_bytes
        self._num_bytes = 0

    @contextmanager
    def receiving(self) -> Iterator["_Receiving"]:
        """One body, for as long as it is being received."""
        one = _Receiving(self)
        try:
            yield one
        finally:
            self._num_bytes -= one.num_bytes

    @contextmanager
    def holding(self, num_bytes: int) -> Iterator[None]:
        """A body that was received, for as long as it waits to be made ready to run. It goes on
        counting, so that what waits is bounded as well."""
        self._num_bytes += num_bytes
        try:
            yield
        finally:
            self._num_bytes -= num_bytes

    def take(self, num_bytes: int) -> None:
        """*Raises* ``HttpError`` (503) if there is no room for so many more."""
        if self._num_bytes + num_bytes > self._max_total_bytes:
            raise HttpError(
                503,
                "too many large bodies are on their way at this moment; try again in "
                f"{_RETRY_AFTER_S} s",
                code="overloaded",
                headers={"Retry-After": str(_RETRY_AFTER_S), "Connection": "close"},
            )
        self._num_bytes += num_bytes


class _Receiving:
    """One body on its way."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.num_bytes = 0

    def take(self, num_bytes: int) -> None:
        self._bodies.take(num_bytes)
        self.num_bytes += num_bytes


async def read_json_body(request: Request, max_bytes: int) -> bytes:
    """The body as sent, at most ``max_bytes`` long; not yet parsed.

    *Raises* ``HttpError`` 415 for another content type than JSON, 413 for a larger body (said by
    its Content-Length or found while counting), 400 for a broken Content-Length, 408 for one that
    takes too long, 503 if there are too many; ``starlette.requests.ClientDisconnect`` if the client
    goes away.
    """
    _check_content_type(request)
    declared = _content_length(request)
    if declared is not None and declared > max_bytes:
        await _discard(request)
        raise _too_large(declared, max_bytes)
    bodies: Bodies = request.app.state.bodies
    chunks: list[bytes] = []
    with bodies.receiving() as body, anyio.move_on_after(bodies.timeout_s) as limit:
        async for chunk in request.stream():
            if body.num_bytes + len(chunk) > max_bytes:
                chunks.clear()
                await _discard(request)
                raise _too_large(body.num_bytes + len(chunk), max_bytes)
            body.take(len(chunk))
            chunks.append(chunk)
    if limit.cancelled_caught:
        raise HttpError(
            408,
            f"the body took longer than {bodies.timeout_s:g} s (the server's --body-timeout-s)",
            code="request_timeout",
            headers={"Connection": "close"},
        )
    return b"".join(chunks)


async def in_thread(request: Request, body: bytes, prepare: Callable[..., T], *args: Any) -> T:
    """``prepare(body, *args)``, off the event loop. *Raises* what it raises. Many may wait for a
    thread: their bodies count until it is done."""
    bodies: Bodies = request.app.state.bodies
    with bodies.holding(len(body)):
        return await run_in_threadpool(prepare, body, *args)


def _check_content_type(request: Request) -> None:
    given = request.headers.get("content-type")
    if given is None:
        return
    kind = given.partition(";")[0].strip().lower()
    # Being strict also keeps web pages of other origins out: a browser sends text/plain to anybody,
    # but asks first before it sends JSON.
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise HttpError(
            415,
            f"the content type is {kind[:80]!r}; send the body as JSON with "
            "'Content-Type: application/json'",
            code="unsupported_content_type",
        )


def _content_length(request: Request) -> int | None:
    given = request.headers.get("content-length")
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal()):
        raise HttpError(400, f"the Content-Length {given[:40]!r} is not a number")
    return int(given[:20])


async def _discard(request: Request) -> None:
    if "100-continue" in request.headers.get("expect", "").lower():
        return  # The client waits for our word before it sends.
    discarded = 0
    with anyio.move_on_after(_MAX_DISCARD_S):
        while discarded < _MAX_DISCARDED_BYTES:
            message = await request.receive()
            discarded += len(message.get("body", b""))
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return


def _too_large(num_bytes: int, max_bytes: int) -> HttpError:
    return HttpError(
        413,
        f"the body has {num_bytes} bytes or more; at most {max_bytes} are accepted "
        "(the server's --max-body-bytes)",
        code="request_too_large",
        headers={"Connection": "close"},
    )
