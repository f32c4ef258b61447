"""One line for each request: everything about it but what its user wrote.

A request's path may be anything, so its route is logged; the path itself only where
``--log-requests`` asks for it.
"""

import logging
from typing import Any

from radixserve_frontend.record import RequestRecord

logger = logging.getLogger(__name__)

MAX_PATH_CHARS = 200


def log_access(record: RequestRecord, duration_s: float, *, with_path: bool) -> None:
    """Write the line. Its fields travel along, for logs of JSON (``logs.FIELDS``)."""
    # Health checks and scrapes come every few seconds.
    is_routine = record.endpoint != "other" and record.method == "GET"
    level = logging.DEBUG if is_routine else logging.INFO
    if not logger.isEnabledFor(level):
        return
    fields = _fields(record, duration_s, with_path=with_path)
    words = (f"{name}={_shown(value)}" for name, value in fields.items() if name not in _UNNAMED)
    head = " ".join(str(fields[name]) for name in _UNNAMED)
    logger.log(level, "%s %s", head, " ".join(words), extra={"fields": fields})


_UNNAMED = ("request_id", "method", "path", "status")


def _fields(record: RequestRecord, duration_s: float, *, with_path: bool) -> dict[str, Any]:
    ttft_s = record.ttft_s
    path = record.endpoint
    if with_path:
        # No line ends, no control characters, not megabytes.
        path = repr(record.path[:MAX_PATH_CHARS])[1:-1]
    return {
        "request_id": record.request_id,
        "method": record.method if record.method in _METHODS else "other",
        "path": path,
        "status": record.status,
        "outcome": record.outcome,
        "tenant": record.tenant or None,
        "stream": record.stream,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "generated_tokens": record.generated_tokens,
        "ttft_s": None if ttft_s is None else round(ttft_s, 3),
        "duration_s": round(duration_s, 3),
        "finish": ",".join(sorted(set(record.finish_reasons))) or None,
        "error": record.error_code,
    }


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _shown(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}"
        case str() if not value.isascii() or " " in value:
            return repr(value)
        case _:
            return str(value)
