"""Texts of a conversation's last message that grow piece by piece, put together once.

Adding to a string copies it: a message of twenty thousand small blocks would take half a minute.
Here the pieces wait until somebody looks. Cost: O(text).
"""

from collections.abc import Sequence
from typing import Any


class GrownTexts:
    """The pieces, by the field that they belong to. Mutable, owned by whoever has the messages."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[str]] = {}

    def add(self, field: str, text: str) -> None:
        """More of the last message's ``field``."""
        self._pieces.setdefault(field, []).append(text)

    def settle(self, messages: Sequence[dict[str, Any]]) -> None:
        """Put the pieces into the last message: before another one follows, or this one is read.
        *Mutates* it."""
        for field, pieces in self._pieces.items():
            last = messages[-1]
            last[field] = "".join((last.get(field, ""), *pieces))
        self._pieces.clear()
