"""Calls out of answers, in every format: what was called comes out, and no text is lost."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.text.answer import (
    AnswerParser,
    AnswerPart,
    ContentText,
    ToolCallArguments,
    ToolCallStart,
)
from radixserve.text.tool_calls.registry import TOOL_FORMATS, find_tool_format

NAMES = ["f", "get_weather", "get_weather2", "a.b-c"]
MARKERS = [
    "<tool_call>", "</tool_call>", "<tool_", "[TOOL_CALLS]", "[ARGS]", "[TOOL", "<|python_tag|>",
    "<|python", '{"name": "f"', "; ", "\n", "}", "]",
]  # fmt: skip
TEXT = st.text(max_size=8) | st.lists(
    st.sampled_from(MARKERS) | st.text(max_size=3), max_size=4
).map("".join)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
CALL = st.tuples(st.sampled_from(NAMES), st.dictionaries(TEXT, VALUE, max_size=3))
CALLS = st.lists(CALL, min_size=1, max_size=3)
CUTS = st.lists(st.integers(0, 2000), max_size=25)
STYLE = st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 1])})
# No marker and no brace, so no call in any format; white space at its ends is a call's neighbour.
PROSE = st.text("ab<[;|_ tol", min_size=1, max_size=20).map(str.strip).filter(bool)


def parts_of(name: str, text: str, cuts: Sequence[int] = ()) -> list[AnswerPart]:
    """What a parser makes of a text in pieces."""
    parser: AnswerParser = TOOL_FORMATS[name].new_parser(frozenset(NAMES))
    parts: list[AnswerPart] = []
    bounds = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    for start, end in pairwise(bounds):
        parts += parser.feed(text[start:end])
    return parts + parser.finish()


def content_of(parts: list[AnswerPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, ContentText))


def calls_of(parts: list[AnswerPart]) -> list[tuple[str, str]]:
    """(name, arguments' text) of each call; checks that calls are numbered and never interleave."""
    calls: list[tuple[str, str]] = []
    for part in parts:
        match part:
            case ToolCallStart(index, name):
                assert index == len(calls)
                calls.append((name, ""))
            case ToolCallArguments(index, text):
                assert text
                assert index == len(calls) - 1
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
    return calls


def write(name: str, calls: Sequence[tuple[str, Any]], style: dict[str, Any], variant: int) -> str:
    """The calls as a model of this format writes them."""
    key = "parameters" if name == "llama3" else "arguments"
    objects = [json.dumps({"name": tool, key: given}, **style) for tool, given in calls]
    if name == "hermes":
        return "\n".join(f"<tool_call>\n{each}\n</tool_call>" for each in objects)
    if name == "llama3":
        return ["", "<|python_tag|>"][variant % 2] + "; ".join(objects)
    if variant % 3 == 0:
        return "[TOOL_CALLS] [" + ", ".join(objects) + "]"
    between = "[ARGS]" if variant % 3 == 1 else "[CALL_ID]abc123XYZ[ARGS]"
    return "".join(
        f"[TOOL_CALLS]{tool}{between}{json.dumps(given, **style)}" for tool, given in calls
    )


FORMATS = pytest.mark.parametrize("name", list(TOOL_FORMATS))


@FORMATS
@given(
    calls=CALLS,
    cuts=CUTS,
    style=STYLE,
    variant=st.integers(0, 5),
    ending=st.sampled_from(["", "\n"]),
)
def test_calls_come_back_whatever_the_pieces(
    name: str, calls: Any, cuts: list[int], style: Any, variant: int, ending: str
) -> None:
    parts = parts_of(name, write(name, calls, style, variant) + ending, cuts)
    assert content_of(parts) == ""
    found = calls_of(parts)
    assert [(tool, json.loads(text)) for tool, text in found] == [(t, g) for t, g in calls]
    assert [text for _, text in found] == [json.dumps(g, **style) for _, g in calls] or (
        # Indentation depends on how deep the arguments stand.
        style["indent"] is not None
    )


@pytest.mark.parametrize("name", ["hermes", "mistral"])
@given(before=PROSE, calls=CALLS, cuts=CUTS, variant=st.integers(0, 5))
def test_content_before_calls_keeps_everything_but_white_space_next_to_them(
    name: str, before: str, calls: Any, cuts: list[int], variant: int
) -> None:
    text = f"{before}\n\n{write(name, calls, {}, variant)}"
    parts = parts_of(name, text, cuts)
    assert content_of(parts) == before
    assert [tool for tool, _ in calls_of(parts)] == [tool for tool, _ in calls]


@pytest.mark.parametrize(
    "call",
    [
        # JavaScript cannot parse it, nor what this would become.
        '{"name": "f", "arguments": "{\\"a\\": NaN}"}',
        '{"arguments": "{\\"a\\": -Infinity}", "name": "f"}',
        # Half a character: no prompt could show this name again.
        '{"name": "f\\ud800", "arguments": {}}',
    ],
)
def test_what_no_reader_could_take_is_no_call(call: str) -> None:
    text = f"<tool_call>{call}</tool_call>"
    parts = parts_of("hermes", text)
    assert calls_of(parts) == []
    assert content_of(parts) == text


def test_half_a_character_in_arguments_stays_an_escape() -> None:
    text = r'<tool_call>{"name": "f", "arguments": "{\"a\": \"\ud800\"}"}</tool_call>'
    ((name, arguments),) = calls_of(parts_of("hermes", text))
    assert (name, arguments) == ("f", r'{"a": "\ud800"}')


@FORMATS
@given(text=PROSE | TEXT.filter(lambda text: not any(c in text for c in "{]")), cuts=CUTS)
def test_text_without_calls_survives_unchanged(name: str, text: str, cuts: list[int]) -> None:
    parts = parts_of(name, text, cuts)
    assert content_of(parts) == text
    assert calls_of(parts) == []


@FORMATS
@given(calls=CALLS, cuts=CUTS, variant=st.integers(0, 5), length=st.integers(0, 300))
def test_what_is_cut_short_loses_nothing_of_its_arguments(
    name: str, calls: Any, cuts: list[int], variant: int, length: int
) -> None:
    text = write(name, calls, {}, variant)
    found = calls_of(parts_of(name, text[:length], cuts))
    for (tool, arguments), (wanted, given_) in zip(found, calls, strict=False):
        assert tool == wanted
        assert json.dumps(given_).startswith(arguments)
    for _, arguments in found[:-1]:
        assert isinstance(json.loads(arguments), dict)


@FORMATS
@given(st.data())
def test_pieces_make_no_difference(name: str, data: st.DataObject) -> None:
    soup = st.lists(st.sampled_from([*MARKERS, '{"name": "f", "arguments": {"a": 1}}', '{"a', "f"])
                    | TEXT, max_size=6).map("".join)  # fmt: skip
    text = data.draw(soup)
    whole = parts_of(name, text)
    pieces = parts_of(name, text, data.draw(CUTS))
    assert content_of(pieces) == content_of(whole)
    assert calls_of(pieces) == calls_of(whole)


@FORMATS
def test_arguments_arrive_as_they_are_written(name: str) -> None:
    parser = TOOL_FORMATS[name].new_parser(frozenset(NAMES))
    text = write(name, [("f", {"a": "x" * 50})], {}, 1)
    seen = [part for char in text for part in parser.feed(char)]
    assert isinstance(seen[0], ToolCallStart)
    assert len(seen) > 50


def refused(name: str, text: str) -> None:
    for cuts in ((), range(len(text))):
        parts = parts_of(name, text, cuts)
        assert calls_of(parts) == []
        assert content_of(parts) == text


@pytest.mark.parametrize(
    "body",
    [
        "not json",
        '{"name": "f"',
        '{"name": 7, "arguments": {}}',
        '{"name": "", "arguments": {}}',
        '{"arguments": {"a": 1}}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "not json"}',
        '{"name": "f", "arguments": 7}',
        '{"name": f}',
        "[]",
        "{'name': 'f'}",
        "",
    ],
)
def test_hermes_malformed_calls_are_content(body: str) -> None:
    refused("hermes", f"<tool_call>\n{body}\n</tool_call>")
    refused("hermes", f"Well. <tool_call>{body}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('"{\\"a\\": 1}"', '{"a": 1}'),
        ("null", "{}"),
        ('"null"', "{}"),
        ("{}", "{}"),
    ],
)
def test_other_ways_of_writing_arguments(arguments: str, expected: str) -> None:
    for text in (
        f'{{"name": "f", "arguments": {arguments}}}',
        f'{{"arguments": {arguments}, "name": "f"}}',
    ):
        assert calls_of(parts_of("hermes", f"<tool_call>{text}</tool_call>")) == [("f", expected)]
    assert calls_of(parts_of("hermes", '<tool_call>{"name": "f"}</tool_call>')) == [("f", "{}")]
    text = '<tool_call>{"id": "x", "arguments": {"a": [1]}, "name": "f", "z": 1}</tool_call>'
    assert calls_of(parts_of("hermes", text)) == [("f", '{"a": [1]}')]


