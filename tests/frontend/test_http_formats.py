"""``response_format`` and its relatives: the grammar that the engine gets, and what is refused."""

import json
from typing import Any

import pytest

from radixserve.errors import InvalidRequestError
from radixserve.sampling.grammar import GrammarSpec
from tests.frontend.fake_engine import FakeEngine, Submitted
from tests.frontend.http_calls import chat, complete, error_of

SCHEMA = {"type": "object", "properties": {"ä": {"type": "string"}}}
SCHEMA_SPEC = GrammarSpec(kind="json_schema", source=json.dumps(SCHEMA, ensure_ascii=False))
ANY_OBJECT = GrammarSpec(kind="json_schema", source='{"type": "object"}')


def json_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, **fields}}


@pytest.mark.parametrize("ask", [chat, complete])
@pytest.mark.parametrize(
    ("body", "spec"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None, "regex": None, "structured_outputs": None}, None),
        ({"response_format": {"type": "json_object"}}, ANY_OBJECT),
        ({"response_format": json_schema()}, SCHEMA_SPEC),
        ({"response_format": json_schema(strict=False, description="d")}, SCHEMA_SPEC),
        ({"response_format": json_schema(schema=None)}, ANY_OBJECT),
        ({"regex": "a+"}, GrammarSpec(kind="regex", source="a+")),
        ({"grammar": 'start: "x"'}, GrammarSpec(kind="lark", source='start: "x"')),
        ({"structured_outputs": {"json": SCHEMA}}, SCHEMA_SPEC),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, SCHEMA_SPEC),
        ({"structured_outputs": {"json_object": True}}, ANY_OBJECT),
        ({"structured_outputs": {"regex": "a+"}}, GrammarSpec(kind="regex", source="a+")),
        (
            {"structured_outputs": {"choice": ["yes", 'n"o']}},
            GrammarSpec(kind="lark", source='start: "yes" | "n\\"o"'),
        ),
        (
            {"structured_outputs": {"grammar": 'start: "x"'}},
            GrammarSpec(kind="lark", source='start: "x"'),
        ),
    ],
)
async def test_the_grammar_that_the_engine_gets(
    ask: Any, body: dict[str, Any], spec: GrammarSpec | None
) -> None:
    engine = FakeEngine()
    response = await ask(engine, **body)
    assert response.status_code == 200, response.text
    assert engine.submitted[0].params.grammar == spec


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize("ask", [chat, complete])
@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"response_format": "json"}, "response_format", "expected an object"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        (
            {"response_format": json_schema() | {"type": "json_object"}},
            "response_format.json_schema",
            "response_format.type is 'json_object'",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
            "required",
        ),
        (
            {"response_format": json_schema(colour=1)},
            "response_format.json_schema.colour",
            "unknown field",
        ),
        (
            {"response_format": json_schema(schema=[])},
            "response_format.json_schema.schema",
            "an object",
        ),
        ({"response_format": json_schema(schema=nested(100))}, "response_format", "nested more"),
        ({"response_format": json_schema(schema=nested(450))}, "response_format", "nested more"),
        ({"regex": "a", "grammar": "b"}, "grammar", "regex and grammar were sent"),
        (
            {"response_format": {"type": "json_object"}, "regex": "a"},
            "regex",
            "can obey one of them",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "has 0 of"),
        ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs", "has 2 of"),
        ({"structured_outputs": {"json": "no"}}, "structured_outputs", "no JSON object"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "at least 1"),
        ({"structured_outputs": {"guided": 1}}, "structured_outputs.guided", "unknown field"),
        ({"guided_json": {}}, "guided_json", "unknown field"),
    ],
)
async def test_what_is_refused(ask: Any, body: dict[str, Any], param: str, words: str) -> None:
    engine = FakeEngine()
    error = error_of(await ask(engine, **body), 400)
    assert error["param"] == param
    assert words in error["message"]
    assert engine.submitted == []


@pytest.mark.parametrize("ask", [chat, complete])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"response_format": json_schema()}, "response_format"),
        ({"regex": "("}, "regex"),
        ({"grammar": "x"}, "grammar"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
    ],
)
async def test_a_grammar_that_the_engine_cannot_use_is_the_fields_fault(
    ask: Any, body: dict[str, Any], param: str
) -> None:
    def script(submitted: Submitted) -> Any:
        raise InvalidRequestError("no such grammar", param="grammar", code="invalid_grammar")

    for stream in (False, True):
        error = error_of(await ask(FakeEngine(script), stream=stream, **body), 400)
        assert error["param"] == param
        assert error["code"] == "invalid_grammar"


async def test_a_tools_schema_that_the_engine_cannot_use_is_the_tools_fault() -> None:
    def script(submitted: Submitted) -> Any:
        raise InvalidRequestError("no such grammar", param="grammar", code="invalid_grammar")

    tool = {"type": "function", "function": {"name": "f", "strict": True}}
    error = error_of(await chat(FakeEngine(script), tools=[tool]), 400)
    assert error["param"] == "tools"
