"""Conversations made ready to run, whatever dialect they came in."""

from dataclasses import replace
from typing import Any, cast

import pytest

from radixserve.errors import InvalidRequestError
from radixserve.ids import DEFAULT_NAMESPACE
from radixserve.sampling.params import SamplingParams
from radixserve.text.answer import ContentText, PlainAnswer, ReasoningText
from radixserve.text.token_memory import TokenMemory
from radixserve.text.tokenizer import Tokenizer
from radixserve.text.tool_calls.registry import TOOL_FORMATS
from radixserve_frontend.conversation import (
    Conversation,
    NamedTool,
    PreparedChat,
    ToolChoice,
    prepare_chat,
)
from radixserve_frontend.tool_checks import MAX_SCHEMA_DEPTH, MAX_TOOLS, check_depth, check_tools
from tests.frontend.fake_tokenizer import FakeTokenizer

USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
PLAIN = Conversation(messages=[USER])
PARAMS = SamplingParams(max_tokens=7)


def prepare(conversation: Conversation, tokenizer: FakeTokenizer | None = None) -> PreparedChat:
    memory = TokenMemory(cast(Tokenizer, tokenizer or FakeTokenizer()), max_bytes=0)
    return prepare_chat(memory, DEFAULT_NAMESPACE, conversation, PARAMS)


def test_a_plain_chat() -> None:
    chat = prepare(PLAIN)
    assert bytes(chat.prompt_ids) == b"user: hi\nassistant: "
    assert chat.params is PARAMS
    assert chat.visible_ids == frozenset()
    assert chat.is_plain
    assert isinstance(chat.new_parser(), PlainAnswer)


def test_only_markers_that_are_looked_for_are_visible() -> None:
    tokenizer = FakeTokenizer()
    special = {"<think>": 1, "</think>": 2, "[TOOL_CALLS]": 3, "[ARGS]": 4, "<|end|>": 5}
    tokenizer.vocabulary.special_tokens = special
    tokenizer.tool_format = TOOL_FORMATS["mistral"]
    with_tools = replace(PLAIN, tools=[TOOL])
    assert prepare(PLAIN, tokenizer).visible_ids == frozenset()
    assert prepare(with_tools, tokenizer).visible_ids == {3, 4}
    assert prepare(replace(with_tools, tool_choice="none"), tokenizer).visible_ids == frozenset()
    tokenizer.thinks = True
    assert prepare(PLAIN, tokenizer).visible_ids == {1, 2}
    required = prepare(replace(with_tools, tool_choice="required"), tokenizer)
    assert required.visible_ids == {1, 2, 3, 4}
    assert required.params.max_tokens == 7
    assert required.params.grammar is not None
    # Special tokens are tokens there, not text.
    assert "<[3]>" in required.params.grammar.source
    assert "TOOL_CALLS" not in required.params.grammar.source


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<think>Well", [ReasoningText("x")]),
        ("<think>Well</think>So", [ContentText("x")]),
        ("Well", [ContentText("x")]),
    ],
)
def test_thinking_goes_on_where_the_last_message_left_it(
    content: str, expected: list[Any], in_parts: bool
) -> None:
    tokenizer = FakeTokenizer()
    tokenizer.thinks = True
    said: Any = [{"type": "text", "text": content}] if in_parts else content
    turn = {"role": "assistant", "content": said}
    chat = prepare(Conversation(messages=[USER, turn], continues_last=True), tokenizer)
    assert chat.new_parser().feed("x") == expected


@pytest.mark.parametrize("messages", [[], [USER]])
def test_only_an_assistants_message_can_be_continued(messages: list[Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prepare(Conversation(messages=messages, continues_last=True))
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("choice", "tools"), [("required", []), (NamedTool("f"), []), (NamedTool("g"), [TOOL])]
)
def test_choices_of_tools_that_are_not_there(choice: ToolChoice, tools: list[Any]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prepare(replace(PLAIN, tools=tools, tool_choice=choice))
    assert caught.value.param == "tool_choice"


def test_limits_of_tools() -> None:
    def tools(count: int) -> list[dict[str, Any]]:
        return [{"type": "function", "function": {"name": f"t{n}"}} for n in range(count)]

    check_tools(tools(MAX_TOOLS))
    with pytest.raises(InvalidRequestError, match="at most"):
        check_tools(tools(MAX_TOOLS + 1))


def test_limits_of_depth() -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    check_depth(nested(MAX_SCHEMA_DEPTH - 1), "x", "tools")
    with pytest.raises(InvalidRequestError, match="nested more than"):
        check_depth(nested(MAX_SCHEMA_DEPTH), "x", "tools")
    with pytest.raises(InvalidRequestError, match="nested more than"):
        check_depth(nested(100_000), "x", "tools")