def test_hermes_braces_that_lack_or_abound_do_no_harm() -> None:
    for text in (
        '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": 1}}}\n</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": 1}}',
        '<tool_call>{"name": "f", "arguments": {"a": 1}}\n</tool_c',
    ):
        parts = parts_of("hermes", text)
        assert calls_of(parts) == [("f", '{"a": 1}')]
        assert content_of(parts) == ""


def test_hermes_goes_on_behind_a_call() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    parts = parts_of("hermes", f"One.\n{call}\nTwo. {call}{call} Three.\n")
    assert content_of(parts) == "One.\nTwo. Three."
    assert calls_of(parts) == [("f", "{}")] * 3
    # Nor does it need its end marker for that.
    parts = parts_of("hermes", call.removesuffix("</tool_call>") + " One." + call)
    assert content_of(parts) == "One."
    assert calls_of(parts) == [("f", "{}")] * 2
    # A call that is none does not hide the next one.
    parts = parts_of("hermes", f"<tool_call>oh {call}")
    assert content_of(parts) == "<tool_call>oh"
    assert calls_of(parts) == [("f", "{}")]


def test_broken_arguments_keep_what_the_model_wrote() -> None:
    text = '<tool_call>{"name": "f", "arguments": {"a": oops, "b": 1}}</tool_call>Sorry.'
    for cuts in ((), range(len(text))):
        parts = parts_of("hermes", text, cuts)
        assert calls_of(parts) == [("f", '{"a": oops, "b": 1}}')]
        assert content_of(parts) == "Sorry."
    text = '[TOOL_CALLS]f[ARGS]{"a": oops}[TOOL_CALLS]f[ARGS]{}'
    assert calls_of(parts_of("mistral", text)) == [("f", '{"a": oops}'), ("f", "{}")]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "unknown", "parameters": {}}',
        '{"name": "f", "parameters": {}, "age": 3}'.replace('"f"', '"John"'),
        '{"answer": 42}',
        '{"name": "f", "age": 7}',
        '  {"name": "f"',
        "{not json}",
        'Here: {"name": "f", "parameters": {}}',
        "<|python_tag|>print('hi')",
        '<|python_tag|>brave_search.call(query="x")',
    ],
)
def test_llama3_answers_that_only_look_like_calls(text: str) -> None:
    refused("llama3", text)


