"""Answers as Markdown, for people and the README, and as JSON."""

import dataclasses
from typing import Any

from peers_parts.rounds import OURS, Result, Row

NOTHING = "–"


def markdown(result: Result) -> str:
    """A title, a table, and the settings."""
    question = result.question
    limit = "of the matmul rate" if question.is_prefill else "of the floor"
    lines = [
        f"**{question.title}**, {question.figure}; the machine reads "
        f"{result.speed.bytes_per_s / 1e9:.1f} GB/s and multiplies bfloat16 at "
        f"{result.speed.operations_per_s / 1e9:.0f} GFLOP/s",
        "",
        f"| engine | {question.figure} | radixserve is | wanted | prefill | decode step "
        f"| {limit} |",
        "|---|---|---|---|---|---|---|",
        *(_line(result, row) for row in result.rows),
    ]
    ours = next(row for row in result.rows if row.engine == OURS)
    floor = f"{result.floor_ms:.1f} ms"
    if result.private_floor_ms > result.floor_ms * 1.01:
        floor += f" (not shared: {result.private_floor_ms:.1f} ms)"
    floor = NOTHING if question.is_prefill else floor
    lines += [
        f"| *the machine's limits* | {result.limit:.0f} | {ours.value / result.limit:.2f}x "
        f"| {NOTHING} | {NOTHING} | {floor} | 100% |",
        "",
        "Settings:",
    ]
    for row in result.rows:
        lines.append(f"- {row.engine}: {row.settings}")
        tried = result.tried.get(row.engine, {})
        for name, rate in tried.items():
            if name != row.settings:
                lines.append(f"  - {name}: {rate / tried[row.settings]:.2f} of its speed")
    return "\n".join(lines)


def as_json(result: Result) -> dict[str, Any]:
    """All of it but the settings that were not taken."""
    question = result.question
    return {
        "question": question.key,
        "workload": question.title,
        "figure": question.figure,
        "rows": [dataclasses.asdict(row) for row in result.rows],
        "wanted_share": question.wanted_share,
        "floor_ms": result.floor_ms,
        "private_floor_ms": result.private_floor_ms,
        "limit": result.limit,
        "machine": dataclasses.asdict(result.speed),
    }


def _line(result: Result, row: Row) -> str:
    ratio = NOTHING if row.ratio is None else f"{row.ratio:.2f}x"
    wanted = NOTHING
    if row.wanted is not None and row.ratio is not None:
        wanted = f"{row.wanted:g}x: {_verdict(row.ratio >= row.wanted)}"
    prefill = NOTHING if row.prefill_s is None else f"{row.prefill_s * 1e3:.0f} ms"
    step = NOTHING if row.step_ms is None else f"{row.step_ms:.1f} ms"
    share = NOTHING if row.share is None else f"{row.share:.0%}"
    wanted_share = result.question.wanted_share
    if row.engine == OURS and row.share is not None and wanted_share is not None:
        share += f", wanted {wanted_share:.0%}: {_verdict(row.share >= wanted_share)}"
    value = f"{row.value:.0f} ({row.low:.0f} to {row.high:.0f})"
    return f"| {row.engine} | {value} | {ratio} | {wanted} | {prefill} | {step} | {share} |"


def _verdict(is_met: bool) -> str:
    return "met" if is_met else "not met"
