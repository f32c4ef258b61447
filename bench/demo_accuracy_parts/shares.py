"""Right answers, by split, kind and length."""

from collections.abc import Sequence
from typing import Any

from demo_accuracy_parts.questions import Question

ALL = "all"


def shares(questions: Sequence[Question], right: Sequence[bool]) -> dict[str, Any]:
    """By split, kind and length: how many were right, and of how many. Kind and length may be
    "all"."""
    found: dict[str, dict[str, dict[str, list[int]]]] = {}
    for question, is_right in zip(questions, right, strict=True):
        of_split = found.setdefault(question.split, {})
        for kind in (question.kind, ALL):
            of_kind = of_split.setdefault(kind, {})
            for length in (str(question.length), ALL):
                cell = of_kind.setdefault(length, [0, 0])
                cell[0] += is_right
                cell[1] += 1
    return found
