"""One call written as a JSON object, ``{"name": "f", "arguments": {...}}``, as it arrives.

The call begins, for whoever reads its parts, when its name is known and its arguments begin: until
then the text may turn out to be no call, and is kept to be given back. From then on the arguments'
text passes through. Where the arguments come before the name, or as a string that holds JSON, or
not at all, they come out in one piece at the object's end.

Knows no format's markers. Cost: O(text).
"""

import json
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from radixserve.text.answer import AnswerPart, ToolCallArguments, ToolCallStart
from radixserve.text.tool_calls.json_scanner import JsonScanner

_SPACE = " \t\r\n"
_ARGUMENTS = ("arguments", "parameters")
_USUAL_KEYS = frozenset({"name", "type", "id", *_ARGUMENTS})


class _At(Enum):
    """What comes next."""

    OPEN = auto()
    FIRST_KEY = auto()
    KEY = auto()
    COLON = auto()
    VALUE = auto()
    NEXT = auto()


class CallObject:
    """Reads one call. Mutable; used once.

    ``accepts`` judges names. ``usual_keys``: an object with any other key is no call.
    """

    def __init__(
        self, index: int, *, accepts: Callable[[str], bool] = bool, usual_keys: bool = False
    ) -> None:
        self._index = index
        self._accepts = accepts
        self._usual_keys = usual_keys
        self._at = _At.OPEN
        self._scanner: JsonScanner | None = None
        self._key = ""
        self._texts: list[str] = []
        """The text of the value that is being kept."""
        self._values: dict[str, str] = {}
        self._streams = False
        """The value being read is the arguments, and they pass through."""
        self._raw: list[str] = []
        self.has_begun = False
        """Parts have come out; there is no way back."""
        self.has_arguments = False
        """All of them have come out."""
        self.is_complete = False
        self.is_broken = False

    @property
    def raw(self) -> str:
        """What was read while nothing had come out."""
        return "".join(self._raw)

    def feed(self, text: str, start: int, parts: list[AnswerPart]) -> int:
        """Read ``text[start:]``; the index behind what belongs to the object. *Mutates* ``parts``:
        adds what came out."""
        at = start
        while at < len(text) and not (self.is_complete or self.is_broken):
            end = self._read(text, at, parts)
            if not self.has_begun:
                self._raw.append(text[at:end])
            at = end
        return at

    def flush(self, parts: list[AnswerPart]) -> None:
        """The text has ended or is broken. *Mutates* ``parts``: adds what was held back."""
        if self._streams and self._scanner is not None:
            self._pass(self._scanner.flush(), parts)

    def _read(self, text: str, at: int, parts: list[AnswerPart]) -> int:
        if self._scanner is not None:
            return self._read_value(self._scanner, text, at, parts)
        char = text[at]
        if char in _SPACE:
            return at + 1
        if self._at is _At.VALUE:
            self._begin_value(char, parts)
            return at
        if char == '"' and self._at in (_At.KEY, _At.FIRST_KEY):
            self._scanner = JsonScanner()
            return at
        if char == "}" and self._at in (_At.NEXT, _At.FIRST_KEY):
            self._close(parts)
        elif (self._at, char) == (_At.OPEN, "{"):
            self._at = _At.FIRST_KEY
        elif (self._at, char) == (_At.COLON, ":"):
            self._at = _At.VALUE
        elif (self._at, char) == (_At.NEXT, ","):
            self._at = _At.KEY
        else:
            self.is_broken = True
        return at if self.is_broken else at + 1

    def _begin_value(self, char: str, parts: list[AnswerPart]) -> None:
        self._scanner = JsonScanner()
        name = self._name()
        self._streams = (
            self._key in _ARGUMENTS and char == "{" and name is not None and not self.has_begun
        )
        if self._streams:
            assert name is not None
            self.has_begun = True
            parts.append(ToolCallStart(self._index, name))

    def _read_value(self, scanner: JsonScanner, text: str, at: int, parts: list[AnswerPart]) -> int:
        """More of a key or a value."""
        end = scanner.feed(text, at)
        if scanner.is_broken:
            self.is_broken = True
            return end
        if self._streams:
            self._pass(scanner.take(), parts)
        else:
            self._texts.append(scanner.take())
        if scanner.is_complete:
            self._scanner = None
            self._end_value()
        return end

    def _end_value(self) -> None:
        text = "".join(self._texts)
        self._texts.clear()
        if self._at is not _At.VALUE:
            self._at, self._key = _At.COLON, json.loads(text)
            self.is_broken = self._usual_keys and self._key not in _USUAL_KEYS
            return
        self._at = _At.NEXT
        if self._streams:
            self._streams, self.has_arguments = False, True
        else:
            self._values.setdefault(self._key, text)
            # The sooner it is known to be no call, the less is held back.
            self.is_broken = self._key == "name" and self._name() is None

    def _name(self) -> str | None:
        name = _loads(self._values.get("name", "null"))
        is_good = isinstance(name, str) and _is_text(name) and self._accepts(name)
        return name if is_good else None

    def _close(self, parts: list[AnswerPart]) -> None:
        if not self.has_begun:
            name = self._name()
            given = next((self._values[key] for key in _ARGUMENTS if key in self._values), "null")
            text = _as_object(given)
            if name is None or text is None:
                self.is_broken = True
                return
            self.has_begun = self.has_arguments = True
            parts.append(ToolCallStart(self._index, name))
            self._pass(text, parts)
        self.is_complete = True

    def _pass(self, text: str, parts: list[AnswerPart]) -> None:
        if text:
            parts.append(ToolCallArguments(self._index, text))


def _as_object(text: str) -> str | None:
    """The JSON text of arguments that are an object, a string that holds one, or nothing."""
    value = _loads(text)
    if isinstance(value, str):
        # An escape may have been half a character; the very same escape may stand in its place.
        text = value.encode("utf-8", "backslashreplace").decode("utf-8")
        value = _loads(text)
    if value is None:
        return "{}"
    return text if isinstance(value, dict) else None


def _loads(text: str) -> Any:
    """What the text says; something that is no object where it is not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False


def _refuse_constant(name: str) -> Any:
    """Python reads NaN and infinities; JSON has none, and other readers of arguments fail."""
    raise ValueError(name)


def _is_text(name: str) -> bool:
    """Whether it has no half characters, which escapes can make and prompts cannot hold."""
    return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)
