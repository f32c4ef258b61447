"""Errors in Anthropic's shape."""

from typing import Any

from radixserve_frontend.http_errors import MAX_MESSAGE_CHARS, ErrorAnswer, clip

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    # Anthropic's own status for it is 529; proxies and balancers know 503.
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error(answer: ErrorAnswer, request_id: str | None = None) -> dict[str, Any]:
    """The body of an error, or the data of an ``error`` event. Responses have the request's id in
    their headers, too."""
    error: dict[str, Any] = {
        "type": _TYPES.get(
            answer.status, "api_error" if answer.status >= 500 else "invalid_request_error"
        ),
        "message": clip(answer.message, MAX_MESSAGE_CHARS),
    }
    if answer.code is not None:
        # Where Anthropic's clients look for a stable name of the cause.
        error["details"] = {"error_code": answer.code}
    body = {"type": "error", "error": error}
    return body if request_id is None else {**body, "request_id": request_id}
