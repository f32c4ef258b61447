"""Errors as clients read them; the one place where an error gets its HTTP status.

    InvalidRequestError       400    ShuttingDownError   503, Retry-After
    ContextLengthError        400    EngineDeadError     503, Retry-After
    ModelError                400    GenerationError      500
    UnknownModelError         404    DeadlineError        504, x-should-retry: false
    OverloadedError           429, Retry-After
    HttpError                 its own

A ``ModelError`` here means that the request asks for what this checkpoint cannot do: a chat, where
it has no chat template.

Messages may quote what a client sent, so every one is cut to a bounded length and made encodable
here, whoever wrote it. What the body looks like is the dialect's to say (``ErrorShape``); where
there is none it is OpenAI's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from radixserve.errors import (
    DeadlineError,
    EngineDeadError,
    InvalidRequestError,
    ModelError,
    OverloadedError,
    RadixServeError,
    ShuttingDownError,
    UnknownModelError,
)
from radixserve_frontend.json_text import encode_json

MAX_MESSAGE_CHARS = 1000
MAX_PARAM_CHARS = 200
RETRY_AFTER_S = 5


class GenerationError(RadixServeError):
    """The engine gave up on one request after it had accepted it."""


class HttpError(Exception):
    """What HTTP itself finds wrong, before anybody looks at the request's meaning."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorAnswer:
    """An error, ready to be sent."""

    status: int
    message: str
    error_type: str
    param: str | None = None
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self, shape: "ErrorShape") -> Response:
        return json_response(shape(self), status=self.status, headers=self.headers)


ErrorShape = Callable[[ErrorAnswer], dict[str, Any]]
"""Makes an error's body."""


def openai_error(answer: ErrorAnswer) -> dict[str, Any]:
    """OpenAI's error object."""
    return {
        "error": {
            "message": clip(answer.message, MAX_MESSAGE_CHARS),
            "type": answer.error_type,
            "param": None if answer.param is None else clip(answer.param, MAX_PARAM_CHARS),
            "code": answer.code,
        }
    }


def json_response(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON response whose encoding cannot fail on any string."""
    return Response(
        encode_json(value), status_code=status, headers=headers, media_type="application/json"
    )


def error_answer(error: Exception) -> ErrorAnswer:  # noqa: PLR0911  # a table of errors
    """What to tell the client about ``error``. An unforeseen one says nothing of our insides."""
    match error:
        case HttpError():
            return ErrorAnswer(
                status=error.status,
                message=str(error),
                error_type="invalid_request_error" if error.status < 500 else "server_error",
                code=error.code,
                headers=error.headers,
            )
        case InvalidRequestError():
            return ErrorAnswer(
                status=404 if isinstance(error, UnknownModelError) else 400,
                message=error.message,
                error_type="invalid_request_error",
                param=error.param,
                code=error.code,
            )
        case ModelError():
            return ErrorAnswer(
                status=400,
                message=str(error),
                error_type="invalid_request_error",
                code="unsupported_by_model",
            )
        case OverloadedError():
            return ErrorAnswer(
                status=429,
                message=str(error),
                error_type="rate_limit_error",
                code="overloaded",
                headers={"Retry-After": str(max(1, math.ceil(error.retry_after_s)))},
            )
        case DeadlineError():
            return ErrorAnswer(
                status=504,
                message=str(error),
                error_type="timeout_error",
                code="deadline_exceeded",
                # Clients try again after a 5xx. Once more would take as long once more.
                headers={"x-should-retry": "false"},
            )
        case ShuttingDownError() | EngineDeadError():
            draining = isinstance(error, ShuttingDownError)
            return ErrorAnswer(
                status=503,
                message=str(error)
                or ("the server is shutting down" if draining else "the engine has ended"),
                error_type="server_error",
                code="shutting_down" if draining else "engine_dead",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        case GenerationError():
            return ErrorAnswer(
                status=500, message=str(error), error_type="server_error", code="generation_failed"
            )
        case _:
            return ErrorAnswer(
                status=500,
                message="internal error; the server's log has the details under this request's id",
                error_type="server_error",
                code="internal_error",
            )


def clip(text: str, limit: int) -> str:
    """``text`` with what is not text made visible, at most about ``limit`` characters long."""
    if len(text) > limit:
        text = f"{text[: limit - 20]} … ({len(text)} chars)"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
