"""How long device work takes: CUDA graphs and events on a GPU, the host's clock elsewhere.

On a GPU a list of calls is recorded as one CUDA graph and the replays are timed, because a Triton
launch costs the host more than a small kernel costs the device; the engine runs its decode steps
from graphs, too. What cannot be recorded is queued and timed as it is, and the result says so.

The calls of a list do the same work on different memory, so that together they exceed the cache of
the device (``copies_beyond_cache``): then each finds its data in memory, as in an engine.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Call = Callable[[], Any]

CACHE_BYTES = 256 << 20
"""Several times the second-level cache of any GPU so far (an H200's is 50 MiB)."""

_MAX_COPIES = 64


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one call."""

    us: float
    """Median over the replays."""
    low_us: float
    high_us: float
    """The second and the last but one decile."""
    how: str
    """"graph", "stream" (queued, not recorded) or "host" (no GPU)."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "us": round(self.us, 3),
            "p20_us": round(self.low_us, 3),
            "p80_us": round(self.high_us, 3),
            "timed_by": self.how,
        }


class Clock(Protocol):
    """Times device work, and waits for it."""

    def time(self, calls: Sequence[Call], *, budget_s: float = 0.4) -> Timing:
        """One call's time. All calls run, in order, again and again for about ``budget_s``."""
        ...

    def wait(self) -> None:
        """Until the device has done all that was queued."""
        ...


def make_clock(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else HostClock()


def copies_beyond_cache(bytes_per_call: int, device: torch.device) -> int:
    """How many sets of data make the device's cache useless; 1 where there is nothing to time."""
    if device.type != "cuda":
        return 1
    return max(1, min(_MAX_COPIES, -(-CACHE_BYTES // max(1, bytes_per_call))))


def event() -> Any:
    """A CUDA event that keeps the time at which the device came by."""
    make: Any = torch.cuda.Event
    return make(enable_timing=True)


class CudaClock:
    """Events around replays of a recording."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)

    def time(self, calls: Sequence[Call], *, budget_s: float = 0.4) -> Timing:
        # Twice: the first compiles and loads, the second finds everything there.
        for _ in range(2):
            for call in calls:
                call()
        self.wait()
        estimate_s = self._stream_s(calls)
        # Enough calls a recording that its own launch, some microseconds, does not count.
        rounds = max(1, min(256, int(1e-3 / max(estimate_s, 1e-7)), 1024 // len(calls)))
        replay, how = self._record(calls, rounds)
        replay()
        self.wait()
        each_s = self._span_s(replay)
        num_samples = max(5, min(100, int(budget_s / max(each_s, 1e-6))))
        num_calls = rounds * len(calls)
        samples = [self._span_s(replay) * 1e6 / num_calls for _ in range(num_samples)]
        return _timing(samples, how)

    def _record(self, calls: Sequence[Call], rounds: int) -> tuple[Call, str]:
        def run() -> None:
            for _ in range(rounds):
                for call in calls:
                    call()

        stream = torch.cuda.current_stream(self._device)
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
        except Exception:
            # Whatever a library raises when it is recorded. A capture that fails to end leaves its
            # own stream current.
            torch.cuda.set_stream(stream)
            self.wait()
            return run, "stream"
        return graph.replay, "graph"

    def _stream_s(self, calls: Sequence[Call]) -> float:
        def run() -> None:
            for call in calls:
                call()

        return self._span_s(run)

    def _span_s(self, run: Call) -> float:
        begin, end = event(), event()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


class HostClock:
    """The host's clock: for dry runs, whose times mean nothing."""

    def wait(self) -> None:
        """There is nothing to wait for."""

    def time(self, calls: Sequence[Call], *, budget_s: float = 0.4) -> Timing:
        del budget_s
        samples = []
        for call in calls:
            begun_s = time.perf_counter()
            call()
            samples.append((time.perf_counter() - begun_s) * 1e6)
        return _timing(samples, "host")


def _timing(samples: Sequence[float], how: str) -> Timing:
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Timing(
        statistics.median(ordered), ordered[round(0.2 * last)], ordered[round(0.8 * last)], how
    )
