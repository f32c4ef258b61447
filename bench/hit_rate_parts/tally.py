"""What a policy achieved on a trace, and the interface by which every policy is run."""

from collections.abc import Callable
from dataclasses import dataclass

from hit_rate_parts.trace import Trace

Simulator = Callable[[Trace, int], "Tally"]
"""Run a trace in a cache of so many blocks."""


@dataclass(slots=True)
class Tally:
    """Sums over a trace. Mutable: simulators add to it."""

    num_requests: int = 0
    num_tokens: int = 0
    num_hit_tokens: int = 0
    num_blocks: int = 0
    num_hit_blocks: int = 0
    num_refused: int = 0
    """Requests that the whole cache could not hold: computed without it, all of them misses."""

    def add(self, *, tokens: int, hit_tokens: int, blocks: int, hit_blocks: int) -> None:
        """Count one request."""
        self.num_requests += 1
        self.num_tokens += tokens
        self.num_hit_tokens += hit_tokens
        self.num_blocks += blocks
        self.num_hit_blocks += hit_blocks

    def refuse(self, *, tokens: int, blocks: int) -> None:
        """Count one request that does not fit."""
        self.num_refused += 1
        self.add(tokens=tokens, hit_tokens=0, blocks=blocks, hit_blocks=0)

    @property
    def token_hit_rate(self) -> float:
        """Share of all prompt tokens that were cached when their request came."""
        return self.num_hit_tokens / self.num_tokens if self.num_tokens else 0.0

    @property
    def block_hit_rate(self) -> float:
        """Share of all blocks, partial last ones included, that were cached whole."""
        return self.num_hit_blocks / self.num_blocks if self.num_blocks else 0.0
