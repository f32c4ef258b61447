"""What grammars of answers admit, asked of the compiler that the engine uses."""

import itertools
import json
from functools import cache
from typing import Any

import numpy as np
import pytest

from radixserve.errors import InvalidRequestError
from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.grammar_compiler import GrammarCompiler, mask_words
from radixserve.text import lark
from radixserve.text.answer import ContentText, ToolCallArguments, ToolCallStart
from radixserve.text.answer_grammar import Calls, answer_grammar
from radixserve.text.reasoning import Thinking
from radixserve.text.tool_calls.format import Spell, Tool
from radixserve.text.tool_calls.registry import TOOL_FORMATS

SPECIAL = ["<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]",
           "<|python_tag|>"]  # fmt: skip
IDS = {name: 256 + number for number, name in enumerate(SPECIAL)}
VOCAB_SIZE = 256 + len(SPECIAL)
CITY = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"City": {"type": "string", "enum": ["Köln", "Ulm"]}},
}
TOOLS = [Tool(name="find", parameters=CITY, is_strict=True), Tool(name="find_all")]
JSON_CONTENT = GrammarSpec(kind="json_schema", source=json.dumps(CITY))


@cache
def compiler() -> GrammarCompiler:
    """Over bytes, and the special tokens behind them."""
    table = [bytes([byte]) for byte in range(256)]
    # A byte that is in no UTF-8 text is how the table marks special tokens.
    table[0xFF] = b""
    return GrammarCompiler(lambda: [*table, *(b"\xff" + name.encode() for name in SPECIAL)])


def text_spell(marker: str) -> str:
    return lark.literal(marker)


def token_spell(marker: str) -> str:
    return lark.token(IDS[marker]) if marker in IDS else lark.literal(marker)


def encode(text: str, spell: Spell) -> list[int]:
    """Tokens of a text: bytes, and special tokens where the grammar spells markers so."""
    if spell is text_spell:
        return list(text.encode())
    for name in SPECIAL:
        text = text.replace(name, chr(0xE000 + IDS[name]))
    return [
        token
        for char in text
        for token in ([ord(char) - 0xE000] if ord(char) - 0xE000 in IDS.values() else char.encode())
    ]


