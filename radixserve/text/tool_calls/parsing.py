"""What the parsers of all formats have in common: content up to a marker, held back as little as
can be, and calls that are JSON objects.

    "Let me look.\\n\\n<tool" | "_call>..."      held back: "\\n\\n<tool", which may be markup

White space next to a call is markup, not content: every chat template writes its own. A text that
only looks like a call is content, as it stands. A call whose arguments turn out to be no JSON after
they have begun to come out keeps all that the model wrote up to the call's end: whoever reads them
can tell the model what is wrong with them.

A parser is a state, one of its methods, which takes from ``_rest`` what it can decide and says
whether it got anywhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from radixserve.text.answer import AnswerPart, ContentText, ToolCallArguments
from radixserve.text.tool_calls.call_object import CallObject

SPACE = " \t\r\n"

MAX_HELD_SPACE = 64
"""White space is held back up to here; what has more of it is text."""


def partial_end(text: str, marker: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``marker``."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0


class CallParser(ABC):
    """Implements ``AnswerParser``; formats say what follows their marker. Mutable."""

    marker: str
    """What calls begin with."""
    end_marker: str | None = None
    """What they end with."""

    def __init__(self) -> None:
        self._rest = ""
        """What has not been decided."""
        self._parts: list[AnswerPart] = []
        self._space = ""
        """White space at the end of the content so far."""
        self._opening = ""
        """What stood before the call that is being read: content, if it turns out to be none."""
        self._num_calls = 0
        self._call: CallObject | None = None
        """The call that is being read."""
        self._state: Callable[[], bool] = self._in_content

    def feed(self, text: str) -> list[AnswerPart]:
        """See ``AnswerParser.feed``."""
        self._rest += text
        while self._rest and self._state():
            pass
        return self._take()

    def finish(self) -> list[AnswerPart]:
        """See ``AnswerParser.finish``."""
        self._end()
        self._say(self._rest)
        self._rest = ""
        if not self._num_calls:
            self._emit_content(self._space)
        return self._take()

    @abstractmethod
    def _begin(self) -> bool:
        """The state behind the marker."""

    @abstractmethod
    def _after_call(self) -> bool:
        """The state behind a call's object."""

    def _end(self) -> None:
        """The text is over. *Mutates* ``_rest``: what is left there becomes content."""
        call, self._call = self._call, None
        if call is not None and call.has_begun:
            self._num_calls += 1
            call.flush(self._parts)
        else:
            raw = "" if call is None else call.raw
            self._rest, self._opening = self._opening + raw + self._rest, ""

    def _in_content(self) -> bool:
        found = self._rest.find(self.marker)
        if found >= 0:
            self._say(self._rest[:found])
            self._rest = self._rest[found + len(self.marker) :]
            self._open(self.marker)
            self._state = self._begin
            return True
        cut = len(self._rest) - partial_end(self._rest, self.marker)
        self._say(self._rest[:cut])
        self._rest = self._rest[cut:]
        return False

    def _read_object(self, call: CallObject) -> bool:
        """Begin to read a call. Always True: there is more to do."""
        self._call = call
        self._state = self._in_object
        return True

    def _in_object(self) -> bool:
        call = self._call
        assert call is not None
        end = call.feed(self._rest, 0, self._parts)
        self._rest = self._rest[end:]
        if not (call.is_complete or call.is_broken):
            return False
        self._call = None
        if not call.has_begun:
            self._refuse(call.raw)
            return True
        self._num_calls += 1
        self._opening = ""
        call.flush(self._parts)
        # A brace that is missing, or too much, at the end of a call does no harm.
        self._state = self._after_call if call.has_arguments else self._in_broken_arguments
        return True

    def _in_broken_arguments(self) -> bool:
        """What follows where arguments are no JSON."""
        index = self._num_calls - 1
        found = -1 if self.end_marker is None else self._rest.find(self.end_marker)
        if found >= 0:
            self._state = self._after_call
            cut = found
        else:
            cut = len(self._rest) - partial_end(self._rest, self.end_marker or "")
        text, self._rest = self._rest[:cut], self._rest[cut:]
        if text:
            self._parts.append(ToolCallArguments(index, text))
        return found >= 0

    def _open(self, text: str) -> None:
        """What may be a call begins with ``text``."""
        self._opening, self._space = self._space + text, ""

    def _refuse(self, text: str) -> None:
        """It is no call: what was read of it is content. The search goes on behind it."""
        self._say(self._opening + text)
        self._opening = ""
        self._state = self._in_content

    def _say(self, text: str) -> None:
        text = self._space + text
        said = text.rstrip(SPACE)
        if len(text) - len(said) > MAX_HELD_SPACE:
            said = text[:-MAX_HELD_SPACE]
        self._space = text[len(said) :]
        self._emit_content(said)

    def _emit_content(self, text: str) -> None:
        if text:
            self._parts.append(ContentText(text))

    def _take(self) -> list[AnswerPart]:
        parts, self._parts = self._parts, []
        return merged(parts)


def merged(parts: list[AnswerPart]) -> list[AnswerPart]:
    """The same with neighbours of one kind put together."""
    result: list[AnswerPart] = []
    for part in parts:
        before = result[-1] if result else None
        if isinstance(part, ContentText) and isinstance(before, ContentText):
            result[-1] = ContentText(before.text + part.text)
        elif isinstance(part, ToolCallArguments) and isinstance(before, ToolCallArguments):
            result[-1] = ToolCallArguments(part.index, before.text + part.text)
        else:
            result.append(part)
    return result
