"""How long the GPU stands still in a stretch of decode steps, asked in two ways.

The profiler's: begin and end of every kernel, copy and fill, and all gaps between them. Tracing
itself slows a recording's kernels, so this is an upper bound. Gaps of more than five microseconds,
which only the host can cause, are told apart from those between the kernels of a recording.

The clock's, with no tracing: what part of a step is not the replay of its recording. The sampling
and the copies around it count as idle here, the gaps within the recording as busy.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu.bench import Bench
from gpu.cores import Engine
from gpu.figures import Interval, idle_time

DEVICE_CATEGORIES = frozenset({"kernel", "gpu_memcpy", "gpu_memset"})
"""Of a Chrome trace: what ran on the device."""


def profiled_idle(bench: Bench, engine: Engine, num_rows: int, num_steps: int) -> dict[str, Any]:
    """The profiler's answer, inside ``engine.decoding``. *Raises* ``RuntimeError`` if the trace has
    nothing of the device in it."""
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
        intervals = device_intervals(json.loads(path.read_text()))
    if not intervals:
        raise RuntimeError("the profiler's trace holds no kernel; tracing may not be permitted")
    # The first and the last steps of the window are cut: the profiler starts and stops there.
    idle = idle_time(middle(intervals, 0.1, 0.9))
    return {
        "idle_share": idle.share,
        "long_idle_share": idle.long_share,
        "kernels_per_step": round(len(intervals) / num_steps),
        "traced_step_ms": sum(taken) / num_steps * 1e3,
    }


def device_intervals(trace: dict[str, Any]) -> list[Interval]:
    """Begin and end, in microseconds, of everything that ran on the device."""
    return [
        (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        for event in trace.get("traceEvents", ())
        if event.get("ph") == "X" and str(event.get("cat", "")).lower() in DEVICE_CATEGORIES
    ]


def middle(intervals: list[Interval], low: float, high: float) -> list[Interval]:
    """Those that lie wholly between two fractions of the whole stretch."""
    begin = min(start for start, _ in intervals)
    length = max(end for _, end in intervals) - begin
    first, last = begin + low * length, begin + high * length
    return [one for one in intervals if one[0] >= first and one[1] <= last]


def replay_ms(engine: Engine, num_rows: int, rounds: int = 20) -> float:
    """Milliseconds of the recording of a decode step, replayed back to back.

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
    replay()
    torch.cuda.synchronize()
    begun_s = time.perf_counter()
    for _ in range(rounds):
        replay()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun_s) / rounds * 1e3
