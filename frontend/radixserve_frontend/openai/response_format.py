"""What the content of an answer must look like: ``response_format`` and its relatives.

    {"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}     OpenAI's
    regex, grammar                                                             extras
    structured_outputs {json | regex | choice | grammar}                       as vLLM has them

One of them at most. A schema is enforced whether or not it says ``strict``: what is asked for is
what comes. Whether a grammar can be used at all, the engine says.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from radixserve.errors import InvalidRequestError
from radixserve.sampling.grammar import GrammarSpec
from radixserve.text.lark import one_of
from radixserve_frontend.strict import StrictModel
from radixserve_frontend.tool_checks import check_depth

MAX_CHOICES: Final = 1024

_ANY_OBJECT: Final = {"type": "object"}


class JsonSchema(StrictModel):
    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(StrictModel):
    type: str
    json_schema: JsonSchema | None = None

    @field_validator("type")
    @classmethod
    def _known_type(cls, value: str) -> str:
        if value not in ("text", "json_object", "json_schema"):
            raise PydanticCustomError(
                "invalid_value",
                "{shown} is not one of text, json_object, json_schema",
                {"shown": repr(value[:40])},
            )
        return value


class StructuredOutputs(StrictModel):
    json_: Annotated[dict[str, Any] | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: (
        Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_CHOICES)] | None
    ) = None
    grammar: str | None = None
    json_object: Literal[True] | None = None


class HasFormat(Protocol):
    """Whatever request may say what its answer must look like."""

    @property
    def response_format(self) -> ResponseFormat | None: ...
    @property
    def regex(self) -> str | None: ...
    @property
    def grammar(self) -> str | None: ...
    @property
    def structured_outputs(self) -> StructuredOutputs | None: ...


@dataclass(frozen=True, slots=True)
class ContentGrammar:
    """A grammar and the field of the request that asks for it."""

    spec: GrammarSpec | None = None
    field: str = "response_format"


def content_grammar(request: HasFormat) -> ContentGrammar:
    """What the request asks for. *Raises* ``InvalidRequestError`` naming the field."""
    found: list[ContentGrammar] = []
    if request.response_format is not None:
        spec = _of_response_format(request.response_format)
        if spec is not None:
            found.append(ContentGrammar(spec, "response_format"))
    if request.regex is not None:
        found.append(ContentGrammar(GrammarSpec(kind="regex", source=request.regex), "regex"))
    if request.grammar is not None:
        found.append(ContentGrammar(GrammarSpec(kind="lark", source=request.grammar), "grammar"))
    if request.structured_outputs is not None:
        spec = _of_structured_outputs(request.structured_outputs)
        found.append(ContentGrammar(spec, "structured_outputs"))
    if len(found) > 1:
        names = " and ".join(each.field for each in found)
        raise InvalidRequestError(
            f"{names} were sent; an answer can obey one of them", param=found[1].field
        )
    return found[0] if found else ContentGrammar()


def _of_response_format(given: ResponseFormat) -> GrammarSpec | None:
    where = "response_format.json_schema"
    if given.type != "json_schema":
        if given.json_schema is not None:
            raise InvalidRequestError(
                f"{where} was sent, but response_format.type is '{given.type}'", param=where
            )
        return _schema(_ANY_OBJECT, where) if given.type == "json_object" else None
    if given.json_schema is None:
        raise InvalidRequestError(
            f"{where}: this field is required", param=where, code="missing_required_parameter"
        )
    schema = given.json_schema.schema_
    return _schema(_ANY_OBJECT if schema is None else schema, f"{where}.schema")


def _of_structured_outputs(given: StructuredOutputs) -> GrammarSpec:
    specs: list[GrammarSpec] = []
    if given.json_ is not None:
        specs.append(_schema(_as_schema(given.json_), "structured_outputs.json"))
    if given.json_object:
        specs.append(_schema(_ANY_OBJECT, "structured_outputs"))
    if given.regex is not None:
        specs.append(GrammarSpec(kind="regex", source=given.regex))
    if given.choice is not None:
        specs.append(one_of(tuple(given.choice)))
    if given.grammar is not None:
        specs.append(GrammarSpec(kind="lark", source=given.grammar))
    if len(specs) != 1:
        raise InvalidRequestError(
            f"structured_outputs has {len(specs)} of json, json_object, regex, choice and grammar; "
            "exactly one is needed",
            param="structured_outputs",
        )
    return specs[0]


def _as_schema(given: Mapping[str, Any] | str) -> Mapping[str, Any]:
    if not isinstance(given, str):
        return given
    try:
        schema = json.loads(given)
    except (ValueError, RecursionError):
        schema = None
    if not isinstance(schema, dict):
        raise InvalidRequestError(
            "structured_outputs.json is a string that holds no JSON object",
            param="structured_outputs",
        )
    return schema


def _schema(schema: Mapping[str, Any], where: str) -> GrammarSpec:
    check_depth(schema, where, where.partition(".")[0])
    return GrammarSpec(kind="json_schema", source=json.dumps(schema, ensure_ascii=False))
