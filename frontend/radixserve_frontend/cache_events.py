"""``GET /cache/events``: which prefixes the cache holds, live, for routers that send a request to
the server that holds its prefix.

    id: 0  event: snapshot  {"model", "page_size", "hash", "root", "total_pages", "num_pages"}
    id: 1  event: stored    {"parent": "9e0f..", "hashes": ["4c11..", ...]}
    id: 2  event: removed   {"hashes": ["4c11.."]}
    id: 3  event: cleared   {}
    id: 4  event: lost      {"num_events": 1200}, and then a snapshot again

Replaying is: forget all at ``snapshot`` and ``cleared``, add at ``stored``, take away at
``removed``. After a snapshot ``num_pages`` hashes come as ``stored``, parents first; from then on
every full page comes once and goes once. Ids count from 0 without a gap within one connection; a
new connection begins with a snapshot, whatever it says it has seen.

A hash is a string of 16 hexadecimal digits (JavaScript's numbers hold no 64 bits); how to compute
it is in ``cache/events.py`` and in the README. Tokens, namespaces and their root hashes are not
sent: of a page whose namespace one does not know, one learns that it is there. Whoever may read the
stream can find out whether a prompt that they guess is in the default namespace.

The stream ends when a shutdown begins, as nothing should be routed here any more, and instead of
telling more if its key has been removed.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from radixserve.engine.interface import CacheEventStream, Engine
from radixserve.types import CacheEvent
from radixserve_frontend.caller import is_still_known
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.http_errors import HttpError
from radixserve_frontend.json_text import encode_json
from radixserve_frontend.lifecycle import Lifecycle
from radixserve_frontend.sse import EventStream, named_frame

MAX_WATCHERS: Final = 64
"""Each may keep a few snapshots' worth of memory busy."""


class CacheEventsEndpoint:
    """Streams cache events to every watcher at that watcher's own pace."""

    def __init__(self, engine: Engine, config: ServerConfig, lifecycle: Lifecycle) -> None:
        self._engine = engine
        self._config = config
        self._lifecycle = lifecycle
        self._num_watchers = 0

    async def stream(self, request: Request) -> Response:
        """The events, until the client goes or the server shuts down.

        *Raises* ``HttpError`` (429) for too many watchers; ``ShuttingDownError``,
        ``EngineDeadError``.
        """
        self._lifecycle.check_accepting()
        if self._num_watchers >= MAX_WATCHERS:
            raise HttpError(
                429,
                f"{self._num_watchers} connections watch the cache already; at most {MAX_WATCHERS} "
                "may",
                code="too_many_watchers",
            )
        watch = self._engine.watch_cache()
        return EventStream(
            self._events(watch, request.scope),
            close=watch.aclose,
            # Not Lifecycle.in_flight: this ends because of a shutdown, which must not wait for it.
            held=self._counted(),
            ping_s=self._config.sse_ping_s,
            headers={"Cache-Control": "no-store"},
        )

    async def _events(self, watch: CacheEventStream, scope: Scope) -> AsyncGenerator[bytes, None]:
        number = 0
        async for event in watch:
            if not is_still_known(scope):
                return
            yield named_frame(number, event.kind, encode_json(self._data(event)))
            number += 1

    def _data(self, event: CacheEvent) -> dict[str, Any]:
        match event.kind:
            case "snapshot":
                info = self._engine.info
                return {
                    "model": self._config.model_names[0],
                    "page_size": info.page_size,
                    "hash": "xxh3_64(parent as uint64, token ids as int32; little-endian)",
                    "root": _hex(event.parent),
                    "total_pages": info.num_pages,
                    "num_pages": event.count,
                }
            case "stored":
                return {"parent": _hex(event.parent), "hashes": [*map(_hex, event.hashes)]}
            case "removed":
                return {"hashes": [*map(_hex, event.hashes)]}
            case "lost":
                return {"num_events": event.count}
            case _:
                return {}

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._num_watchers += 1
        try:
            yield
        finally:
            self._num_watchers -= 1


def _hex(value: int | None) -> str | None:
    return None if value is None else f"{value:016x}"
