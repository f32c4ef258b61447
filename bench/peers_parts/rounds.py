"""Rounds in which the engines take turns, and what comes of them: medians, paired ratios, and how
near the machine's limits each came.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from peers_parts.peer import Measured, Peer
from peers_parts.questions import Question
from peers_parts.shape import ModelShape

PARAMETER_BYTES = {"radixserve": 2.0, "transformers": 2.0, "llama.cpp": 2.0}
PARAMETER_BYTES_INT8 = {"radixserve": 1.0, "llama.cpp": 34 / 32}
"""q8_0 has a float16 scale for each 32 weights; int8 one a row, which is nothing."""
OURS = "radixserve"


@dataclass(frozen=True, slots=True)
class Speed:
    """What the machine could do in one round."""

    bytes_per_s: float
    operations_per_s: float


@dataclass(frozen=True, slots=True)
class Row:
    """One engine's medians."""

    engine: str
    settings: str
    value: float
    low: float
    high: float
    prefill_s: float | None
    step_ms: float | None
    share: float | None
    """Of the floor of a decode step or, in a prefill, of the matmul rate."""
    ratio: float | None
    """radixserve's value over this one's: the median of the rounds' ratios."""
    wanted: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a question."""

    question: Question
    rows: list[Row]
    floor_ms: float
    """Of a decode step: weights once, every token's keys and values once."""
    private_floor_ms: float
    """The same with shared keys and values read once for each request."""
    limit: float
    """The question's figure at the machine's limits: prefill at the matmul rate, steps at the
    floor."""
    speed: Speed
    tried: dict[str, dict[str, float]] = field(default_factory=dict)


def run_rounds(
    question: Question, peers: Sequence[Peer], measure_speed: Callable[[], Speed], num_rounds: int
) -> tuple[dict[str, list[Measured]], list[Speed]]:
    """Every round measures the machine and then each peer once. By peer and round."""
    workload = question.workload
    found: dict[str, list[Measured]] = {peer.name: [] for peer in peers}
    speeds = []
    with tqdm(total=len(peers) * (num_rounds + 1), desc=question.title) as bar:
        for peer in peers:
            peer.prepare(workload, question.value)
            bar.update()
        for _ in range(num_rounds):
            speeds.append(measure_speed())
            for peer in peers:
                found[peer.name].append(peer.measure(workload))
                bar.update()
    return found, speeds


def answer(
    question: Question,
    shape: ModelShape,
    peers: Sequence[Peer],
    found: Mapping[str, Sequence[Measured]],
    speeds: Sequence[Speed],
) -> Result:
    """What the rounds say. ``found`` has as many runs of every peer as there are ``speeds``."""
    workload = question.workload
    speed = Speed(
        statistics.median(one.bytes_per_s for one in speeds),
        statistics.median(one.operations_per_s for one in speeds),
    )
    parameter_bytes = PARAMETER_BYTES_INT8 if question.is_int8 else PARAMETER_BYTES
    operations = shape.prefill_operations(
        workload.own, shared=workload.shared, num_prompts=workload.num_prompts
    )

    def floor_s(engine: str, at: Speed, *, is_shared_once: bool = True) -> float:
        tokens = workload.decode_kv_tokens(is_shared_once=is_shared_once)
        return shape.decode_bytes(tokens, parameter_bytes[engine]) / at.bytes_per_s

    def share(engine: str, run: Measured, at: Speed) -> float | None:
        if question.is_prefill:
            return operations / (run.prefill_s or run.total_s) / at.operations_per_s
        step_ms = run.median_step_ms
        return None if step_ms is None else floor_s(engine, at) * 1e3 / step_ms

    ours = [question.value(run) for run in found[OURS]]
    rows = []
    for peer in peers:
        runs = found[peer.name]
        values = [question.value(run) for run in runs]
        is_ours = peer.name == OURS
        rows.append(
            Row(
                engine=peer.name,
                settings=peer.settings,
                value=statistics.median(values),
                low=min(values),
                high=max(values),
                prefill_s=_median([run.prefill_s for run in runs]),
                step_ms=_median([run.median_step_ms for run in runs]),
                share=_median(
                    [share(peer.name, run, at) for run, at in zip(runs, speeds, strict=True)]
                ),
                ratio=None
                if is_ours
                else statistics.median(a / b for a, b in zip(ours, values, strict=True)),
                wanted=question.wanted.get(peer.name),
            )
        )
    floor = floor_s(OURS, speed)
    prefill_s = operations / speed.operations_per_s
    at_limits = Measured(
        num_tokens=workload.num_new,
        total_s=prefill_s + (workload.new - 1) * floor,
        prefill_s=prefill_s,
        step_ms=[floor * 1e3] if workload.new > 1 else (),
        tokens=[[]] * workload.num_prompts,
    )
    return Result(
        question=question,
        rows=rows,
        floor_ms=floor * 1e3,
        private_floor_ms=floor_s(OURS, speed, is_shared_once=False) * 1e3,
        limit=question.value(at_limits),
        speed=speed,
        tried={peer.name: peer.tried for peer in peers if peer.tried},
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
