"""One choice's text: what of its tokens counts, and how it ends."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.text.stream import ChoiceStep, ChoiceText
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import TokenDelta, TokenLogprob

IM_END = 259


def delta(ids: list[int] | str, **fields: Any) -> TokenDelta:
    token_ids = list(ids.encode()) if isinstance(ids, str) else ids
    return TokenDelta(request_id=RequestId("r"), index=0, token_ids=token_ids, **fields)


def logprobs(ids: list[int]) -> list[TokenLogprob]:
    return [TokenLogprob(token_id=token_id, logprob=-1.0, top=[]) for token_id in ids]


def feed_all(choice: ChoiceText, deltas: list[TokenDelta]) -> tuple[str, list[int], ChoiceStep]:
    """Text and tokens until the choice ends, and the step that ended it."""
    text, ids = "", []
    for each in deltas:
        step = choice.feed(each)
        text += step.text
        ids += step.token_ids
        assert (step.finish_reason is not None) == choice.is_finished
        if choice.is_finished:
            return text, ids, step
    raise AssertionError("the choice did not end")


def test_an_answer_that_ends_at_eos(bytewise: Tokenizer) -> None:
    choice = ChoiceText(bytewise, SamplingParams())
    assert choice.feed(delta("Hi")).text == "Hi"
    step = choice.feed(delta([33, IM_END], finish_reason="stop", stop_token_id=IM_END))
    assert step == ChoiceStep(text="!", token_ids=[33, IM_END], finish_reason="stop")
    assert choice.is_finished


def test_the_end_token_is_no_text_even_if_special_tokens_are(bytewise: Tokenizer) -> None:
    choice = ChoiceText(bytewise, SamplingParams(skip_special_tokens=False))
    assert choice.feed(delta([258, 65])).text == "<|im_start|>A"
    step = choice.feed(delta([IM_END], finish_reason="stop", stop_token_id=IM_END))
    assert (step.text, step.token_ids, step.stop_reason) == ("", [IM_END], None)


def test_the_requests_own_stop_token_is_the_reason(bytewise: Tokenizer) -> None:
    choice = ChoiceText(bytewise, SamplingParams(stop_token_ids=(66,)))
    step = choice.feed(delta("AB", finish_reason="stop", stop_token_id=66))
    assert (step.text, step.token_ids, step.stop_reason) == ("A", [65, 66], 66)
    assert not step.abort


def test_a_token_that_ends_another_request_is_text(bytewise: Tokenizer) -> None:
    choice = ChoiceText(bytewise, SamplingParams(stop_token_ids=(66,), min_tokens=2))
    assert choice.feed(delta("BA")).text == "BA"


def test_a_stop_string_ends_the_choice_and_aborts_it(bytewise: Tokenizer) -> None:
    choice = ChoiceText(bytewise, SamplingParams(stop=("###",), logprobs=0))
    first = choice.feed(delta("ab#", logprobs=logprobs([97, 98, 35])))
    assert (first.text, first.finish_reason) == ("ab", None)
    assert len(first.logprobs or []) == 3
    step = choice.feed(delta("##cd", logprobs=logprobs([35, 35, 99, 100])))
    assert step == ChoiceStep(
        text="",
        token_ids=[35, 35],
        logprobs=logprobs([35, 35]),
        finish_reason="stop",
        stop_reason="###",
        abort=True,
    )
    # What the engine made before it heard of the abort is nobody's.
    assert choice.feed(delta("more", finish_reason="abort")) == ChoiceStep(token_ids=[])


def test_a_stop_string_at_the_engines_own_end_aborts_nothing(bytewise: Tokenizer) -> None:
    choice = ChoiceText(bytewise, SamplingParams(stop=("b",), include_stop=True))
    step = choice.feed(delta("ab", finish_reason="length"))
    assert (step.text, step.finish_reason, step.stop_reason) == ("ab", "stop", "b")
    assert not step.abort


def test_what_was_held_back_comes_with_the_end(bytewise: Tokenizer) -> None:
    choice = ChoiceText(bytewise, SamplingParams(stop=("bcd",)))
    assert choice.feed(delta("abc")).text == "a"
    step = choice.feed(delta([0xE4], finish_reason="length"))
    assert (step.text, step.finish_reason) == ("bc\ufffd", "length")


def test_a_stop_string_may_be_completed_by_the_flush(bytewise: Tokenizer) -> None:
    choice = ChoiceText(bytewise, SamplingParams(stop=("b\ufffd",)))
    step = choice.feed(delta([97, 98, 0xE4], finish_reason="length"))
    assert (step.text, step.token_ids, step.stop_reason) == ("a", [97, 98, 0xE4], "b\ufffd")


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_other_ends_flush_too(bytewise: Tokenizer, reason: Any) -> None:
    choice = ChoiceText(bytewise, SamplingParams(stop=("bcd",)))
    choice.feed(delta("abc"))
    step = choice.feed(delta([], finish_reason=reason))
    assert (step.text, step.finish_reason) == ("bc", reason)


def test_min_tokens_lets_earlier_stop_strings_pass(bytewise: Tokenizer) -> None:
    choice = ChoiceText(bytewise, SamplingParams(stop=("x",), min_tokens=4))
    assert choice.feed(delta("xax")).text == "xax"
    step = choice.feed(delta("xx"))
    assert (step.text, step.token_ids, step.stop_reason) == ("", [120], "x")


TEXT = st.text("ab😀", max_size=30)


@settings(deadline=None)
@given(
    text=TEXT,
    stops=st.lists(st.text("ab😀", min_size=1, max_size=4), max_size=4),
    min_tokens=st.integers(0, 12),
    include=st.booleans(),
    data=st.data(),
)
def test_is_what_the_whole_text_says_however_it_arrives(
    bytewise: Tokenizer, *, text: str, stops: list[str], min_tokens: int, include: bool, data: Any
) -> None:
    params = SamplingParams(stop=tuple(stops), min_tokens=min_tokens, include_stop=include)
    ids = list(text.encode())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=6)))
    runs = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    deltas = [delta(run) for run in runs] + [delta([], finish_reason="length")]
    shown, counted, step = feed_all(ChoiceText(bytewise, params), deltas)

    for count in range(max(1, min_tokens), len(ids) + 1):
        seen = bytes(ids[:count]).decode(errors="ignore")
        before = bytes(ids[: count - 1]).decode(errors="ignore")
        found = [stop for stop in stops if seen != before and seen.endswith(stop)]
        if found:
            stop = max(found, key=len)
            assert (step.finish_reason, step.stop_reason) == ("stop", stop)
            assert counted == ids[:count]
            assert shown == (seen if include else seen[: len(seen) - len(stop)])
            return
    assert (shown, counted, step.finish_reason) == (text, ids, "length")


def test_streams_a_sentencepiece_answer(sentencepiece: Tokenizer) -> None:
    text = "Once upon a time, 日本語 STOP there was"
    ids = sentencepiece.encode(text, add_special_tokens=False)
    choice = ChoiceText(sentencepiece, SamplingParams(stop=(" STOP",)))
    shown, _, step = feed_all(choice, [delta([token_id]) for token_id in ids])
    assert (shown, step.stop_reason) == ("Once upon a time, 日本語", " STOP")


@pytest.mark.parametrize(("continues", "shown"), [(True, " time"), (False, "time")])
def test_a_completion_keeps_the_space_before_its_first_word(
    sentencepiece: Tokenizer, continues: bool, shown: str
) -> None:
    ids = sentencepiece.encode("time", add_special_tokens=False)
    choice = ChoiceText(sentencepiece, SamplingParams(), continues_prompt=continues)
    deltas = [delta([token_id]) for token_id in ids]
    text, _, _ = feed_all(choice, [*deltas, delta([], finish_reason="length")])
    assert text == shown
