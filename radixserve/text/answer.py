"""What an answer's text says besides content: thinking, and calls of tools.

A parser takes one choice's text as it arrives and gives its parts, in order. It holds back no more
than what may turn out to be the beginning of a marker, and loses nothing: a text that only looks
like a call is content.

Knows neither HTTP nor any client's dialect. Cost: O(text), amortised.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """More of the thinking that comes before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentText:
    """More of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The next call begins. Calls are numbered from 0 and never interleave."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of a call's arguments. Over the whole call the texts concatenate to one JSON object."""

    index: int
    text: str


AnswerPart = ReasoningText | ContentText | ToolCallStart | ToolCallArguments


class AnswerParser(Protocol):
    """Takes one choice's text apart. Mutable; ``finish`` ends its use."""

    def feed(self, text: str) -> list[AnswerPart]:
        """The parts that this text completes or adds to."""
        ...

    def finish(self) -> list[AnswerPart]:
        """What was held back."""
        ...


class PlainAnswer:
    """Implements ``AnswerParser`` where every text is content."""

    __slots__ = ()

    def feed(self, text: str) -> list[AnswerPart]:
        """See ``AnswerParser.feed``."""
        return [ContentText(text)] if text else []

    def finish(self) -> list[AnswerPart]:
        """See ``AnswerParser.finish``."""
        return []
