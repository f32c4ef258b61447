"""How long the GPU stands still in a stretch of decode steps, asked in two ways.

The profiler's: begin and end of every kernel, copy and fill. Between two decode steps the GPU idles
from the end of a recording's replay to the begin of the next, less what runs there (the last
product, the sampling, copies); that is the figure of target 4. Gaps within a recording are the
hardware's way from kernel to kernel, which no host closes: they are in the share of all gaps, given
beside it. Tracing slows the host, so both are upper bounds.

    |== replay ==|   |product| |sampling| |copy|       |== replay ==|
                  ...         .          .      .......               idle between steps

The clock's, with no tracing: what part of a step is not its forward pass, that is the replay and
the last product. The sampling and the copies count as idle here, the gaps within a replay as busy.
"""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu.bench import Bench
from gpu.cores import Engine
from gpu.figures import Interval, idle_time

DEVICE_CATEGORIES = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
"""Of a Chrome trace: what ran on the device."""


@dataclass(frozen=True, slots=True)
class Activity:
    """A kernel, copy or fill. Begin and end in microseconds."""

    begin: float
    end: float
    launch: object
    """The call that caused it: of all that a replay runs the same; None if the trace has none."""


def profiled_idle(bench: Bench, engine: Engine, num_rows: int, num_steps: int) -> dict[str, Any]:
    """The profiler's answer, inside ``engine.decoding``. *Raises* ``RuntimeError`` if the trace has
    nothing of the device in it, or no replay."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    if bench.device.type != "cuda":
        raise RuntimeError("needs a CUDA device")
    # Once in vain: the first start of the profiler loads its library.
    with torch.profiler.profile(activities=activities):
        engine.decode_steps(num_rows, 2)
    with torch.profiler.profile(activities=activities) as profiler:
        taken = engine.decode_steps(num_rows, num_steps)
        bench.clock.wait()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "trace.json"
        profiler.export_chrome_trace(str(path))
        ran = device_activities(json.loads(path.read_text()))
    if not ran:
        raise RuntimeError("the profiler's trace holds no kernel; tracing may not be permitted")
    # The first and the last steps of the window are cut: the profiler starts and stops there.
    between = idle_time(middle(replays_as_one(ran), 0.1, 0.9))
    every = idle_time(middle([(one.begin, one.end) for one in ran], 0.1, 0.9))
    return {
        "between_steps_share": between.share,
        "all_gaps_share": every.share,
        "all_gaps_over_5_us_share": every.long_share,
        "kernels_per_step": round(len(ran) / num_steps),
        "traced_step_ms": sum(taken) / num_steps * 1e3,
    }


def device_activities(trace: dict[str, Any]) -> list[Activity]:
    """Everything that ran on the device."""
    return [
        Activity(
            float(event["ts"]),
            float(event["ts"]) + float(event["dur"]),
            event.get("args", {}).get("correlation"),
        )
        for event in trace.get("traceEvents", ())
        if event.get("ph") == "X" and str(event.get("cat", "")).lower() in DEVICE_CATEGORIES
    ]


def replays_as_one(activities: Sequence[Activity]) -> list[Interval]:
    """Each replay from its first begin to its last end; everything else as it is.

    A replay is what one call has launched more than one activity of. *Raises* ``RuntimeError`` if
    there is none: then steps cannot be told apart.
    """
    by_launch: dict[object, list[Activity]] = defaultdict(list)
    alone: list[Interval] = []
    for one in activities:
        if one.launch is None:
            alone.append((one.begin, one.end))
        else:
            by_launch[one.launch].append(one)
    if all(len(launched) == 1 for launched in by_launch.values()):
        raise RuntimeError("the profiler's trace holds no replay of a recording")
    spans = [
        (min(one.begin for one in launched), max(one.end for one in launched))
        for launched in by_launch.values()
    ]
    return sorted(alone + spans)


def middle(intervals: list[Interval], low: float, high: float) -> list[Interval]:
    """Those that lie wholly between two fractions of the whole stretch."""
    begin = min(start for start, _ in intervals)
    length = max(end for _, end in intervals) - begin
    first, last = begin + low * length, begin + high * length
    return [one for one in intervals if one[0] >= first and one[1] <= last]


def forward_ms(engine: Engine, num_rows: int, rounds: int = 20) -> float:
    """Milliseconds of a decode step's recording and the last product, one step behind the other.

    Looks into the runner for its recording, which nobody else has a use for. The replays run on the
    inputs of the last step, whose keys and values they store again. *Raises* ``RuntimeError`` if
    there is no recording of so many rows.
    """
    graphs = getattr(engine.runner, "_graphs", None)
    recordings: dict[int, Any] = getattr(graphs, "_recordings", {})
    size = next((size for size in sorted(recordings) if size >= num_rows), None)
    if size is None:
        raise RuntimeError(f"no recording of {num_rows} rows")
    replay = recordings[size]

    def forward() -> None:
        engine.model.logits(replay()[:num_rows])

    with torch.inference_mode():
        forward()
        torch.cuda.synchronize()
        begun_s = time.perf_counter()
        for _ in range(rounds):
            forward()
        torch.cuda.synchronize()
    return (time.perf_counter() - begun_s) / rounds * 1e3
