"""Blocks open, grow and close one after the other, whatever the parser finds, and lose nothing."""

from collections.abc import Iterable

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
from radixserve_frontend.answer_blocks import AnswerBlocks, Block, Closed, Grown, Opened

WHITE = st.sampled_from([" ", "\n", "\n\n", "\t"])
WORDS = st.text("abc \n", min_size=1, max_size=6)


class Scripted:
    """A parser that finds what a test wants: one list of parts per piece, and one at the end."""

    def __init__(self, steps: Iterable[list[AnswerPart]], rest: list[AnswerPart]) -> None:
        self._steps = iter(steps)
        self._rest = rest

    def feed(self, text: str) -> list[AnswerPart]:
        return next(self._steps)

    def finish(self) -> list[AnswerPart]:
        return self._rest


def blocks_of(*parts: AnswerPart) -> list[tuple[str, str, str]]:
    answer = AnswerBlocks(Scripted([list(parts)], []))
    answer.add("x", 1)
    answer.finish()
    return [(block.kind, block.name, block.text) for block in answer.blocks]


def test_runs_of_a_kind_are_one_block() -> None:
    assert blocks_of(
        ReasoningText("let me"),
        ReasoningText(" think"),
        ContentText("so"),
        ToolCallStart(0, "f"),
        ToolCallArguments(0, '{"a":'),
        ToolCallArguments(0, "1}"),
        ToolCallStart(1, "g"),
        ToolCallArguments(1, "{}"),
        ToolCallArguments(1, ""),
    ) == [
        ("reasoning", "", "let me think"),
        ("text", "", "so"),
        ("call", "f", '{"a":1}'),
        ("call", "g", "{}"),
    ]


def test_white_space_between_blocks_makes_none_and_inside_one_stays() -> None:
    assert blocks_of(
        ReasoningText("\n"),
        ReasoningText("a\n"),
        ContentText("\n\n"),
        ToolCallStart(0, "f"),
        ToolCallArguments(0, "{}"),
        ContentText("\n"),
        ContentText(" b "),
    ) == [("reasoning", "", "\na\n"), ("call", "f", "{}"), ("text", "", "\n b ")]


def test_white_space_of_one_kind_does_not_go_into_another() -> None:
    assert blocks_of(ReasoningText("\n"), ContentText("a")) == [("text", "", "a")]


def test_an_answer_of_white_space_is_an_answer() -> None:
    assert blocks_of(ContentText(" "), ContentText("\n")) == [("text", "", " \n")]
    assert blocks_of() == []


def test_tokens_count_as_reasoning_while_it_lasts() -> None:
    answer = AnswerBlocks(
        Scripted(
            [[ReasoningText("a")], [], [ReasoningText("b"), ContentText("c")], [ContentText("d")]],
            [],
        )
    )
    for _ in range(4):
        answer.add("x", 10)
    assert answer.reasoning_tokens == 30


def test_ids_are_of_their_own() -> None:
    answer = AnswerBlocks(Scripted([[ToolCallStart(0, "f"), ToolCallStart(1, "f")]], []))
    answer.add("x", 1)
    assert len({block.id for block in answer.blocks}) == 2
    assert answer.has_calls


PARTS = st.one_of(
    st.builds(ReasoningText, WORDS | WHITE),
    st.builds(ContentText, WORDS | WHITE),
    st.builds(ToolCallStart, st.just(0), st.just("f")),
)


@given(st.lists(st.lists(PARTS, max_size=4), max_size=6), st.lists(PARTS, max_size=2))
def test_events_tell_the_blocks(steps: list[list[AnswerPart]], rest: list[AnswerPart]) -> None:
    answer = AnswerBlocks(Scripted(steps, rest))
    events = [event for step in steps for event in answer.add("x", 1)]
    events += answer.finish()
    told: list[tuple[Block, str]] = []
    is_open = False
    for event in events:
        match event:
            case Opened(block):
                assert not is_open
                assert block.index == len(told)
                is_open = True
                told.append((block, ""))
            case Grown(block, text):
                assert is_open
                assert told[-1][0] is block
                assert text
                told[-1] = (block, told[-1][1] + text)
            case Closed(block):
                assert is_open
                assert told[-1][0] is block
                is_open = False
    assert not is_open
    assert [(block, block.text) for block in answer.blocks] == told
    # Nothing but white space is ever dropped.
    for kind, part_type in (("reasoning", ReasoningText), ("text", ContentText)):
        said = "".join(
            part.text for step in [*steps, rest] for part in step if isinstance(part, part_type)
        )
        kept = "".join(block.text for block in answer.blocks if block.kind == kind)
        assert "".join(kept.split()) == "".join(said.split())
    assert all(block.text.strip() for block in answer.blocks[1:] if block.kind != "call")


def test_plain_text_goes_through() -> None:
    answer = AnswerBlocks(PlainAnswer())
    events = answer.add(" a", 1) + answer.add("", 1) + answer.add(" b\n", 1) + answer.finish()
    (block,) = answer.blocks
    assert events == [Opened(block), Grown(block, " a"), Grown(block, " b\n"), Closed(block)]
