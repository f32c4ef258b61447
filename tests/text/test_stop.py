"""Stop strings: the same as looking at the finished text, whatever the pieces; nothing leaks."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.errors import InvalidRequestError
from radixserve.sampling.params import SamplingParams
from radixserve.text.stop import StopStrings, _Seeker

LETTERS = st.text("ab", max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=6), max_size=5)


def naive(text: str, stops: list[str], *, first_end: int = 0) -> tuple[int, str] | None:
    """End and string of the match that ends first, at ``first_end`` or later; the longest."""
    for end in range(first_end, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return end, max(found, key=len)
    return None


@st.composite
def cut_text(draw: st.DrawFn) -> list[str]:
    text = draw(LETTERS)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@settings(deadline=None)
@given(cut_text(), STOPS, st.booleans())
def test_is_the_first_match_of_the_whole_text(
    pieces: list[str], stops: list[str], include: bool
) -> None:
    text = "".join(pieces)
    strings = StopStrings(stops, include_stop=include)
    shown, stop = "", None
    for piece in pieces:
        step = strings.feed(piece)
        shown += step.text
        stop = step.stop
        if stop is not None:
            break
    else:
        shown += strings.flush()
    expected = naive(text, stops)
    if expected is None:
        assert (shown, stop) == (text, None)
    else:
        end, string = expected
        assert stop == string
        assert shown == text[: end if include else end - len(string)]


@settings(deadline=None)
@given(LETTERS, STOPS)
def test_holds_back_exactly_the_longest_beginning_of_a_stop_string(
    text: str, stops: list[str]
) -> None:
    strings = StopStrings(stops)
    shown = ""
    for at, char in enumerate(text):
        step = strings.feed(char)
        if step.stop is not None:
            return
        shown += step.text
        seen = text[: at + 1]
        ends = [seen[len(seen) - k :] for k in range(len(seen) + 1)]
        longest = max(len(e) for e in ends if not e or any(s.startswith(e) for s in stops))
        assert shown == seen[: len(seen) - longest]


@settings(deadline=None)
@given(cut_text(), STOPS, st.integers(0, 8))
def test_matches_that_end_in_a_piece_that_is_not_accepted_do_not_count(
    pieces: list[str], stops: list[str], num_refused: int
) -> None:
    text = "".join(pieces)
    strings = StopStrings(stops)
    shown, stop = "", None
    for number, piece in enumerate(pieces):
        step = strings.feed(piece, accept=number >= num_refused)
        shown += step.text
        stop = step.stop
        if stop is not None:
            break
    else:
        shown += strings.flush()
    refused = len("".join(pieces[:num_refused]))
    expected = naive(text, stops, first_end=refused + 1)
    if expected is None:
        assert (shown, stop) == (text, None)
    else:
        end, string = expected
        assert (shown, stop) == (text[: end - len(string)], string)


def test_of_matches_that_end_together_the_longest_wins() -> None:
    assert StopStrings(["c", "bc", "abc"]).feed("xabc").text == "x"
    assert StopStrings(["abc", "bc", "c"]).feed("xabc").text == "x"


def test_a_shorter_string_that_ends_earlier_wins_however_the_text_is_cut() -> None:
    assert StopStrings(["bcd", "c"]).feed("abcd").stop == "c"
    assert StopStrings(["c", "bcd"]).feed("abcd").text == "ab"


def test_the_failure_table_grows_only_as_far_as_the_text_matches() -> None:
    strings = StopStrings(["a" * 4095 + "b"] * 64)
    strings.feed("xyaaaz" * 100)
    assert all(len(seeker._fallback) <= 5 for seeker in strings._seekers)


def test_steps_are_linear_in_the_text_for_the_worst_of_strings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """4,096 almost equal characters, and a text that nearly matches again and again."""
    falls = 0
    fall = _Seeker._fall

    def counting(seeker: _Seeker, matched: int) -> int:
        nonlocal falls
        falls += 1
        return fall(seeker, matched)

    monkeypatch.setattr(_Seeker, "_fall", counting)
    strings = StopStrings(["a" * 4095 + "b"])
    text = ("a" * 4094 + "c") * 5
    shown = "".join(strings.feed(text[at : at + 7]).text for at in range(0, len(text), 7))
    assert shown + strings.flush() == text
    assert 4094 <= falls <= len(text)


def test_a_hundred_thousand_stop_strings_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="100000 strings; at most 64") as caught:
        SamplingParams(stop=tuple(map(str, range(100_000))))
    assert caught.value.param == "stop"
