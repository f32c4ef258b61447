"""What every engine under comparison does: run a workload from an empty cache, and tell."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from peers_parts.workload import Workload


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of a workload."""

    num_tokens: int
    """Generated, all prompts together."""
    total_s: float
    prefill_s: float | None = None
    """Until every prompt had its first token, where the engine tells."""
    step_ms: Sequence[float] = ()
    """Of each decode step of all prompts, where the engine tells."""
    tokens: Sequence[Sequence[int]] = field(default=(), repr=False)
    """What was generated, by prompt."""

    @property
    def rate(self) -> float:
        """Output tokens per second, prefill counted."""
        return self.num_tokens / self.total_s

    @property
    def decode_rate(self) -> float:
        """The same without the prefill, where the engine tells its steps."""
        if not self.step_ms:
            return self.rate
        return len(self.tokens) * 1e3 / statistics.mean(self.step_ms)

    @property
    def median_step_ms(self) -> float | None:
        return statistics.median(self.step_ms) if self.step_ms else None


Figure = Callable[[Measured], float]
"""What is asked of a run; higher is better."""


class Peer(Protocol):
    """One engine that holds one model."""

    @property
    def name(self) -> str:
        """As the tables have it."""

    @property
    def settings(self) -> str:
        """Those in use, in words."""

    @property
    def tried(self) -> dict[str, float]:
        """The figure, by the settings that were tried for the last workload."""

    def prepare(self, workload: Workload, figure: Figure) -> None:
        """Find and take the settings that are best for this figure of this workload; one run warms
        up, too."""

    def measure(self, workload: Workload) -> Measured:
        """One run from an empty cache."""

    def greedy(self, workload: Workload) -> list[list[int]]:
        """What it continues the prompts with, by prompt; no time is taken."""
