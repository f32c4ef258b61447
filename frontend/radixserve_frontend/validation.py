"""Pydantic's findings as sentences: what is wrong, what was given, what is expected.

One request gets one error, the first found, with ``param`` set to its path in OpenAI's notation
(``messages[2].role``).
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from radixserve.errors import InvalidRequestError

MAX_SHOWN_CHARS = 60
MAX_PATH_CHARS = 120

ModelT = TypeVar("ModelT", bound=BaseModel)

_TYPE_NAMES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}

# Pydantic's "…_type" errors, by what they wanted.
_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "none_required": "null",
}

_SENTENCES = {
    "missing": "this field is required",
    "extra_forbidden": (
        "unknown field; it is refused because ignoring it could change what you asked for"
    ),
    "too_short": "has {actual_length} entries; at least {min_length} required",
    "too_long": "has more entries than the {max_length} that are accepted",
    "greater_than": "is {shown}; it must be above {gt:g}",
    "greater_than_equal": "is {shown}; it must be at least {ge}",
    "less_than_equal": "is {shown}; it must be at most {le}",
    "finite_number": "is {shown}; it must be a finite number",
}


def validate(model: type[ModelT], value: Any) -> ModelT:
    """Build ``model`` from parsed JSON. *Raises* ``InvalidRequestError`` for the first fault."""
    if not isinstance(value, dict):
        raise InvalidRequestError(
            f"the body is {_TYPE_NAMES[type(value)]}; expected a JSON object", code="invalid_type"
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        # Whatever can have many faults fails at its first (schema.py), so there are never 100,000
        # of them to render.
        first = error.errors(include_url=False, include_context=True)[0]
        raise _as_request_error(first) from None


def _as_request_error(details: ErrorDetails) -> InvalidRequestError:
    path = _shorten(format_path(details["loc"]), MAX_PATH_CHARS)
    return InvalidRequestError(
        f"{path}: {_sentence(details)}" if path else _sentence(details),
        param=path or None,
        code=_code(details["type"]),
    )


def format_path(location: tuple[int | str, ...]) -> str:
    """``messages[2].role`` of ``("messages", 2, "role")``. Union tags, ``<such>``, are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not (part.startswith("<") and part.endswith(">")):
            path += f".{part}" if path else part
    return path


def describe(value: Any) -> str:
    """``a string ('abc')``: a value's JSON type and, if it is short, the value."""
    name = _TYPE_NAMES.get(type(value), type(value).__name__)
    if value is None or isinstance(value, dict | list):
        return name
    return f"{name} ({show(value)})"


def show(value: Any) -> str:
    """``repr`` of a JSON scalar, cut short."""
    return _shorten(repr(value), MAX_SHOWN_CHARS)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"


def _sentence(details: ErrorDetails) -> str:
    kind, value = details["type"], details["input"]
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {describe(value)}"
    template = _SENTENCES.get(kind)
    if template is None:
        # Our own validators' messages (PydanticCustomError) are sentences already.
        return details["msg"]
    return template.format(shown=show(value), **details.get("ctx", {}))


def _code(kind: str) -> str:
    if kind in _EXPECTED:
        return "invalid_type"
    return {
        "missing": "missing_required_parameter",
        "extra_forbidden": "unknown_parameter",
        "unsupported": "unsupported_parameter",
    }.get(kind, "invalid_value")