def test_llama3_ends_its_calls_with_anything_but_another() -> None:
    call = '{"name": "f", "parameters": {}}'
    for text, content, count in (
        (f"{call};\n{call}", "", 2),
        (f"  {call} ; {call};", ";", 2),
        (f"{call} Done.", " Done.", 1),
        (f"{call}; and", "; and", 1),
        (f'{call}; {{"x": 1}}', '; {"x": 1}', 1),
        (f"Say: <|python_tag|>{call}", "Say:", 1),
        (f"{call}<|python_tag|>{call}", "", 2),
    ):
        for cuts in ((), range(len(text))):
            parts = parts_of("llama3", text, cuts)
            assert calls_of(parts) == [("f", "{}")] * count
            assert content_of(parts) == content


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL_CALLS]",
        "[TOOL_CALLS] ",
        "[TOOL_CALLS][]",
        '[TOOL_CALLS] [{"x": 1}]',
        "[TOOL_CALLS]some words {}",
        "[TOOL_CALLS][ARGS]{}",
        "[TOOL_CALLS]" + "n" * 300,
        "[TOOL_CALLS]f[ARGS]",
    ],
)
def test_mistral_malformed_calls_are_content(text: str) -> None:
    refused("mistral", text)


def test_mistral_single_objects_and_unclosed_arrays() -> None:
    call = '{"name": "f", "arguments": {"a": 1}}'
    for text, count in (
        (f"[TOOL_CALLS]{call}", 1),
        (f"[TOOL_CALLS] [{call}", 1),
        (f"[TOOL_CALLS] [{call} ,\n{call} ]\n", 2),
        ('[TOOL_CALLS]f{"a": 1}', 1),
    ):
        for cuts in ((), range(len(text))):
            parts = parts_of("mistral", text, cuts)
            assert calls_of(parts) == [("f", '{"a": 1}')] * count
            assert content_of(parts) == ""
    assert content_of(parts_of("mistral", f"[TOOL_CALLS] [{call} and")) == "and"


