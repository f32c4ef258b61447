"""One JSON value out of a text in pieces: where it ends, nothing half, nothing unparsable."""

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.text.tool_calls.json_scanner import MAX_DEPTH, JsonScanner

TEXT = st.text(max_size=12) | st.sampled_from(
    ['"', "\\", "\n", '{"a": 1}', "😀\ud83d", "</tool_call>"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
CONTAINER = st.lists(JSON, max_size=4) | st.dictionaries(TEXT, JSON, max_size=4)


def scan(text: str, cuts: list[int]) -> tuple[JsonScanner, list[str], int]:
    """Feed ``text`` in pieces; what came out each time, and how much was consumed."""
    scanner = JsonScanner()
    outs = []
    consumed = 0
    bounds = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    for start, end in pairwise(bounds):
        if scanner.is_complete or scanner.is_broken:
            break
        consumed = start + scanner.feed(text[start:end])
        outs.append(scanner.take())
    return scanner, outs, consumed


CUTS = st.lists(st.integers(0, 1000), max_size=20)


@given(
    CONTAINER,
    st.booleans(),
    st.sampled_from([None, 2]),
    CUTS,
    st.sampled_from(["", "}", " x", '"']),
)
def test_what_comes_out_is_the_value_and_ends_where_it_ends(
    value: Any, ensure_ascii: bool, indent: int | None, cuts: list[int], behind: str
) -> None:
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
    scanner, outs, consumed = scan(text + behind, cuts)
    assert scanner.is_complete
    assert "".join(outs) == text
    assert consumed == len(text)


_HALF_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\(?:u[0-9a-f]{0,3})?$")


@given(CONTAINER, CUTS)
def test_no_piece_ends_within_an_escape(value: Any, cuts: list[int]) -> None:
    _, outs, _ = scan(json.dumps(value), cuts)
    for count in range(len(outs)):
        assert not _HALF_ESCAPE.search("".join(outs[: count + 1]))


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 100])
def test_the_halves_of_a_pair_come_together(piece: int) -> None:
    text = '["a\\ud83d\\ude00b\\ud83d!\\u00e9\\n\\ud83d\\ud83d\\ude00"]'
    scanner, outs, _ = scan(text, list(range(0, len(text), piece)))
    assert scanner.is_complete
    assert "".join(outs) == text
    for out in outs:
        assert not out.endswith("\\ud83d") or out.endswith("\\ud83d\\ud83d")


@given(
    st.text("ab\n\t\r\b\f\x00\x1f\\", max_size=8).map(lambda text: text.replace("\\", "\\\\")), CUTS
)
def test_raw_control_characters_in_strings_are_escaped(text: str, cuts: list[int]) -> None:
    raw = '{"a": "' + text + '"}'
    scanner, outs, consumed = scan(raw, cuts)
    assert scanner.is_complete
    assert consumed == len(raw)
    assert json.loads("".join(outs)) == json.loads(raw, strict=False)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("x", 0),
        (" {}", 0),
        ("{x}", 1),
        ('{"a" 1}', 5),
        ('{"a": 1 2}', 8),
        ('{"a": 1,}', 8),
        ("[1,]", 3),
        ("[1}", 2),
        ("[1.2.3]", 6),
        ("[01]", 3),
        ("[-]", 2),
        ("[1e]", 3),
        ("[" + "1" * 4001 + "]", 4002),
        ("[nul]", 4),
        ("[nulls]", 6),
        ("[NaN]", 1),
        ("[TRUE]", 1),
        ('["\\x"]', 3),
        ('["\\u12g4"]', 6),
        ("{1: 2}", 1),
        ("['a']", 1),
        (",", 0),
        ("[" * (MAX_DEPTH + 1), MAX_DEPTH),
    ],
)
def test_the_first_character_that_is_wrong_breaks_it(text: str, at: int) -> None:
    for cuts in ([], list(range(min(len(text), 500)))):
        scanner, outs, consumed = scan(text, cuts)
        assert scanner.is_broken
        assert consumed == at
        assert "".join(outs) + scanner.flush() == text[:at]


@given(CONTAINER, st.integers(0, 200))
def test_a_value_cut_short_is_neither_complete_nor_broken(value: Any, length: int) -> None:
    text = json.dumps(value)
    scanner, outs, consumed = scan(text[: min(length, len(text) - 1)], [])
    assert not scanner.is_complete
    assert not scanner.is_broken
    assert "".join(outs) + scanner.flush() == text[:consumed]


@pytest.mark.parametrize("text", ["12 ", "-1.5e3,", "true]", '"ab" ', "null}"])
def test_scalars_end_before_what_follows(text: str) -> None:
    scanner, outs, consumed = scan(text, [])
    assert scanner.is_complete
    assert consumed == len(text) - 1
    assert "".join(outs) == text[:-1]
