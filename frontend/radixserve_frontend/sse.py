"""Server-sent events: how chunks are framed, and a response that never leaves work behind.

Built on sse-starlette, which pings silent connections, notices the client's going, and cancels.
What is added: bytes are framed once and cheaply; and whatever ends the response (its end, a
disconnect, a shutdown, an error in sending), the work behind it is closed before the response is
over. A client that does not read makes ``send`` wait; ``connection.py`` sees to it that it does
not wait forever.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, aclosing
from typing import Final

import anyio
from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

DONE: Final = b"data: [DONE]\n\n"

# It writes every chunk, which is what users write and get, into its debug log.
logging.getLogger("sse_starlette").setLevel(logging.INFO)


def frame(data: bytes) -> bytes:
    """One event. ``data`` is JSON, hence without raw line ends."""
    return b"data: " + data + b"\n\n"


def event_frame(name: str, data: bytes) -> bytes:
    """One event with a name. ``data`` as in ``frame``."""
    return b"event: %s\ndata: %s\n\n" % (name.encode("ascii"), data)


def named_frame(number: int, name: str, data: bytes) -> bytes:
    """One event with an id and a name. ``data`` as in ``frame``."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode("ascii"), data)


class EventStream(EventSourceResponse):
    """A stream of framed events. ``close`` is awaited exactly once, however the response ends.

    ``held`` is entered for as long as the response runs. ``ping_s``: every so many seconds a
    comment is sent.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        close: Callable[[], Awaitable[None]],
        held: AbstractContextManager[None],
        ping_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(events, ping=ping_s, sep="\n", headers=headers)
        self._events = events
        self._close = close
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ``starlette.responses.Response``."""
        with self._held:
            try:
                async with aclosing(self._events):
                    if scope["method"] == "HEAD":
                        # A body that is not sent would take forever to end.
                        head = Response(status_code=self.status_code, headers=dict(self.headers))
                        await head(scope, receive, send)
                    else:
                        await super().__call__(scope, receive, send)
            finally:
                # Whatever cancelled us must not cancel the giving back of pages.
                with anyio.CancelScope(shield=True):
                    await self._close()
