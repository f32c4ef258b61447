"""``GET /cache/tree``: the radix tree live, for whoever draws it; and the text of one of its nodes.

    id: 0  event: hello    {"stream", "model", "page_size", "total_pages", "tenant"}
    id: 1  event: nodes    {"at": 0.1, "gone": [], "nodes": [[1, 0, 0, 40, 3, 0, 2.5, 1], ...]}
    id: 2  event: whole    {}
    id: 3  event: figures  {"free", "cached", "in_use", "total", "running", "waiting", ...}
    id: 4  event: lost     {}

A node is ``[id, parent, start, tokens, pages, locks, age_s, owner]``, see ``interface.ViewedNode``.
Replaying is: forget ``gone``, then insert or replace ``nodes``; forget all at ``lost``. The first
picture comes at once, in parts, and ends with ``whole``; from then on there is something at most
twice a second, and of each node only its newest state. A parent comes before its children. ``at``
is in seconds since the beginning of the stream: a node that is idle and was told of then is
``age_s + now - at`` old. Ids are this stream's own; ids of events count from 0 without a gap.

``GET /cache/tree/{id}?stream=TOKEN`` answers with the text of a node that a stream, still open, has
told of.

Where there are API keys a tenant is told of its own namespaces and of public tokens on the way to
them, and of nothing that others do (``engine/tree_view.py``); an administrator of everything. A
stream whose key has been removed ends instead of telling more.
"""

import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from radixserve.engine.interface import (
    Engine,
    TreeEvent,
    TreeFigures,
    TreeLost,
    TreeNodes,
    TreeStream,
    TreeViewer,
    TreeWhole,
)
from radixserve.types import EngineStats
from radixserve_frontend.caller import Caller, caller_of, is_still_known
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.http_errors import HttpError, json_response
from radixserve_frontend.json_text import encode_json
from radixserve_frontend.lifecycle import Lifecycle
from radixserve_frontend.room import Room
from radixserve_frontend.sse import EventStream, named_frame

MAX_WATCHERS: Final = 64
"""Each keeps some hundred bytes of memory a node busy."""
MAX_TENANT_WATCHERS: Final = 16
"""So that no tenant keeps all others from watching."""
NUM_KEPT: Final = 8
"""Of all, for administrators: tenants together do not keep them from watching either."""

NUM_BEFORE: Final = 40
NUM_FIRST: Final = 2000
NUM_LAST: Final = 200
"""Tokens of a node, and before it, whose text is shown."""


class _Open(NamedTuple):
    watch: TreeStream
    caller: Caller


class CacheTreeEndpoint:
    """Streams the tree to every watcher at that watcher's own pace."""

    def __init__(self, engine: Engine, config: ServerConfig, lifecycle: Lifecycle) -> None:
        self._engine = engine
        self._config = config
        self._lifecycle = lifecycle
        self._streams: dict[str, _Open] = {}
        self._room = Room(
            "too many connections watch the tree already",
            "close one",
            code="too_many_watchers",
            most=MAX_WATCHERS,
            most_of_tenant=MAX_TENANT_WATCHERS,
            num_kept=NUM_KEPT,
        )

    async def stream(self, request: Request) -> Response:
        """The tree, until the client goes or the server shuts down.

        *Raises* ``HttpError`` (429) for too many watchers; ``ShuttingDownError``,
        ``EngineDeadError``.
        """
        self._lifecycle.check_accepting()
        caller = caller_of(request.scope)
        self._room.check(caller)
        watch = self._engine.watch_tree(TreeViewer(sees_all=caller.is_admin, owns=caller.owns))
        token = secrets.token_urlsafe(16)
        return EventStream(
            self._events(watch, token, request.scope),
            close=watch.aclose,
            # Not Lifecycle.in_flight: this ends because of a shutdown, which must not wait for it.
            held=self._open(token, _Open(watch, caller)),
            ping_s=self._config.sse_ping_s,
            headers={"Cache-Control": "no-store"},
        )

    async def node(self, request: Request) -> Response:
        """The text of one node. *Raises* ``HttpError`` (404), ``EngineDeadError``."""
        open_ = self._streams.get(request.query_params.get("stream", ""))
        if open_ is None or open_.caller != caller_of(request.scope):
            raise HttpError(
                404,
                "there is no such stream; give the 'stream' of its 'hello' while it is open",
                code="stream_not_found",
            )
        name = request.path_params["id"]
        found = None
        # Longer ones are nobody's, and Python takes long to read them.
        if name.isascii() and name.isdecimal() and len(name) < 16:
            found = await open_.watch.read(
                int(name), num_before=NUM_BEFORE, num_first=NUM_FIRST, num_last=NUM_LAST
            )
        if found is None:
            raise HttpError(404, "there is no such node (any more)", code="node_not_found")
        num_left_out = found.end - found.start - len(found.first) - len(found.last)
        return json_response(
            {
                "id": int(name),
                "start": found.start,
                "tokens": found.end - found.start,
                "before": self._text(found.before),
                "text": self._text([*found.first, *(() if num_left_out else found.last)]),
                "end_text": self._text(found.last) if num_left_out else "",
                "truncated": num_left_out,
            }
        )

    async def _events(
        self, watch: TreeStream, token: str, scope: Scope
    ) -> AsyncGenerator[bytes, None]:
        info, caller = self._engine.info, caller_of(scope)
        hello = {
            "stream": token,
            "model": self._config.model_names[0],
            "page_size": info.page_size,
            "total_pages": info.num_pages if caller.is_admin else None,
            "tenant": not caller.is_admin,
        }
        yield named_frame(0, "hello", encode_json(hello))
        number = 1
        async for event in watch:
            if not is_still_known(scope):
                return
            name, data = _shown(event)
            yield named_frame(number, name, encode_json(data))
            number += 1

    def _text(self, token_ids: Sequence[int]) -> str:
        """Of tokens cut anywhere: half a character shows as U+FFFD."""
        token_bytes = self._engine.tokenizer.token_bytes
        return b"".join(map(token_bytes, token_ids)).decode("utf-8", "replace")

    @contextmanager
    def _open(self, token: str, open_: _Open) -> Iterator[None]:
        with self._room.hold(open_.caller):
            self._streams[token] = open_
            try:
                yield
            finally:
                del self._streams[token]


def _shown(event: TreeEvent) -> tuple[str, dict[str, Any]]:
    match event:
        case TreeNodes(at_s, nodes, gone):
            return "nodes", {"at": round(at_s, 1), "gone": gone, "nodes": nodes}
        case TreeWhole():
            return "whole", {}
        case TreeLost():
            return "lost", {}
        case TreeFigures(stats):
            return "figures", _figures(stats)


def _figures(stats: EngineStats) -> dict[str, int]:
    pages = stats.cache
    return {
        "free": pages.free_pages,
        "cached": pages.cached_pages,
        "in_use": pages.in_use_pages,
        "total": pages.total_pages,
        "running": stats.num_running,
        "waiting": stats.num_waiting,
        "steps": stats.num_steps,
        "computed_tokens": stats.computed_tokens,
        "generated_tokens": stats.generated_tokens,
        "prompt_tokens": stats.prompt_tokens,
        "cached_tokens": stats.cached_tokens,
        "evicted_pages": stats.evicted_pages,
        "preemptions": stats.preemptions,
    }
