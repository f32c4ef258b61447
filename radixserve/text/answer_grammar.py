"""One grammar of everything that an answer may consist of: thinking, calls of tools, content.

    start: think? calls            a tool must be called
    start: think? free             text with calls in it, their arguments valid
    start: think? (marked | content)
    start: think? content          content in a format

Thinking is free, up to its end; whatever the rest asks applies behind it.

Terminals that formats' rules share: ``TEXT``, any text that does not begin with thinking, so that
thinking is always read as such.
"""

from dataclasses import dataclass
from typing import Literal

from radixserve.sampling.grammar import GrammarSpec
from radixserve.text import lark
from radixserve.text.reasoning import THINK_CLOSE, THINK_OPEN, Thinking
from radixserve.text.tool_calls.format import Spell

_GAP = r"GAP: /[ \t\r\n]{1,8}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """The calls that an answer may make."""

    rules: str
    """From ``ToolFormat.grammar``."""
    demand: Literal["must", "may"]


def answer_grammar(
    *, thinking: Thinking, calls: Calls | None, content: GrammarSpec | None, spell: Spell
) -> GrammarSpec | None:
    """The grammar of an answer; None if anything goes.

    Where a tool must be called, ``content`` has nothing to apply to.
    """
    if calls is None and content is None:
        return None
    if calls is None and thinking is Thinking.CLOSED:
        return content
    lines = []
    if calls is None:
        answer = "content"
    elif calls.demand == "must":
        answer = "calls"
    else:
        answer = "free" if content is None else "(marked | content)"
    if calls is not None:
        lines += [calls.rules, *_text_rules(thinking)]
    if content is not None and "content" in answer:
        lines.append(f"content: {lark.embed(content)}")
    lines += _think_rules(thinking, spell)
    begin = {Thinking.OPEN: "think ", Thinking.AUTO: "think? ", Thinking.CLOSED: ""}[thinking]
    return GrammarSpec(kind="lark", source="\n".join([f"start: {begin}{answer}", *lines]))


def _text_rules(thinking: Thinking) -> list[str]:
    if thinking is not Thinking.AUTO:
        return [f"TEXT: {lark.ANY}"]
    return [rf"TEXT: {lark.ANY} & ~/\s*{THINK_OPEN}(?s:.*)/"]


def _think_rules(thinking: Thinking, spell: Spell) -> list[str]:
    """Rules for ``think``: what is left of it, its end, and the line ends behind it."""
    if thinking is Thinking.CLOSED:
        return []
    opening, closing = spell(THINK_OPEN), spell(THINK_CLOSE)
    is_text = closing == lark.literal(THINK_CLOSE)
    begin = ""
    thoughts = f"{lark.ANY} {closing}"
    if thinking is Thinking.AUTO and is_text and opening == lark.literal(THINK_OPEN):
        # One terminal: were it several, the lexer would take the first for the beginning of TEXT.
        thoughts = rf"/\s*/ {opening} {thoughts}"
    elif thinking is Thinking.AUTO:
        begin = f"{opening} "
    if is_text:
        # Lazy: the first marker is the end.
        rules = f"thoughts[lazy]: THOUGHTS\nTHOUGHTS: {thoughts}"
    else:
        rules = f"thoughts: {thoughts}"
    return [_GAP, f"think: {begin}thoughts GAP?", rules]
