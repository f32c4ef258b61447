"""What a dialogue is: messages, and what each answer is a test of."""

from dataclasses import dataclass
from enum import StrEnum


class Split(StrEnum):
    """Which names, values and phrasings a dialogue may use. Nothing held out is trained on."""

    TRAIN = "train"
    HELD_OUT_VALUES = "values"
    """Names and values that training never showed in such a place, and a few attributes that it
    never showed at all; its phrasings."""
    HELD_OUT_PHRASINGS = "phrasings"
    """Names and values that training never showed, and ways to ask that it never showed."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a person says, and the one right answer."""

    question: str
    answer: str
    kind: str
    """What it tests: "record", "prose", "table", "inverse", "follow-up", "stated" (what the user
    said about themselves), "absent", "greeting", ... ; the same words in every report."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation over one document."""

    system: str
    """The system message: instructions, and the document (may be empty of either)."""
    turns: tuple[Turn, ...]
