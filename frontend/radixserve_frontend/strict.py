"""Models of JSON that refuse what they do not know, quickly, whatever they are sent.

What every dialect's schema is built from. Types are strict: ``"1"`` is not 1 and 1 is not ``true``;
``null`` means absent where a field may be absent. A refusal costs no more than the body did: of
many faults one is found.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from radixserve.types import MAX_KEEP_S

_CACHE_TTLS_S = {"5m": 300.0, "1h": 3600.0}


class StrictModel(BaseModel):
    """Strict types, no unknown fields."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="before")
    @classmethod
    def _one_unknown_field_will_do(cls, value: Any) -> Any:
        """Pydantic makes an error of every unknown field, and a body has room for a million: three
        seconds during which no other thread runs, and gigabytes. One is enough to refuse it."""
        names = {part.alias or name for name, part in cls.model_fields.items()}
        if not isinstance(value, dict) or value.keys() <= names:
            return value
        unknown = next(name for name in value if name not in names)
        known = {name: value[name] for name in names if name in value}
        return {**known, unknown: value[unknown]}


def only(*accepted: Any) -> "_Only":
    """Accept only values that leave an unimplemented feature off."""
    return _Only(accepted)


@dataclass(frozen=True, slots=True)
class _Only:
    """A pydantic annotation: a check, and its description."""

    accepted: tuple[Any, ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        del schema, handler
        return {"enum": list(self.accepted)}

    def _check(self, value: Any) -> Any:
        for candidate in self.accepted:
            # 0 == False and 1 == True, hence the types.
            if type(value) is type(candidate) and value == candidate:
                return value
        shown = " or ".join(json.dumps(each) for each in self.accepted)
        raise PydanticCustomError(
            "unsupported",
            "this feature is not supported; leave it out (or send {shown})",
            {"shown": shown},
        )


def text_or_list(sentence: str) -> Discriminator:
    """Tells a string ("<text>") from an array ("<list>"); ``sentence`` answers anything else."""
    return Discriminator(
        _form_of_text, custom_error_type="invalid_type", custom_error_message=sentence
    )


def _tag_of(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"<{kind}>" if isinstance(kind, str) else None


BY_TYPE: Final = Discriminator(
    _tag_of,
    custom_error_type="invalid_type",
    custom_error_message="must be an object that says its type",
)
"""Tells objects apart by their ``type``; a member's tag is "<" + type + ">"."""


def known_types(what: str, remedy: str, *kinds: str) -> BeforeValidator:
    """Refuses objects whose ``type`` is none of ``kinds`` in words of their own, as tags cannot:
    ``what`` of that type are not supported; ``remedy``."""

    def check(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in kinds:
            raise PydanticCustomError(
                "unsupported",
                "{what} of type '{kind}' are not supported; {remedy}",
                {"what": what, "kind": kind[:40], "remedy": remedy},
            )
        return value

    return BeforeValidator(check)


def _form_of_text(value: Any) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<list>" if isinstance(value, list) else None


def _ttl_s(value: Any) -> float:
    if value is None:
        return _CACHE_TTLS_S["5m"]
    if isinstance(value, str) and value in _CACHE_TTLS_S:
        return _CACHE_TTLS_S[value]
    # A boolean is an int to Python, not to JSON.
    if type(value) in (int, float) and 0 < value <= MAX_KEEP_S:
        return float(value)
    raise PydanticCustomError(
        "invalid_ttl",
        'must be "5m", "1h" or a number of seconds above 0, at most {limit}',
        {"limit": MAX_KEEP_S},
    )


class CacheControl(StrictModel):
    """Keep the prompt up to here for a while, in Anthropic's words; ``ttl`` in seconds."""

    type: Annotated[str, only("ephemeral")]
    ttl: Annotated[float, BeforeValidator(_ttl_s)] = _CACHE_TTLS_S["5m"]
