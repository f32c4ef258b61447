"""Thinking, template variables and continued answers over plain HTTP."""

from typing import Any

import pytest

from tests.frontend.fake_engine import FakeEngine, says
from tests.frontend.fake_tokenizer import FakeTokenizer
from tests.frontend.http_calls import MESSAGES, chat, error_of, events_of

CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
TOOL = {"type": "function", "function": {"name": "f"}}


def thinking_engine(*texts: str, opening: str = "", **options: Any) -> FakeEngine:
    engine = FakeEngine(says(*texts, **options))
    tokenizer: Any = engine.tokenizer
    assert isinstance(tokenizer, FakeTokenizer)
    tokenizer.thinks = True
    tokenizer.opening = opening
    return engine


async def message_of(engine: FakeEngine, **body: Any) -> dict[str, Any]:
    response = await chat(engine, **body)
    assert response.status_code == 200, response.text
    message = response.json()["choices"][0]["message"]
    assert isinstance(message, dict)
    return message


@pytest.mark.parametrize(
    ("opening", "texts", "reasoning", "content"),
    [
        ("<think>\n", ("hm\n</th", "ink>\n\nYes."), "hm", "Yes."),
        ("", ("<think>\nhm\n</think>\n\nYes.",), "hm", "Yes."),
        ("", ("Yes.",), None, "Yes."),
        ("<think>\n\n</think>\n\n", ("<think>Yes.",), None, "<think>Yes."),
        ("<think>", ("still thinking",), "still thinking", ""),
    ],
)
async def test_thinking_is_set_apart(
    opening: str, texts: tuple[str, ...], reasoning: str | None, content: str
) -> None:
    message = await message_of(thinking_engine(*texts, opening=opening))
    assert message["content"] == content
    assert message.get("reasoning_content") == reasoning
    assert ("reasoning_content" in message) == (reasoning is not None)

    engine = thinking_engine(*texts, opening=opening)
    chunks = events_of(await chat(engine, stream=True))[:-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == (reasoning or "")
    assert "".join(delta.get("content") or "" for delta in deltas) == content


async def test_calls_come_after_thinking_and_not_in_it() -> None:
    engine = thinking_engine(f"{CALL}</think>\n\nSo:\n{CALL}", opening="<think>\n")
    response = await chat(engine, tools=[TOOL])
    (choice,) = response.json()["choices"]
    assert choice["message"]["reasoning_content"] == CALL
    assert choice["message"]["content"] == "So:"
    assert len(choice["message"]["tool_calls"]) == 1
    assert choice["finish_reason"] == "tool_calls"


async def test_thinking_comes_back_in_a_conversation() -> None:
    for field in ("reasoning_content", "reasoning"):
        turn = {"role": "assistant", "content": "Yes.", field: "hm"}
        assert (await chat(FakeEngine(), messages=[*MESSAGES, turn])).status_code == 200
    error = error_of(await chat(FakeEngine(), messages=[turn | {"reasoning": 1}]), 400)
    assert error["param"] == "messages[0].reasoning"


@pytest.mark.parametrize(
    ("body", "variables"),
    [
        ({}, {}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (
            {"reasoning_effort": "none"},
            {"reasoning_effort": "none", "enable_thinking": False, "thinking": False},
        ),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"thinking": True}},
            {"reasoning_effort": "none", "enable_thinking": False, "thinking": True},
        ),
    ],
)
async def test_variables_reach_the_template(
    body: dict[str, Any], variables: dict[str, Any]
) -> None:
    engine = thinking_engine("x")
    await message_of(engine, **body)
    tokenizer: Any = engine.tokenizer
    assert tokenizer.variables == variables


async def test_a_format_applies_behind_thinking() -> None:
    engine = thinking_engine("x", opening="<think>\n")
    await message_of(engine, response_format={"type": "json_object"})
    grammar = engine.submitted[0].params.grammar
    assert grammar is not None
    assert grammar.kind == "lark"
    assert grammar.source.startswith("start: think content")
    assert '"</think>"' in grammar.source


async def test_an_answer_that_goes_on_from_the_last_message() -> None:
    engine = FakeEngine(says(" time"))
    turns = [*MESSAGES, {"role": "assistant", "content": "Once upon a"}]
    message = await message_of(engine, messages=turns, continue_final_message=True)
    assert message["content"] == " time"
    (submitted,) = engine.submitted
    assert submitted.prompt.endswith("assistant: Once upon a")
    assert submitted.continues_prompt


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"continue_final_message": True}, "messages", "not the assistant's"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
            "both true",
        ),
        ({"add_generation_prompt": False}, "add_generation_prompt", "/v1/completions"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort", "'none', 'minimal'"),
        ({"reasoning_effort": 3}, "reasoning_effort", "'none', 'minimal'"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs", "an object"),
    ],
)
async def test_what_is_refused(body: dict[str, Any], param: str, words: str) -> None:
    error = error_of(await chat(FakeEngine(), **body), 400)
    assert error["param"] == param
    assert words in error["message"]
