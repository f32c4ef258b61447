"""The figures that the GPU path has to reach, and how each is read from the parts' reports.

A target without a green gate behind it, or that no part has measured, is "unmeasured": a figure of
a kernel that computes something else says nothing. Figures of a dry run are never compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpu.results import ERROR, GREEN


@dataclass(frozen=True, slots=True)
class Target:
    """One figure and the bound it has to reach."""

    number: int
    says: str
    part: str
    key: tuple[str, ...]
    """Where the figure is, below the report's ``results``."""
    bound: float
    at_least: bool = True
    unit: str = "%"

    def is_met(self, figure: float) -> bool:
        return figure >= self.bound if self.at_least else figure <= self.bound


TARGETS: tuple[Target, ...] = (
    Target(
        1,
        "decode attention, 64 x 4,096, page 16: share of the copy bandwidth",
        "kernels",
        ("target_decode_share",),
        0.85,
    ),
    Target(
        2,
        "prefill attention, 8,192 tokens: share of torch's best",
        "kernels",
        ("target_prefill_share",),
        0.75,
    ),
    Target(
        3,
        "Qwen3-8B decode, batch 64 x 1,024: share of the floor",
        "engine:qwen3-8b",
        ("target_batch_64_share",),
        0.80,
    ),
    Target(
        3,
        "Qwen3-8B decode, batch 1 x 1,024: share of the floor",
        "engine:qwen3-8b",
        ("target_batch_1_share",),
        0.75,
    ),
    Target(
        4,
        "Qwen3-8B, batch 64: the GPU's idle share between decode steps",
        "engine:qwen3-8b",
        ("target_idle_share",),
        0.03,
        at_least=False,
    ),
    Target(
        5,
        "64 prompts of 2,048 shared + 128 own, 256 new: times transformers",
        "peers",
        ("target_ratio",),
        3.0,
        unit="x",
    ),
    Target(
        6,
        "decode attention, 64 x (8,192 shared + 256 own): times the same without levels",
        "kernels",
        ("target_shared_ratio",),
        8.0,
        unit="x",
    ),
    Target(
        7,
        "Qwen3-8B decode, 64 x (8,192 shared + 256 own): tokens/s, times that without levels",
        "engine:qwen3-8b",
        ("target_shared_ratio",),
        1.5,
        unit="x",
    ),
)


def table(reports: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each target: what is wanted, what was measured, and whether that meets it."""
    return [_row(target, reports.get(target.part)) for target in TARGETS]


def _row(target: Target, report: Mapping[str, Any] | None) -> dict[str, Any]:
    row = {
        "target": target.number,
        "what": target.says,
        "wanted": ("at least " if target.at_least else "at most ") + _show(target, target.bound),
        "figure": None,
        "met": None,
        "why": None,
    }
    if report is None:
        return {**row, "why": f"part {target.part} has not been run"}
    if report["dry_run"]:
        return {**row, "why": "a dry run measures nothing"}
    figure = report["results"]
    for key in target.key:
        figure = figure.get(key) if isinstance(figure, Mapping) else None
    if figure is None:
        status = report["status"]
        why = "not reached, or its gate is red" if status != ERROR else "the part failed"
        return {**row, "why": f"{why}: see part {target.part}"}
    row["figure"], row["met"] = figure, target.is_met(figure)
    if report["status"] != GREEN:
        # The figure's own gate is green, or it would not be there; another of the part is not.
        row["why"] = f"another gate of part {target.part} is not green"
    return row


def _show(target: Target, value: float) -> str:
    return f"{value:.1%}" if target.unit == "%" else f"{value:.2f}x"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as it stands in the README."""
    lines = ["| target | wanted | measured | met |", "|---|---|---|---|"]
    for target, row in zip(TARGETS, rows, strict=True):
        figure = "unmeasured" if row["figure"] is None else _show(target, row["figure"])
        met = {None: "", True: "yes", False: "no"}[row["met"]]
        note = f" ({row['why']})" if row["why"] else ""
        lines.append(
            f"| {row['target']}. {row['what']} | {row['wanted']} | {figure}{note} | {met} |"
        )
    return "\n".join(lines)
