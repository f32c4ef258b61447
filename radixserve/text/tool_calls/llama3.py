"""Calls as Llama 3.1 and later say them: the answer is nothing but calls.

    {"name": "get_weather", "parameters": {"city": "Köln"}}; {"name": ...
    <|python_tag|>{"name": "get_weather", "parameters": {"city": "Köln"}}

Without the tag an object at the answer's beginning is a call only if it names a tool that there is
and has no keys but a call's: answers in JSON look much the same. Behind the tag there may also be
Python, which is content.

*Source*: https://github.com/meta-llama/llama-models/blob/main/models/llama3_1/prompt_format.md
"""

from collections.abc import Sequence

from radixserve.text import lark
from radixserve.text.answer import AnswerParser
from radixserve.text.tool_calls.call_object import CallObject
from radixserve.text.tool_calls.format import Spell, Tool, call_rules
from radixserve.text.tool_calls.parsing import MAX_HELD_SPACE, SPACE, CallParser

_TAG = "<|python_tag|>"


class Llama3Format:
    """Implements ``ToolFormat``."""

    name = "llama3"
    markers = (_TAG,)

    def new_parser(self, names: frozenset[str]) -> AnswerParser:
        """See ``ToolFormat.new_parser``."""
        return _Llama3Parser(names)

    def grammar(
        self, tools: Sequence[Tool], *, enforced: bool, parallel: bool, spell: Spell
    ) -> str:
        """See ``ToolFormat.grammar``."""
        many = ' ("; " call)*' if parallel else ""
        return "\n".join(
            [
                call_rules(tools, enforced=enforced, around=_around),
                f"calls: {spell(_TAG)}? call{many}",
                f"marked: {spell(_TAG)} call{many}",
                # A text that begins with a brace would be read as a call.
                "free: calls | UNBRACED?",
                r"UNBRACED: TEXT & /[^{\s](?s:.*)/",
            ]
        )

    def call_id(self, given: str) -> str:
        """See ``ToolFormat.call_id``."""
        return given


def _around(name: str) -> tuple[str, str]:
    return lark.literal(f'{{"name": "{name}", "parameters": '), lark.literal("}")


class _Llama3Parser(CallParser):
    marker = _TAG

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names
        self._state = self._at_start

    def _at_start(self) -> bool:
        text = self._rest.lstrip(SPACE)
        if not text and len(self._rest) <= MAX_HELD_SPACE:
            return False
        if not text.startswith("{"):
            self._state = self._in_content
            return True
        self._open(self._rest[: -len(text)])
        self._rest = text
        return self._read_bare_object()

    def _read_bare_object(self) -> bool:
        accepts = self._names.__contains__
        return self._read_object(CallObject(self._num_calls, accepts=accepts, usual_keys=True))

    def _begin(self) -> bool:
        return self._read_object(CallObject(self._num_calls))

    def _after_call(self) -> bool:
        """A semicolon and another call, or something else."""
        text = self._rest.lstrip(SPACE)
        behind = text[1:].lstrip(SPACE)
        if not behind and text[:1] in ("", ";") and len(self._rest) <= MAX_HELD_SPACE:
            return False
        if text.startswith(";") and behind.startswith("{"):
            self._open(self._rest[: -len(behind)])
            self._rest = behind
            return self._read_bare_object()
        self._state = self._in_content
        return True
