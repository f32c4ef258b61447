"""What the demo model is to reach, and whether it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo_accuracy_parts.shares import ALL
from radixserve.demo.card import interval

Cells = Mapping[str, Mapping[str, Mapping[str, Sequence[int]]]]
"""As ``shares`` counts: right answers and all, by split, kind and length."""


@dataclass(frozen=True, slots=True)
class Target:
    """A least share of exact answers, all lengths taken together."""

    name: str
    split: str
    kinds: tuple[str, ...]
    percent: float


TARGETS = (
    Target("records and prose, held-out names and values", "values", ("record", "prose"), 95.0),
    Target("tables, held-out names and values", "values", ("table",), 85.0),
    Target("inverse questions, held-out names and values", "values", ("inverse",), 85.0),
    Target("everything, held-out phrasings too", "phrasings", (ALL,), 90.0),
)


def verdicts(right: Cells) -> list[dict[str, Any]]:
    """Of each target that was asked for: how many answers were right, whether that is enough, and
    the length of document that does worst."""
    found = []
    for target in TARGETS:
        of_split = right.get(target.split, {})
        counts: dict[str, list[int]] = {}
        for kind in target.kinds:
            for length, (num_right, num_answers) in of_split.get(kind, {}).items():
                count = counts.setdefault(length, [0, 0])
                count[0] += num_right
                count[1] += num_answers
        if not counts:
            continue
        num_right, num_answers = counts.pop(ALL)
        worst = min(counts, key=lambda length: counts[length][0] / counts[length][1])
        found.append(
            {
                "target": target.name,
                "least_percent": target.percent,
                "right": num_right,
                "answers": num_answers,
                "is_met": 100 * num_right >= target.percent * num_answers,
                "worst_length": int(worst),
                "worst": counts[worst],
            }
        )
    return found


def told(verdict: Mapping[str, Any]) -> str:
    """One target's line for a person."""
    share = 100 * verdict["right"] / verdict["answers"]
    worst = 100 * verdict["worst"][0] / verdict["worst"][1]
    met = "met" if verdict["is_met"] else "NOT MET"
    return (
        f"{verdict['target']}: {share:.1f}% of {verdict['answers']:,} "
        f"({interval(verdict['right'], verdict['answers'])}), at least "
        f"{verdict['least_percent']:g}% wanted: {met} "
        f"({worst:.1f}% at {verdict['worst_length']:,} tokens, the worst length)"
    )
