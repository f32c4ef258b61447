"""Giving up work whose client has gone away, for answers that are not streamed."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

ResultT = TypeVar("ResultT")


async def run_while_connected(receive: Receive, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Await ``work``; cancel it, and wait for its clean-up, as soon as the client disconnects.

    The request's body must have been read: what ``receive`` gives then can only be the disconnect.

    *Raises* ``ClientDisconnect`` in that case; otherwise whatever ``work`` raises.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
