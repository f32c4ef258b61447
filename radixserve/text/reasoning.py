"""Thinking that comes before an answer: ``<think>...</think>``.

Some chat templates open the thinking themselves, at the end of the prompt; some close it at once,
if asked not to think; with the others the model opens it, or not.

    prompt "...<think>\\n"              OPEN    "hm</think>\\n\\nYes."     hm | Yes.
    prompt "...assistant\\n"            AUTO    "<think>hm</think>Yes."    hm | Yes.
    prompt "<think>\\n\\n</think>\\n\\n"   CLOSED  "Yes."                       | Yes.

Line ends next to the markers are markup. Whatever is inside is no call of a tool and obeys no
grammar. Thinking that never ends leaves no answer.
"""

from enum import Enum
from typing import Final

from radixserve.text.answer import AnswerParser, AnswerPart, ReasoningText
from radixserve.text.tool_calls.parsing import MAX_HELD_SPACE, SPACE, partial_end

THINK_OPEN: Final = "<think>"
THINK_CLOSE: Final = "</think>"

_ENDS = "\r\n"


class Thinking(Enum):
    """How an answer begins."""

    OPEN = "open"
    """In the middle of thinking."""
    AUTO = "auto"
    """With thinking or without."""
    CLOSED = "closed"
    """Without."""


def thinking_after(prompt: str, continued: str | None) -> Thinking:
    """How the answer to a rendered prompt begins.

    ``continued``: the text of the last message, if the answer goes on from it.
    """
    if continued is not None and (THINK_OPEN in continued or THINK_CLOSE in continued):
        is_open = continued.rfind(THINK_OPEN) > continued.rfind(THINK_CLOSE)
        return Thinking.OPEN if is_open else Thinking.CLOSED
    end = prompt.rstrip(SPACE)
    if end.endswith(THINK_OPEN):
        return Thinking.OPEN
    if end.endswith(THINK_CLOSE) or continued:
        return Thinking.CLOSED
    return Thinking.AUTO


class ThinkingParser:
    """Implements ``AnswerParser``: takes the thinking off and leaves the rest to ``inner``."""

    def __init__(self, inner: AnswerParser, *, thinking: Thinking) -> None:
        self._inner = inner
        self._thinking = thinking
        self._rest = ""
        self._has_thought = False
        """Some thinking was found, so line ends before the answer are markup."""
        self._has_text = False
        """Of the thinking or of the answer, whichever is being read."""

    def feed(self, text: str) -> list[AnswerPart]:
        """See ``AnswerParser.feed``."""
        self._rest += text
        parts: list[AnswerPart] = []
        if self._thinking is Thinking.AUTO:
            self._look_for_beginning()
        if self._thinking is Thinking.OPEN:
            self._think(parts)
        if self._thinking is Thinking.CLOSED:
            self._answer(parts)
        return parts

    def finish(self) -> list[AnswerPart]:
        """See ``AnswerParser.finish``."""
        parts: list[AnswerPart] = []
        rest, self._rest = self._rest, ""
        if self._thinking is Thinking.OPEN:
            self._emit(rest.rstrip(_ENDS), parts)
        elif rest and not self._has_thought:
            parts += self._inner.feed(rest)
        return parts + self._inner.finish()

    def _look_for_beginning(self) -> None:
        text = self._rest.lstrip(SPACE)
        if text.startswith(THINK_OPEN):
            self._rest = text[len(THINK_OPEN) :]
            self._thinking = Thinking.OPEN
        elif not THINK_OPEN.startswith(text) or len(self._rest) > MAX_HELD_SPACE:
            self._thinking = Thinking.CLOSED

    def _think(self, parts: list[AnswerPart]) -> None:
        found = self._rest.find(THINK_CLOSE)
        if found >= 0:
            self._emit(self._rest[:found].rstrip(_ENDS), parts)
            self._rest = self._rest[found + len(THINK_CLOSE) :]
            self._thinking, self._has_thought, self._has_text = Thinking.CLOSED, True, False
            return
        cut = len(self._rest) - partial_end(self._rest, THINK_CLOSE)
        cut = max(len(self._rest[:cut].rstrip(_ENDS)), cut - MAX_HELD_SPACE)
        self._emit(self._rest[:cut], parts)
        self._rest = self._rest[cut:]

    def _emit(self, text: str, parts: list[AnswerPart]) -> None:
        if not self._has_text:
            text = text.lstrip(_ENDS)
        if text:
            self._has_text = True
            parts.append(ReasoningText(text))

    def _answer(self, parts: list[AnswerPart]) -> None:
        if self._has_thought and not self._has_text:
            self._rest = self._rest.lstrip(_ENDS)
        if self._rest:
            self._has_text = True
            rest, self._rest = self._rest, ""
            parts += self._inner.feed(rest)