def test_much_white_space_is_not_held_back_for_ever() -> None:
    parser = TOOL_FORMATS["hermes"].new_parser(frozenset())
    parser.feed("x")
    assert content_of(parser.feed(" " * 1000)) == " " * (1000 - 64)
    assert content_of(parser.finish()) == " " * 64


@FORMATS
@pytest.mark.parametrize(
    "begin", ["", "[TOOL_CALLS]", "[TOOL_CALLS][", '{"name": "f"}', "<tool_call>"]
)
def test_endless_white_space_costs_nothing_and_is_no_call(name: str, begin: str) -> None:
    parser = TOOL_FORMATS[name].new_parser(frozenset(NAMES))
    parts = parser.feed(begin)
    for _ in range(300):
        parts += parser.feed("\n")
        assert len(parser._rest) < 200  # type: ignore[attr-defined]  # what it holds back
    parts += parser.feed("x") + parser.finish()
    assert content_of(parts).endswith("x")


def test_ids_as_mistrals_templates_want_them() -> None:
    call_id = TOOL_FORMATS["mistral"].call_id
    assert call_id("abcDEF123") == "abcDEF123"
    made = call_id("call_0123456789")
    assert len(made) == 9
    assert made.isalnum()
    assert made == call_id("call_0123456789") != call_id("call_0123456788")
    for name in ("hermes", "llama3"):
        assert TOOL_FORMATS[name].call_id("call_1") == "call_1"


@pytest.mark.parametrize(
    ("template", "special_tokens", "expected"),
    [
        ("{% if tools %}<tool_call></tool_call>{% endif %}", [], "hermes"),
        ("<tool_call>\n<function=name>", [], None),
        ("<tool_call>name\n<arg_key>", [], None),
        ("[AVAILABLE_TOOLS][TOOL_CALLS]", [], "mistral"),
        ("{% if builtin_tools %}<|python_tag|>", [], "llama3"),
        ('{"name": "x", "parameters": {}}', ["<|python_tag|>"], "llama3"),
        ('{"name": "x", "parameters": {}}', [], None),
        ("{{ messages }}", ["<|python_tag|>"], None),
    ],
)
def test_a_template_tells_its_format(
    template: str, special_tokens: list[str], expected: str | None
) -> None:
    found = find_tool_format(template, special_tokens)
    assert (found and found.name) == expected
