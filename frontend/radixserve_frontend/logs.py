"""How the log is written: lines of text, or a JSON object a line; and what is kept out of it.

    text   2026-01-31 12:00:00,123 INFO radixserve_frontend.access_log: ...
    json   {"time":"2026-01-31T12:00:00.123Z","level":"info","logger":"...","message":"..."}

A log record may bring fields along (``extra={"fields": {...}}``): in JSON they are the object's own
and replace the message. Exceptions are logged with their stacks and types but without their
messages, which may quote what somebody wrote; with all there is where requests may be logged.
Other libraries log warnings only: their debug lines may hold texts and headers.
"""

import logging
import sys
import time
import traceback
from types import TracebackType
from typing import Any, Final

from radixserve_frontend.json_text import encode_json

REQUESTS_LOGGER: Final = "radixserve_frontend.request_log"
"""What users write and get, if asked for."""

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def configure_logging(level: str, *, log_format: str = "text", log_requests: bool = False) -> None:
    """Send radixserve's loggers to stderr. *Mutates* the process's logging."""
    handler = logging.StreamHandler(sys.stderr)
    make = JsonLines if log_format == "json" else TextLines
    handler.setFormatter(make(with_messages=log_requests))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("radixserve").setLevel(level.upper())
    logging.getLogger("radixserve_frontend").setLevel(level.upper())
    logging.getLogger(REQUESTS_LOGGER).setLevel(logging.DEBUG if log_requests else logging.CRITICAL)


class TextLines(logging.Formatter):
    """Lines for people."""

    def __init__(self, *, with_messages: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._with_messages = with_messages

    def format(self, record: logging.LogRecord) -> str:
        """A line, and an exception's stack after it."""
        # What another handler made of the exception is kept there; it may say more.
        kept, record.exc_text = record.exc_text, None
        try:
            return super().format(record)
        finally:
            record.exc_text = kept

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802  # logging's name
        """The stacks of an exception and of what caused it."""
        return super().formatException(ei) if self._with_messages else _without_messages(ei[1])


class JsonLines(TextLines):
    """Lines for machines."""

    def format(self, record: logging.LogRecord) -> str:
        """One object."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        fields = getattr(record, "fields", None)
        entry |= {"message": record.getMessage()} if fields is None else fields
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return encode_json(entry).decode("utf-8")


def _without_messages(error: BaseException | None) -> str:
    lines: list[str] = []
    while error is not None:
        lines += traceback.format_tb(error.__traceback__)
        lines.append(f"{type(error).__module__}.{type(error).__qualname__}\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if error is not None:
            lines.append("because of, or while handling:\n")
    return "".join(lines).rstrip("\n")
