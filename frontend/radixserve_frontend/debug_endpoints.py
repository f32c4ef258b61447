"""``GET /debug/...``: what the server's process is doing just now. Off by default, for
administrators only; names, ids and figures, never text.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Collection

from starlette.requests import Request
from starlette.responses import Response

from radixserve_frontend.http_errors import json_response
from radixserve_frontend.record import RequestRecord


class DebugEndpoints:
    """``active``: the records of the requests in flight, kept up by ``RequestBoundary``."""

    def __init__(self, active: Collection[RequestRecord]) -> None:
        self._active = active

    async def requests(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``/debug/requests``: the requests in flight, the oldest first."""
        now = time.monotonic()
        return json_response(
            {
                "requests": [
                    {
                        "request_id": record.request_id,
                        "tenant": record.tenant or None,
                        "endpoint": record.endpoint,
                        "age_s": round(now - record.arrived_s, 3),
                        "status": record.status,
                        "stream": record.stream,
                        "prompt_tokens": record.prompt_tokens,
                        "cached_tokens": record.cached_tokens,
                        "generated_tokens": record.generated_tokens,
                    }
                    for record in sorted(self._active, key=lambda record: record.arrived_s)
                ]
            }
        )

    async def tasks(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``/debug/tasks``: asyncio's tasks and where each one waits."""
        tasks = []
        for task in asyncio.all_tasks():
            coroutine = task.get_coro()
            frames = [
                f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
                for frame in task.get_stack(limit=8)
            ]
            name = getattr(coroutine, "__qualname__", type(coroutine).__name__)
            tasks.append({"name": task.get_name(), "runs": name, "stack": frames})
        return json_response({"tasks": tasks})

    async def stacks(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``/debug/stacks``: what each thread of the server runs."""
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return json_response(
            {
                "threads": [
                    {
                        "name": names.get(ident, "?"),
                        "stack": [
                            f"{entry.name} ({entry.filename}:{entry.lineno})"
                            for entry in traceback.extract_stack(frame)
                        ],
                    }
                    for ident, frame in sys._current_frames().items()
                ]
            }
        )
