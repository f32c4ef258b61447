"""Tools over plain HTTP: what the model is shown, what its calls become, what is refused."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from radixserve.engine.interface import TextDelta
from radixserve.text.tool_calls.registry import TOOL_FORMATS
from radixserve.types import CacheHints
from tests.frontend.fake_engine import FakeEngine, Submitted, delta_of, says
from tests.frontend.fake_tokenizer import FakeTokenizer
from tests.frontend.http_calls import MESSAGES, chat, error_of, events_of

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name: str = "weather", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": PARAMETERS, **fields}}


ARGUMENTS = '{"city": "Köln \\u00e9"}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'


def fake(engine: FakeEngine) -> FakeTokenizer:
    tokenizer: Any = engine.tokenizer
    assert isinstance(tokenizer, FakeTokenizer)
    return tokenizer


async def message_of(engine: FakeEngine, **body: Any) -> dict[str, Any]:
    """The choice of an answer in one piece."""
    response = await chat(engine, **{"tools": [tool()], **body})
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert isinstance(choice, dict)
    return choice


async def test_a_call_in_one_piece() -> None:
    choice = await message_of(FakeEngine(says("Let me see.\n", CALL)))
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert len(call["id"]) == 29
    assert choice == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": "Let me see.",
            "refusal": None,
            "tool_calls": [
                {
                    "id": call["id"],
                    "type": "function",
                    "function": {"name": "weather", "arguments": ARGUMENTS},
                }
            ],
        },
        "logprobs": None,
        "finish_reason": "tool_calls",
        "stop_reason": None,
    }


async def test_calls_alone_leave_no_content() -> None:
    choice = await message_of(FakeEngine(says(CALL, "\n", CALL)))
    assert choice["message"]["content"] is None
    first, second = choice["message"]["tool_calls"]
    assert first["id"] != second["id"]
    assert first["function"] == second["function"]


async def test_a_stream_tells_name_then_arguments() -> None:
    engine = FakeEngine(says("Hm.", *CALL, CALL))
    *chunks, done = events_of(await chat(engine, tools=[tool()], stream=True))
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[:2] == [{"role": "assistant", "content": None}, {"content": "Hm."}]
    calls = [entry for delta in deltas for entry in delta.get("tool_calls", [])]
    assert all(len(delta["tool_calls"]) == 1 for delta in deltas if "tool_calls" in delta)
    for index in (0, 1):
        mine = [entry for entry in calls if entry["index"] == index]
        assert mine[0].pop("id").startswith("call_")
        assert mine[0] == {
            "index": index,
            "type": "function",
            "function": {"name": "weather", "arguments": ""},
        }
        assert all(set(entry) == {"index", "function"} for entry in mine[1:])
        assert all(set(entry["function"]) == {"arguments"} for entry in mine[1:])
        assert "".join(entry["function"]["arguments"] for entry in mine) == ARGUMENTS
    # Letter by letter came in, and so it goes out, but for escapes.
    assert len(calls) > 20
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["tool_calls"]


async def test_an_answer_cut_short_says_so() -> None:
    choice = await message_of(FakeEngine(says(CALL[:60], finish_reason="length")))
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert ARGUMENTS.startswith(call["function"]["arguments"])
    choice = await message_of(FakeEngine(says(CALL[:20], finish_reason="length")))
    assert choice["message"]["content"] == CALL[:20]
    assert "tool_calls" not in choice["message"]


async def test_a_stream_says_what_the_answer_in_one_piece_says() -> None:
    script = says("One. ", CALL[:30], CALL[30:], "\n Two. <tool_ca", "ll>no")
    whole = await message_of(FakeEngine(script))
    chunks = events_of(await chat(FakeEngine(script), tools=[tool()], stream=True))[:-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    content = "".join(delta.get("content") or "" for delta in deltas)
    assert content == whole["message"]["content"] == "One.\n Two. <tool_call>no"


@pytest.mark.parametrize("stream", [False, True])
async def test_every_choice_has_a_parser_of_its_own(stream: bool) -> None:
    def script(submitted: Submitted) -> Sequence[TextDelta]:
        return [
            delta_of(CALL[:25], index=0),
            delta_of("Hello ", index=1),
            delta_of(CALL[:40], index=2),
            delta_of(CALL[25:], index=0, finish_reason="stop"),
            delta_of("there", index=1, finish_reason="stop"),
            delta_of(CALL[40:], index=2, finish_reason="stop"),
        ]

    response = await chat(FakeEngine(script), tools=[tool()], n=3, stream=stream)
    arguments = {0: "", 1: "", 2: ""}
    contents = {0: "", 1: "", 2: ""}
    reasons = {}
    if stream:
        for chunk in events_of(response)[:-1]:
            (choice,) = chunk["choices"]
            index, delta = choice["index"], choice["delta"]
            contents[index] += delta.get("content") or ""
            for entry in delta.get("tool_calls", []):
                arguments[index] += entry["function"]["arguments"]
            reasons[index] = choice["finish_reason"]
    else:
        for choice in response.json()["choices"]:
            contents[choice["index"]] = choice["message"]["content"] or ""
            for call in choice["message"].get("tool_calls", []):
                arguments[choice["index"]] += call["function"]["arguments"]
            reasons[choice["index"]] = choice["finish_reason"]
    assert arguments == {0: ARGUMENTS, 1: "", 2: ARGUMENTS}
    assert contents == {0: "", 1: "Hello there", 2: ""}
    assert reasons == {0: "tool_calls", 1: "stop", 2: "tool_calls"}


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_are_those_of_all_tokens(stream: bool) -> None:
    engine = FakeEngine(says(*CALL))
    response = await chat(engine, tools=[tool()], logprobs=True, stream=stream)
    if stream:
        entries = [
            entry
            for chunk in events_of(response)[:-1]
            if chunk["choices"][0]["logprobs"]
            for entry in chunk["choices"][0]["logprobs"]["content"]
        ]
    else:
        entries = response.json()["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]) == CALL.encode()


async def test_tools_are_shown_whatever_the_choice_and_none_means_none_is_looked_for() -> None:
    engine = FakeEngine(says(CALL))
    choice = await message_of(engine, tool_choice="none")
    assert choice["message"]["content"] == CALL
    assert choice["finish_reason"] == "stop"
    await message_of(engine)
    shown, called = engine.submitted
    assert shown.prompt == called.prompt
    assert shown.prompt.startswith(f"tools: {json.dumps([tool()])}\n")
    assert shown.hints == CacheHints()
    assert called.hints == CacheHints(returns_soon=True)


@pytest.mark.parametrize(
    ("body", "has_grammar"),
    [
        ({}, False),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, False),
        ({"tool_choice": "none", "tools": [tool(strict=True)]}, False),
        ({"tool_choice": "required"}, True),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, True),
        ({"parallel_tool_calls": False}, True),
        ({"tools": [tool(strict=True)]}, True),
        ({"tools": [tool(strict=False)]}, False),
    ],
)
async def test_when_a_grammar_holds_calls(body: dict[str, Any], has_grammar: bool) -> None:
    engine = FakeEngine(says("x"))
    await message_of(engine, **body)
    grammar = engine.submitted[0].params.grammar
    assert (grammar is not None) == has_grammar
    if grammar is not None:
        assert grammar.kind == "lark"
        assert '\\"weather\\"' in grammar.source


async def test_a_named_tool_is_the_only_one_in_the_grammar() -> None:
    engine = FakeEngine(says("x"))
    named = {"type": "function", "function": {"name": "b"}}
    await message_of(engine, tools=[tool("a"), tool("b")], tool_choice=named)
    grammar = engine.submitted[0].params.grammar
    assert grammar is not None
    assert '\\"b\\"' in grammar.source
    assert '\\"a\\"' not in grammar.source


async def test_calls_and_results_reach_the_template() -> None:
    engine = FakeEngine(says("Rain."))
    calls = [{"id": "call_1", "type": "function",
              "function": {"name": "weather", "arguments": ARGUMENTS}}]  # fmt: skip
    response = await chat(
        engine,
        messages=[
            *MESSAGES,
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
            {"role": "tool", "tool_call_id": "call_1", "name": "weather",
             "content": [{"type": "text", "text": "more rain"}]},
            {"role": "assistant", "content": None, "refusal": "No."},
        ],
    )  # fmt: skip
    assert response.status_code == 200, response.text
    assert engine.submitted[0].prompt == (
        f"user: Hello!\nassistant: \ncall: {json.dumps(calls[0])}\ntool: rain\n"
        "tool: more rain\nassistant: No.\nassistant: "
    )


async def test_ids_are_as_the_formats_templates_want_them() -> None:
    engine = FakeEngine(says("x"))
    fake(engine).tool_format = TOOL_FORMATS["mistral"]
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": ""}
    turns = [*MESSAGES, {"role": "assistant", "tool_calls": [call]}, result]
    await chat(engine, messages=turns)
    shown = json.loads(engine.submitted[0].prompt.splitlines()[2].removeprefix("call: "))
    assert len(shown["id"]) == 9


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type", "functions only"),
    ({"tools": [tool(colour=1)]}, "tools[0].function.colour", "unknown field"),
    ({"tools": [tool(strict=1)]}, "tools[0].function.strict", "true or false"),
    ({"tools": [tool(""), tool()]}, "tools", "tools[0].function.name is ''"),
    ({"tools": [tool("a b")]}, "tools", "letters, digits"),
    ({"tools": [tool(), tool()]}, "tools", "as another tool's"),
    ({"tools": [tool(parameters={"type": "string"})]}, "tools", "describes 'string'"),
    ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters", "an object"),
    ({"tools": [tool(f"t{n}") for n in range(1000)]}, "tools", "entries"),
    ({"tools": [tool(description="x" * 600_000)]}, "tools", "bytes of JSON"),
    ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
    ({"tool_choice": "maybe", "tools": [tool()]}, "tool_choice", "'auto', 'none' or 'required'"),
    ({"tool_choice": 7, "tools": [tool()]}, "tool_choice", "an object that names a tool"),
    ({"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [tool()]},
     "tool_choice", "none of the tools"),
    ({"tool_choice": {"type": "allowed_tools"}, "tools": [tool()]}, "tool_choice.type", "function"),
    ({"functions": [{"name": "f"}]}, "functions", "not supported"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "required"),
    ({"messages": [{"role": "tool", "tool_call_id": "x"}]}, "messages[0].content", "required"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "not supported"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "required"),
    ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].content", "required"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]},
     "messages[0].tool_calls[0].function", "required"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [
        {"id": "x", "function": {"name": "f", "arguments": "{}"}}]}]},
     "messages[0].tool_calls", "only the assistant"),
    ({"messages": [{"role": "assistant", "tool_calls": [
        {"id": "x", "type": "custom", "function": {"name": "f", "arguments": "{}"}}]}]},
     "messages[0].tool_calls[0].type", "function"),
    ({"messages": [{"role": "assistant", "tool_calls": [
        {"id": "x", "function": {"name": "f", "arguments": {}}}]}]},
     "messages[0].tool_calls[0].function.arguments", "expected a string"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "words"), BAD)
async def test_what_is_refused(body: dict[str, Any], param: str, words: str) -> None:
    engine = FakeEngine()
    error = error_of(await chat(engine, **body), 400)
    assert error["param"] == param
    assert words in error["message"]
    assert engine.submitted == []


async def test_schemas_of_hostile_depth_are_refused_quickly() -> None:
    deep: dict[str, Any] = {}
    for _ in range(400):
        deep = {"properties": {"a": deep}}
    error = error_of(await chat(FakeEngine(), tools=[tool(parameters=deep)]), 400)
    assert "nested more than" in error["message"]


async def test_a_model_whose_calls_are_unknown() -> None:
    engine = FakeEngine(says("x"))
    fake(engine).tool_format = None
    error = error_of(await chat(engine, tools=[tool()]), 400)
    assert error["param"] == "tools"
    assert "--tool-format" in error["message"]
    assert (await chat(engine, tools=[tool()], tool_choice="none")).status_code == 200


async def test_a_template_without_a_place_for_tools() -> None:
    engine = FakeEngine(says("x"))
    fake(engine).template_variables = frozenset()
    error = error_of(await chat(engine, tools=[tool()]), 400)
    assert error["param"] == "tools"
    assert "shows no tools" in error["message"]
