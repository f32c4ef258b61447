"""What a way of saying tool calls consists of: markers, a parser, a grammar.

    ToolFormat ── new_parser() ──▶ AnswerParser       text to calls
               ── grammar()    ──▶ Lark rules         tools to what the model may say

Grammars write arguments as chat templates do, one space behind commas and colons: a call that comes
back in a conversation renders to the very text that the model said, and is found in the cache.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from radixserve.text import lark
from radixserve.text.answer import AnswerParser

Spell = Callable[[str], str]
"""A marker as a piece of a Lark rule: a special token, or text."""

_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that may be called, as far as grammars care."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The JSON schema of its arguments."""
    is_strict: bool = False
    """Its arguments must be valid by the schema, which must be one that grammars can enforce."""

    def arguments_rule(self, *, enforced: bool) -> str:
        """The body of a Lark rule: its arguments, valid by the schema if ``enforced``, as far as
        grammars can unless it is strict; else any object."""
        schema = dict(self.parameters) if enforced else {}
        style = _STYLE if self.is_strict else {**_STYLE, "lenient": True}
        return lark.json_schema({"type": "object", **schema, "x-guidance": style})


class ToolFormat(Protocol):
    """One way of saying calls. Stateless."""

    @property
    def name(self) -> str:
        """What the server's settings call it."""
        ...

    @property
    def markers(self) -> tuple[str, ...]:
        """What has to be seen in the text, if the vocabulary has special tokens of these names."""
        ...

    def new_parser(self, names: frozenset[str]) -> AnswerParser:
        """A parser of one answer. ``names`` are the tools' names."""
        ...

    def grammar(
        self, tools: Sequence[Tool], *, enforced: bool, parallel: bool, spell: Spell
    ) -> str:
        """Lark rules: ``calls``, at least one call and at most one unless ``parallel``; ``marked``,
        the same where no other text can be taken for it; and ``free``, text with such calls in it
        or without. See ``answer_grammar.py`` for the terminals that they share.

        ``enforced``: the arguments of every tool follow its schema, not only of strict ones.
        """
        ...

    def call_id(self, given: str) -> str:
        """An id as the format's templates accept it; equal ones stay equal."""
        ...


def call_rules(
    tools: Sequence[Tool], *, enforced: bool, around: Callable[[str], tuple[str, str]]
) -> str:
    """Lark rules for ``call``: any one of the tools. ``around``: what a tool's name puts before the
    arguments and behind them, as pieces of a rule."""
    lines = ["call: " + " | ".join(f"call_{number}" for number in range(len(tools)))]
    for number, tool in enumerate(tools):
        before, behind = around(tool.name)
        lines.append(f"call_{number}: {before} arguments_{number} {behind}".rstrip())
        rule = tool.arguments_rule(enforced=enforced or tool.is_strict)
        lines.append(f"arguments_{number}: {rule}")
    return "\n".join(lines)
