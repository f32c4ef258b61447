"""Calls as Hermes, Qwen 2.5 and Qwen 3 say them.

    Let me look.
    <tool_call>
    {"name": "get_weather", "arguments": {"city": "Köln"}}
    </tool_call>
    <tool_call>
    ...

*Source*: https://github.com/NousResearch/Hermes-Function-Calling
"""

from collections.abc import Sequence

from radixserve.text import lark
from radixserve.text.answer import AnswerParser
from radixserve.text.tool_calls.call_object import CallObject
from radixserve.text.tool_calls.format import Spell, Tool, call_rules
from radixserve.text.tool_calls.parsing import SPACE, CallParser

_OPEN = "<tool_call>"
_CLOSE = "</tool_call>"


class HermesFormat:
    """Implements ``ToolFormat``."""

    name = "hermes"
    markers = (_OPEN, _CLOSE)

    def new_parser(self, names: frozenset[str]) -> AnswerParser:  # noqa: ARG002
        """See ``ToolFormat.new_parser``. What stands between the markers is meant as a call,
        whatever its name."""
        return _HermesParser()

    def grammar(
        self, tools: Sequence[Tool], *, enforced: bool, parallel: bool, spell: Spell
    ) -> str:
        """See ``ToolFormat.grammar``."""
        opening, closing = spell(_OPEN), spell(_CLOSE)
        if opening == lark.literal(_OPEN):
            # Lazy: the first marker ends the text, and a call must follow it.
            head = f"head[lazy]: HEAD\nHEAD: TEXT {opening}"
        else:
            head = f"head: TEXT {opening}"
        return "\n".join(
            [
                call_rules(tools, enforced=enforced, around=_around),
                f'body: "\\n" call "\\n" {closing}',
                head,
                f'calls: {opening} body ("\\n" {opening} body)*'
                if parallel
                else f"calls: {opening} body",
                "marked: calls",
                "free: (head body)* TEXT" if parallel else "free: head body | TEXT",
            ]
        )

    def call_id(self, given: str) -> str:
        """See ``ToolFormat.call_id``."""
        return given


def _around(name: str) -> tuple[str, str]:
    return lark.literal(f'{{"name": "{name}", "arguments": '), lark.literal("}")


class _HermesParser(CallParser):
    marker = _OPEN
    end_marker = _CLOSE

    def _begin(self) -> bool:
        return self._read_object(CallObject(self._num_calls))

    def _after_call(self) -> bool:
        self._rest = self._rest.lstrip(SPACE + "}")
        if self._rest.startswith(_CLOSE):
            self._rest = self._rest[len(_CLOSE) :]
        elif _CLOSE.startswith(self._rest):
            return False
        self._state = self._in_content
        return True

    def _end(self) -> None:
        if self._state == self._after_call:
            # The end marker, cut short.
            self._rest = ""
        super()._end()
