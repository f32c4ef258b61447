"""Thinking set apart from the answer, however the prompt left it and whatever the pieces."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.text.answer import (
    AnswerPart,
    ContentText,
    PlainAnswer,
    ReasoningText,
    ToolCallArguments,
    ToolCallStart,
)
from radixserve.text.chat_formats import find_formats
from radixserve.text.reasoning import Thinking, ThinkingParser, thinking_after
from radixserve.text.tool_calls.registry import TOOL_FORMATS

CUTS = st.lists(st.integers(0, 500), max_size=15)
# Nothing that ends thinking, no line ends at its ends.
THOUGHT = (
    st.text("ab <>/think\n", max_size=30)
    .map(lambda text: text.strip("\r\n"))
    .filter(lambda text: "</think>" not in text)
)


def parts_of(text: str, thinking: Thinking, cuts: Sequence[int] = ()) -> list[AnswerPart]:
    parser = ThinkingParser(PlainAnswer(), thinking=thinking)
    parts: list[AnswerPart] = []
    bounds = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    for start, end in pairwise(bounds):
        parts += parser.feed(text[start:end])
    return parts + parser.finish()


def split(parts: list[AnswerPart]) -> tuple[str, str]:
    """(thinking, content); checks that the one comes before the other."""
    kinds = [type(part) for part in parts]
    assert kinds == sorted(kinds, key=[ReasoningText, ContentText].index)
    assert all(part.text for part in parts if isinstance(part, ReasoningText | ContentText))
    return (
        "".join(part.text for part in parts if isinstance(part, ReasoningText)),
        "".join(part.text for part in parts if isinstance(part, ContentText)),
    )


@given(thought=THOUGHT, answer=THOUGHT, cuts=CUTS, gap=st.sampled_from(["", "\n", "\r\n\n"]))
def test_thinking_that_the_prompt_opened(
    thought: str, answer: str, cuts: list[int], gap: str
) -> None:
    text = f"{gap}{thought}{gap}</think>{gap}{answer}"
    assert split(parts_of(text, Thinking.OPEN, cuts)) == (thought, answer)
    assert split(parts_of(f"{gap}{thought}{gap}", Thinking.OPEN, cuts)) == (thought, "")


@given(thought=THOUGHT, answer=THOUGHT, cuts=CUTS, gap=st.sampled_from(["", "\n", " "]))
def test_thinking_that_the_model_opens(
    thought: str, answer: str, cuts: list[int], gap: str
) -> None:
    text = f"{gap}<think>{thought}</think>{answer}"
    assert split(parts_of(text, Thinking.AUTO, cuts)) == (thought, answer)


@given(text=THOUGHT.filter(lambda text: not text.lstrip().startswith("<think>")), cuts=CUTS)
def test_an_answer_without_thinking_survives_unchanged(text: str, cuts: list[int]) -> None:
    assert split(parts_of(text, Thinking.AUTO, cuts)) == ("", text)
    assert split(parts_of(text, Thinking.CLOSED, cuts)) == ("", text)


def test_thinking_arrives_as_it_is_thought() -> None:
    parser = ThinkingParser(PlainAnswer(), thinking=Thinking.OPEN)
    assert parser.feed("a") == [ReasoningText("a")]
    assert parser.feed("b\n\n") == [ReasoningText("b")]
    assert parser.feed("c</thi") == [ReasoningText("\n\nc")]
    assert parser.feed("s") == [ReasoningText("</this")]
    assert parser.feed("\n</think>\n\nd\n") == [ContentText("d\n")]
    assert parser.feed("</think>") == [ContentText("</think>")]
    assert parser.finish() == []


def test_white_space_alone_is_an_answer_too() -> None:
    assert split(parts_of("\n \n", Thinking.AUTO)) == ("", "\n \n")


def test_calls_are_looked_for_behind_thinking_only() -> None:
    call = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    inner = TOOL_FORMATS["hermes"].new_parser(frozenset())
    parser = ThinkingParser(inner, thinking=Thinking.AUTO)
    parts = parser.feed(f"<think>{call}</think>\n\n{call}") + parser.finish()
    assert parts == [
        ReasoningText(call),
        ToolCallStart(0, "f"),
        ToolCallArguments(0, '{"a": 1}'),
    ]


@pytest.mark.parametrize(
    ("prompt", "continued", "expected"),
    [
        ("user: hi\nassistant:", None, Thinking.AUTO),
        ("user: hi\nassistant:<think>\n", None, Thinking.OPEN),
        ("user: hi\nassistant:<think>\n\n</think>\n\n", None, Thinking.CLOSED),
        ("user: what is <think>?\nassistant:", None, Thinking.AUTO),
        ("assistant:", "", Thinking.AUTO),
        ("assistant:<think>\n", "", Thinking.OPEN),
        ("assistant:Well", "Well", Thinking.CLOSED),
        ("assistant:<think>Well", "<think>Well", Thinking.OPEN),
        ("assistant:<think>Well</think>So", "<think>Well</think>So", Thinking.CLOSED),
    ],
)
def test_how_a_prompt_leaves_it(prompt: str, continued: str | None, expected: Thinking) -> None:
    assert thinking_after(prompt, continued) is expected


def test_which_checkpoints_think() -> None:
    def thinks(template: str, **facts: object) -> bool:
        given = {"special_tokens": [], "knows_thinking": False, **facts}
        return find_formats(template, **given).thinks  # type: ignore[arg-type]  # a dict of them

    assert thinks("{{ content.split('</think>') }}")
    assert thinks("", knows_thinking=True)
    assert not thinks("{{ messages }}")
    assert not thinks("<think>", knows_thinking=True, reasoning_format="none")
    assert thinks("", reasoning_format="think")


def test_formats_by_name() -> None:
    def tool_format(name: str, template: str = "<tool_call>") -> str | None:
        found = find_formats(
            template, special_tokens=[], knows_thinking=False, tool_format=name
        ).tools
        return None if found is None else found.name

    assert tool_format("auto") == "hermes"
    assert tool_format("auto", "") is None
    assert tool_format("mistral") == "mistral"
    assert tool_format("none") is None
