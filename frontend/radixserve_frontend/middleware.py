"""The outermost layer of the app: every request gets an id, one access line, one count, an answer.

Pure ASGI, so streams pass through untouched. An exception that nobody foresaw is logged with the
request's id and becomes a 500 in the dialect's shape, if the response has not begun; it never
reaches another request. So is a request refused that came on a connection too many.
"""

import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radixserve_frontend.access_log import log_access
from radixserve_frontend.connection import connection_of
from radixserve_frontend.http_errors import ErrorShape, HttpError, error_answer, openai_error
from radixserve_frontend.metrics import Metrics
from radixserve_frontend.record import RequestRecord, attach
from radixserve_frontend.tracing import RequestTracer

logger = logging.getLogger(__name__)

# nginx's status for a client that went away before it had its answer; never sent, only counted.
CLIENT_GONE: Final = 499

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_HEADER: Final = "X-Request-Id"
_ANTHROPICS_HEADER: Final = "Request-Id"

_TOO_MANY: Final = HttpError(
    503,
    "there are too many connections already (the server's --max-connections); try again later",
    code="too_many_connections",
    headers={"Retry-After": "5", "Connection": "close"},
)


class RequestBoundary:
    """Wraps the app. A client's own X-Request-Id is kept if it is short and plain."""

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        active: set[RequestRecord] | None = None,
        error_shapes: Mapping[str, ErrorShape] | None = None,
        log_paths: bool = False,
        tracer: RequestTracer | None = None,
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._active = set() if active is None else active
        """What is being served just now: for ``/debug/requests``."""
        self._error_shapes = error_shapes or {}
        """By path, for errors before the route is known; elsewhere OpenAI's."""
        self._log_paths = log_paths
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(
            request_id=_request_id(scope),
            method=scope["method"],
            path=scope["path"],
            shape_error=self._shape_of(scope["path"]),
        )
        attach(scope, record)
        self._active.add(record)
        is_complete = False

        async def send_noting(message: Message) -> None:
            nonlocal is_complete
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[_HEADER] = headers[_ANTHROPICS_HEADER] = record.request_id
            await send(message)
            if not message.get("more_body", False) and message["type"] == "http.response.body":
                is_complete = True

        try:
            connection = connection_of(scope)
            if connection is not None and connection.is_surplus:
                record.outcome, record.error_code = "error", _TOO_MANY.code
                answer = error_answer(_TOO_MANY)
                await answer.response(record.shape_error)(scope, receive, send_noting)
            else:
                await self._app(scope, receive, send_noting)
        except ClientDisconnect:
            pass
        except Exception as error:
            record.outcome, record.error_code = "error", "internal_error"
            logger.exception("request %s failed", record.request_id)
            if record.status is None:
                await error_answer(error).response(record.shape_error)(scope, receive, send_noting)
                return
            # Too late for a status: broken off, so that the client knows.
            if connection is None:
                raise
            connection.abort()
        finally:
            self._active.discard(record)
            if not is_complete and record.outcome == "ok":
                record.outcome = "gone"
                record.status = CLIENT_GONE
            duration_s = time.monotonic() - record.arrived_s
            self._metrics.observe(record, duration_s)
            log_access(record, duration_s, with_path=self._log_paths)
            if self._tracer is not None:
                self._tracer.record(record, scope["headers"], duration_s)

    def _shape_of(self, path: str) -> ErrorShape:
        for prefix, shape in self._error_shapes.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                return shape
        return openai_error


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            if _ACCEPTABLE_ID.match(given):
                return given
    return uuid.uuid4().hex
