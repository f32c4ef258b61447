"""Calls as Mistral's models say them, the older way and the newer.

    [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Köln"}}, ...]
    [TOOL_CALLS]get_weather[ARGS]{"city": "Köln"}[TOOL_CALLS]...

In between there was a version with ``[CALL_ID]...`` before ``[ARGS]``. Their templates take ids of
nine letters and digits only.

*Source*: https://github.com/mistralai/mistral-common
"""

import hashlib
import re
from collections.abc import Sequence

from radixserve.text import lark
from radixserve.text.answer import AnswerParser, ToolCallArguments, ToolCallStart
from radixserve.text.tool_calls.call_object import CallObject
from radixserve.text.tool_calls.format import Spell, Tool, call_rules
from radixserve.text.tool_calls.json_scanner import JsonScanner
from radixserve.text.tool_calls.parsing import MAX_HELD_SPACE, SPACE, CallParser

_OPEN = "[TOOL_CALLS]"
_ARGS = "[ARGS]"
_ID = "[CALL_ID]"
# Possessive: three runs of white space in a row could be told apart in cubically many ways.
_HEAD = re.compile(
    r"\s*+(?P<name>[A-Za-z0-9_.:/-]{1,128}+)\s*+"
    r"(?:\[CALL_ID\][A-Za-z0-9]*+)?\s*+(?:\[ARGS\])?\s*+"
)
_CALL_ID = re.compile(r"[A-Za-z0-9]{9}")
_MAX_HEAD_CHARS = 256


class MistralFormat:
    """Implements ``ToolFormat``."""

    name = "mistral"
    markers = (_OPEN, _ID, _ARGS)

    def new_parser(self, names: frozenset[str]) -> AnswerParser:  # noqa: ARG002
        """See ``ToolFormat.new_parser``. What follows the marker is meant as a call, whatever its
        name."""
        return _MistralParser()

    def grammar(
        self, tools: Sequence[Tool], *, enforced: bool, parallel: bool, spell: Spell
    ) -> str:
        """See ``ToolFormat.grammar``. The newer way, if the vocabulary has its token."""
        opening, args = spell(_OPEN), spell(_ARGS)
        is_newer = args != lark.literal(_ARGS)
        if is_newer:
            rules = call_rules(
                tools, enforced=enforced, around=lambda name: (f"{lark.literal(name)} {args}", "")
            )
            body = "body: call"
            calls = f"calls: {opening} body"
            if parallel:
                calls += f" ({opening} body)*"
        else:
            rules = call_rules(tools, enforced=enforced, around=_around)
            many = ' (", " call)*' if parallel else ""
            body = f'body: " "? "[" call{many} "]"'
            calls = f"calls: {opening} body"
        if opening == lark.literal(_OPEN):
            # Lazy: the first marker ends the text, and a call must follow it.
            head = f"head[lazy]: HEAD\nHEAD: TEXT {opening}"
        else:
            head = f"head: TEXT {opening}"
        again = f" ({opening} body)*" if parallel and is_newer else ""
        calls += "\nmarked: calls"
        return "\n".join([rules, body, calls, head, f"free: head body{again} | TEXT"])

    def call_id(self, given: str) -> str:
        """See ``ToolFormat.call_id``."""
        if _CALL_ID.fullmatch(given):
            return given
        return hashlib.sha256(given.encode("utf-8", "replace")).hexdigest()[:9]


def _around(name: str) -> tuple[str, str]:
    return lark.literal(f'{{"name": "{name}", "arguments": '), lark.literal("}")


class _MistralParser(CallParser):
    marker = _OPEN
    end_marker = _OPEN

    def __init__(self) -> None:
        super().__init__()
        self._in_array = False
        self._scanner: JsonScanner | None = None
        """Of the arguments of a call in the newer way."""

    def _begin(self) -> bool:
        text = self._skip_into_opening()
        if not text:
            return self._is_too_far()
        self._in_array = text[0] == "["
        if self._in_array:
            self._opening += "["
            self._rest = text[1:]
            self._state = self._in_gap
        elif text[0] == "{":
            return self._read_object(CallObject(self._num_calls))
        else:
            self._state = self._in_head
        return True

    def _skip_into_opening(self) -> str:
        """The rest without the white space in front, which is kept in case that this is no call."""
        text = self._rest.lstrip(SPACE)
        self._opening += self._rest[: len(self._rest) - len(text)]
        self._rest = text
        return text

    def _is_too_far(self) -> bool:
        """Refuse what begins with more white space than calls have. False: there is not so much."""
        is_too_far = len(self._opening) > MAX_HELD_SPACE * 2
        if is_too_far:
            self._refuse("")
        return is_too_far

    def _in_gap(self) -> bool:
        """Before an entry of the array."""
        if not self._skip_into_opening():
            return self._is_too_far()
        return self._read_object(CallObject(self._num_calls))

    def _in_head(self) -> bool:
        """Before the arguments, in the newer way."""
        length = self._rest.find("{")
        if length < 0 and len(self._rest) <= _MAX_HEAD_CHARS:
            return False
        head = _HEAD.fullmatch(self._rest, 0, max(0, length))
        if head is None:
            self._refuse("")
            return True
        self._parts.append(ToolCallStart(self._num_calls, head["name"]))
        self._opening = ""
        self._rest = self._rest[length:]
        self._scanner = JsonScanner()
        self._state = self._in_arguments
        return True

    def _in_arguments(self) -> bool:
        scanner = self._scanner
        assert scanner is not None
        end = scanner.feed(self._rest)
        self._rest = self._rest[end:]
        is_over = scanner.is_complete or scanner.is_broken
        if is_over:
            self._state = self._in_content if scanner.is_complete else self._in_broken_arguments
            self._end_arguments()
        else:
            self._pass(scanner.take())
        return is_over

    def _end_arguments(self) -> None:
        if self._scanner is not None:
            self._pass(self._scanner.flush())
            self._scanner = None
            self._num_calls += 1

    def _pass(self, text: str) -> None:
        if text:
            self._parts.append(ToolCallArguments(self._num_calls, text))

    def _after_call(self) -> bool:
        if self._in_array:
            self._rest = self._rest.lstrip(SPACE)
            if not self._rest:
                return False
            separator = self._rest[0]
            if separator in ",]":
                self._rest = self._rest[1:]
            if separator == ",":
                self._opening = separator
                self._state = self._in_gap
                return True
        self._state = self._in_content
        return True

    def _end(self) -> None:
        self._end_arguments()
        super()._end()
