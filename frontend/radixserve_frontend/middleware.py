"""The outermost layer of the app: every request gets an id, one access line, one count, an answer.

Pure ASGI, so streams pass through untouched. An exception that nobody foresaw is logged with the
request's id and becomes a 500 in OpenAI's shape, if the response has not begun; it never reaches
another request.
"""

import logging
import re
import time
import uuid
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radixserve_frontend.http_errors import error_answer
from radixserve_frontend.metrics import Metrics
from radixserve_frontend.record import RequestRecord, attach

logger = logging.getLogger(__name__)

# nginx's status for a client that went away before it had its answer; never sent, only counted.
CLIENT_GONE: Final = 499

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_HEADER: Final = "X-Request-Id"


class RequestBoundary:
    """Wraps the app. A client's own X-Request-Id is kept if it is short and plain."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(
            request_id=_request_id(scope), method=scope["method"], path=scope["path"]
        )
        attach(scope, record)
        is_complete = False

        async def send_noting(message: Message) -> None:
            nonlocal is_complete
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)[_HEADER] = record.request_id
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                is_complete = True

        try:
            await self._app(scope, receive, send_noting)
        except ClientDisconnect:
            pass
        except Exception as error:
            record.outcome, record.error_code = "error", "internal_error"
            logger.exception("request %s failed", record.request_id)
            if record.status is not None:
                # Too late for a status; the server breaks the connection off, and the client knows.
                raise
            await error_answer(error).response(record.shape_error)(scope, receive, send_noting)
        finally:
            if not is_complete and record.outcome == "ok":
                record.outcome = "gone"
                record.status = CLIENT_GONE
            duration_s = time.monotonic() - record.arrived_s
            self._metrics.observe(record, duration_s)
            _log(record, duration_s)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given: str = value.decode("latin-1")
            if _ACCEPTABLE_ID.match(given):
                return given
    return uuid.uuid4().hex


def _log(record: RequestRecord, duration_s: float) -> None:
    """The access line: everything but text."""
    # Health checks and scrapes come every few seconds.
    is_routine = record.endpoint != "other" and record.method == "GET"
    level = logging.DEBUG if is_routine else logging.INFO
    if not logger.isEnabledFor(level):
        return
    ttft_s = record.ttft_s
    logger.log(
        level,
        "%s %s %s %s outcome=%s stream=%s prompt_tokens=%d cached_tokens=%d generated_tokens=%d "
        "ttft_s=%s duration_s=%.3f finish=%s error=%s",
        record.request_id,
        record.method,
        # A path is hostile input: no line ends, no control characters, not megabytes.
        repr(record.path[:200])[1:-1],
        record.status,
        record.outcome,
        "yes" if record.stream else "no",
        record.prompt_tokens,
        record.cached_tokens,
        record.generated_tokens,
        "-" if ttft_s is None else f"{ttft_s:.3f}",
        duration_s,
        ",".join(sorted(set(record.finish_reasons))) or "-",
        record.error_code or "-",
    )