def verdict(spec: GrammarSpec, text: str, spell: Spell = text_spell) -> str:
    """ "whole": the answer may end here; "prefix": it must go on; "no": it cannot be."""
    matcher = compiler().compile(spec).matcher()
    words = mask_words(VOCAB_SIZE)
    matcher.fill(words)
    for token_id in encode(text, spell):
        if not words[token_id // 32] >> np.uint32(token_id % 32) & np.uint32(1):
            return "no"
        matcher.consume([token_id])
        matcher.fill(words)
        assert matcher.error is None, matcher.error
    is_end = words[VOCAB_SIZE // 32] >> np.uint32(VOCAB_SIZE % 32) & np.uint32(1)
    return "whole" if is_end else "prefix"


def grammar(
    name: str | None,
    *,
    demand: Any = "must",
    parallel: bool = True,
    thinking: Thinking = Thinking.CLOSED,
    content: GrammarSpec | None = None,
    spell: Spell = text_spell,
    tools: Any = TOOLS,
) -> GrammarSpec:
    calls = None
    if name is not None:
        rules = TOOL_FORMATS[name].grammar(
            tools, enforced=demand == "must", parallel=parallel, spell=spell
        )
        calls = Calls(rules=rules, demand=demand)
    spec = answer_grammar(thinking=thinking, calls=calls, content=content, spell=spell)
    assert spec is not None
    return spec


def call(name: str, spell: Spell, tool: str = "find", arguments: str = '{"city": "Ulm"}') -> str:
    """One call as the format's grammar wants it."""
    if name == "mistral" and spell is token_spell:
        return f"[TOOL_CALLS]{tool}[ARGS]{arguments}"
    key = "parameters" if name == "llama3" else "arguments"
    text = f'{{"name": "{tool}", "{key}": {arguments}}}'
    return {
        "hermes": f"<tool_call>\n{text}\n</tool_call>",
        "llama3": text,
        "mistral": f"[TOOL_CALLS][{text}]",
    }[name]


EVERY = pytest.mark.parametrize(
    ("name", "spell"), list(itertools.product(TOOL_FORMATS, [text_spell, token_spell]))
)


@EVERY
def test_a_call_that_must_be(name: str, spell: Spell) -> None:
    spec = grammar(name, spell=spell)
    good = call(name, spell)
    assert verdict(spec, good, spell) == "whole"
    assert verdict(spec, "", spell) == "prefix"
    assert verdict(spec, "Hello", spell) == "no"
    assert verdict(spec, call(name, spell, arguments='{"city": "Rom"}'), spell) == "no"
    assert verdict(spec, call(name, spell, arguments="{}"), spell) == "no"
    assert verdict(spec, call(name, spell, tool="other"), spell) == "no"
    assert verdict(spec, call(name, spell, "find_all", '{"x": [1, {"y": null}]}'), spell) == "whole"
    assert verdict(spec, call(name, spell, "find_all", "[]"), spell) == "no"


@EVERY
def test_one_call_or_several(name: str, spell: Spell) -> None:
    one = call(name, spell)
    two = {
        "hermes": f"{one}\n{one}",
        "llama3": f"{one}; {one}",
        "mistral": one + one if spell is token_spell else one[:-1] + ", " + one[13:],
    }[name]
    assert verdict(grammar(name, spell=spell), two, spell) == "whole"
    assert verdict(grammar(name, spell=spell, parallel=False), one, spell) == "whole"
    assert verdict(grammar(name, spell=spell, parallel=False), two, spell) == "no"
    for parallel, expected in ((True, "whole"), (False, "no")):
        free = grammar(name, spell=spell, demand="may", parallel=parallel)
        assert verdict(free, two, spell) == expected


@EVERY
def test_text_is_free_and_calls_in_it_are_not(name: str, spell: Spell) -> None:
    spec = grammar(name, demand="may", spell=spell)
    for text in ("", "Hello.\n\nLine <tool> [x] é", "a {} b"):
        assert verdict(spec, text, spell) == "whole"
    assert verdict(spec, call(name, spell), spell) == "whole"
    assert verdict(spec, call(name, spell, arguments='{"city": 7}'), spell) == "no"
    # Only strict tools are held to their schemas.
    assert verdict(spec, call(name, spell, "find_all", '{"x": 7}'), spell) == "whole"
    if name != "llama3":
        assert verdict(spec, f"Let me see.\n{call(name, spell)}", spell) == "whole"
        bad = call(name, spell, arguments='{"city": 7}')
        assert verdict(spec, f"Let me see.\n{bad}", spell) == "no"


@EVERY
def test_what_a_grammar_admits_the_parser_reads(name: str, spell: Spell) -> None:
    text = call(name, spell)
    parser = TOOL_FORMATS[name].new_parser(frozenset({"find", "find_all"}))
    parts = parser.feed(text) + parser.finish()
    assert parts[0] == ToolCallStart(0, "find")
    assert parts[1:] == [ToolCallArguments(0, '{"city": "Ulm"}')]
    assert not any(isinstance(part, ContentText) for part in parts)


@pytest.mark.parametrize("spell", [text_spell, token_spell])
def test_thinking_comes_first_and_is_free(spell: Spell) -> None:
    answer = '{"city": "Ulm"}'
    spec = grammar(None, content=JSON_CONTENT, thinking=Thinking.OPEN, spell=spell)
    assert verdict(spec, "hm, [1", spell) == "prefix"
    assert verdict(spec, f"hm</think>\n\n{answer}", spell) == "whole"
    assert verdict(spec, f"</think>{answer}", spell) == "whole"
    assert verdict(spec, "hm</think>\n\nUlm", spell) == "no"

    spec = grammar(None, content=JSON_CONTENT, thinking=Thinking.AUTO, spell=spell)
    assert verdict(spec, answer, spell) == "whole"
    assert verdict(spec, f"<think>\nhm\n</think>\n\n{answer}", spell) == "whole"
    assert verdict(spec, f"hm</think>{answer}", spell) == "no"
    assert verdict(spec, "<think>\nhm\n</think>\n\nUlm", spell) == "no"


@EVERY
def test_thinking_of_calls_is_not_calling(name: str, spell: Spell) -> None:
    bad = call(name, spell, arguments="7")
    for demand in ("must", "may"):
        spec = grammar(name, demand=demand, thinking=Thinking.AUTO, spell=spell)
        if spell is text_spell:
            good = f"\n<think>maybe {bad}</think>\n{call(name, spell)}"
            assert verdict(spec, good, spell) == "whole"
        assert verdict(spec, f"<think>hm</think>{call(name, spell)}", spell) == "whole"
        assert verdict(spec, f"<think>hm</think>{bad}", spell) == "no"
        assert verdict(spec, call(name, spell), spell) == "whole"
    assert verdict(spec, "Hello", spell) == "whole"


@EVERY
def test_content_in_a_format_or_calls(name: str, spell: Spell) -> None:
    spec = grammar(name, demand="may", content=JSON_CONTENT, spell=spell)
    assert verdict(spec, '{"city": "Ulm"}', spell) == "whole"
    marked = f"<|python_tag|>{call(name, spell)}" if name == "llama3" else call(name, spell)
    assert verdict(spec, marked, spell) == "whole"
    assert verdict(spec, "Hello", spell) == "no"
    # Where a tool must be called there is no content.
    assert verdict(grammar(name, content=JSON_CONTENT, spell=spell), '{"city"', spell) == "no"


def test_content_alone_stays_what_it_was() -> None:
    assert grammar(None, content=JSON_CONTENT) == JSON_CONTENT
    nothing = answer_grammar(thinking=Thinking.OPEN, calls=None, content=None, spell=text_spell)
    assert nothing is None


@pytest.mark.parametrize(
    ("spec", "good", "bad"),
    [
        (GrammarSpec(kind="regex", source=r"a/b\/c[0-9]{2}"), "a/b/c12", "ab"),
        (GrammarSpec(kind="regex", source="a\nb"), "a\nb", "ab"),
        (GrammarSpec(kind="regex", source=""), "", "x"),
        (GrammarSpec(kind="lark", source='start: "x" y\ny: "{" "}"'), "x{}", "y"),
        (lark.one_of(("yes", 'n"o\\', "\x7f\n", "é")), 'n"o\\', "maybe"),
        (lark.one_of(("yes", 'n"o\\', "\x7f\n", "é")), "\x7f\n", "e"),
        (GrammarSpec(kind="json_schema", source='{"type": "array"}'), "[1,\n 2]", "{"),
    ],
)
def test_every_kind_of_content_goes_behind_thinking(spec: GrammarSpec, good: str, bad: str) -> None:
    assert verdict(spec, good) == "whole"
    wrapped = grammar(None, content=spec, thinking=Thinking.OPEN)
    assert verdict(wrapped, f"hm</think>{good}") == "whole"
    assert verdict(wrapped, f"hm</think>{bad}") == "no"


def test_white_space_in_json_behind_thinking_has_an_end() -> None:
    wrapped = grammar(None, content=JSON_CONTENT, thinking=Thinking.OPEN)
    assert verdict(wrapped, "</think>{" + "\n" * 40) == "prefix"
    assert verdict(wrapped, "</think>{" + "\n" * 41) == "no"


def test_a_schemas_own_idea_of_white_space_counts() -> None:
    own = '{"type": "array", "x-guidance": {"whitespace_pattern": " {1,2}"}}'
    spec = GrammarSpec(kind="json_schema", source=own)
    wrapped = grammar(None, content=spec, thinking=Thinking.OPEN)
    assert verdict(wrapped, "</think>[  ") == "prefix"
    assert verdict(wrapped, "</think>[   ") == "no"


def test_strict_tools_need_schemas_that_can_be_enforced() -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "format": "no-such"}}}
    strict = [Tool(name="f", parameters=odd, is_strict=True)]
    with pytest.raises(InvalidRequestError) as caught:
        compiler().compile(grammar("hermes", tools=strict))
    assert caught.value.param == "grammar"
    lenient = grammar("hermes", tools=[Tool(name="f", parameters=odd)])
    assert verdict(lenient, call("hermes", text_spell, "f", '{"a": "x"}')) == "whole"
    assert verdict(lenient, call("hermes", text_spell, "f", '{"a": 1}')) == "no"
