"""Where one JSON value ends in a text that arrives in pieces, and the value's text so far.

Strict, with one exception: models write line ends and tabs into strings as they are, where JSON
wants an escape. The scanner writes the escape, so that what it lets through always parses.

Text comes out as it arrives, but never half an escape: ``\\u00`` waits for ``e9``, and the first
half of an escaped surrogate pair for the second.

    in    {"city": "K   |  \\u00  | f6ln"} and more
    out   {"city": "K   |         | \\u00f6ln"}        is_complete, "and more" is not consumed

Cost: O(text).
"""

import re
from enum import Enum, auto

MAX_DEPTH = 200
"""Deepest nesting. Deeper is taken for broken: who parses it later may be recursive."""

MAX_NUMBER_CHARS = 4000
"""Longest number. Python converts no more than 4,300 digits."""

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SPACE = " \t\r\n"
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_CHARS = frozenset("0123456789+-.eE")
_LITERALS = ("true", "false", "null")
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPES = {char: f"\\u{char:04x}" for char in range(32)} | {8: "\\b", 9: "\\t", 10: "\\n"}
_ESCAPES |= {12: "\\f", 13: "\\r"}
_ESCAPE_LENGTH = 6


class _At(Enum):
    """What may come next."""

    VALUE = auto()
    FIRST_VALUE = auto()
    """A value, or the end of an empty array."""
    FIRST_KEY = auto()
    """A key, or the end of an empty object."""
    KEY = auto()
    COLON = auto()
    NEXT = auto()
    """A comma, or the end of the container."""
    STRING = auto()
    ESCAPE = auto()
    SCALAR = auto()


class JsonScanner:
    """Scans one value, beginning with its first character. Mutable; used once."""

    __slots__ = ("_at", "_closers", "_is_key", "_out", "_pending", "_scalar", "is_broken",
                 "is_complete")  # fmt: skip

    def __init__(self) -> None:
        self._at = _At.VALUE
        self._closers: list[str] = []
        """The ends of the containers that are open, the innermost last."""
        self._is_key = False
        self._out: list[str] = []
        self._pending = ""
        """An escape that is not whole yet, perhaps with the half of a pair before it."""
        self._scalar = ""
        self.is_complete = False
        self.is_broken = False
        """The text so far begins no JSON value."""

    def feed(self, text: str, start: int = 0) -> int:
        """Read ``text[start:]``. Returns the index behind what belongs to the value."""
        at = start
        while at < len(text) and not (self.is_complete or self.is_broken):
            if self._at is _At.STRING:
                at = self._read_string(text, at)
            elif self._at is _At.ESCAPE:
                at = self._read_escape(text, at)
            elif self._at is _At.SCALAR:
                at = self._read_scalar(text, at)
            else:
                at = self._read_structure(text, at)
        return at

    def take(self) -> str:
        """What came out since the last time."""
        text = "".join(self._out)
        self._out.clear()
        return text

    def flush(self) -> str:
        """The text has ended or is broken: the escape that was held back, as it stands."""
        pending, self._pending = self._pending, ""
        return self.take() + pending

    def _read_structure(self, text: str, at: int) -> int:
        char = text[at]
        if char in _SPACE:
            # Outside of the value there is none to read.
            if not self._closers:
                self.is_broken = True
                return at
        elif self._at is _At.COLON:
            if not self._goes_on(char == ":", _At.VALUE):
                return at
        elif self._at is _At.NEXT and char == ",":
            self._at = _At.KEY if self._closers[-1] == "}" else _At.VALUE
        elif self._at in (_At.NEXT, _At.FIRST_KEY, _At.FIRST_VALUE) and char == self._closers[-1]:
            self._closers.pop()
            self._end_value()
        elif self._at in (_At.KEY, _At.FIRST_KEY):
            if not self._goes_on(char == '"', _At.STRING):
                return at
            self._is_key = True
        elif self._at is _At.NEXT or not self._begin_value(char):
            self.is_broken = True
            return at
        self._out.append(char)
        return at + 1

    def _goes_on(self, condition: bool, then: _At) -> bool:
        if condition:
            self._at = then
        else:
            self.is_broken = True
        return condition

    def _begin_value(self, char: str) -> bool:
        """Whether a value begins with ``char``."""
        if char in "{[":
            if len(self._closers) >= MAX_DEPTH:
                return False
            self._closers.append("}" if char == "{" else "]")
            self._at = _At.FIRST_KEY if char == "{" else _At.FIRST_VALUE
            return True
        if char == '"':
            self._at, self._is_key = _At.STRING, False
            return True
        if char in "-0123456789tfn":
            self._at, self._scalar = _At.SCALAR, char
            return True
        return False

    def _end_value(self) -> None:
        self._at = _At.NEXT
        self.is_complete = not self._closers

    def _read_string(self, text: str, at: int) -> int:
        plain = _PLAIN.match(text, at)
        if plain is not None:
            self._let_go()
            self._out.append(plain[0])
            return plain.end()
        char = text[at]
        if char == "\\":
            self._pending += char
            self._at = _At.ESCAPE
            return at + 1
        self._let_go()
        if char == '"':
            self._out.append(char)
            if self._is_key:
                self._is_key, self._at = False, _At.COLON
            else:
                self._end_value()
        else:
            self._out.append(_ESCAPES[ord(char)])
        return at + 1

    def _read_escape(self, text: str, at: int) -> int:
        # Of a pair whose first half waits, this is the second.
        begin = self._pending.rindex("\\")
        length = len(self._pending) - begin
        char = text[at]
        is_good = (char in '"\\/bfnrtu') if length == 1 else char in _HEX
        if not is_good:
            self.is_broken = True
            return at
        self._pending += char
        length += 1
        if length == 2 and char != "u":
            self._end_escape(waits=False)
        elif length == _ESCAPE_LENGTH:
            code = int(self._pending[begin + 2 :], 16)
            self._end_escape(waits=begin == 0 and 0xD800 <= code < 0xDC00)
        return at + 1

    def _end_escape(self, *, waits: bool) -> None:
        self._at = _At.STRING
        if not waits:
            self._let_go()

    def _let_go(self) -> None:
        if self._pending:
            self._out.append(self._pending)
            self._pending = ""

    def _read_scalar(self, text: str, at: int) -> int:
        """A number or a literal: up to the character that cannot be part of one."""
        end = at
        is_number = self._scalar[0] not in "tfn"
        while end < len(text) and (
            text[end] in _NUMBER_CHARS if is_number else "a" <= text[end] <= "z"
        ):
            end += 1
        self._scalar += text[at:end]
        self._out.append(text[at:end])
        is_good = (
            len(self._scalar) <= MAX_NUMBER_CHARS
            if is_number
            else any(each.startswith(self._scalar) for each in _LITERALS)
        )
        if not is_good:
            self.is_broken = True
        elif end < len(text):
            if _NUMBER.fullmatch(self._scalar) if is_number else self._scalar in _LITERALS:
                self._end_value()
            else:
                self.is_broken = True
        return end
