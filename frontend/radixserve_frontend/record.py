"""What one HTTP request turned out to be: filled in while it is served, read once when it ends.

The access log and the histograms are both written from it, so they cannot disagree. It never holds
text of the prompt or the answer.
"""

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

from starlette.types import Scope

from radixserve.engine.interface import TextDelta
from radixserve_frontend.http_errors import ErrorShape, openai_error

_SCOPE_KEY = "radixserve.record"


GAP_BOUNDS_S: Final = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
"""Upper ends of the classes into which times between tokens are counted."""


@dataclass(slots=True)
class Gaps:
    """Times between deliveries of tokens, counted by class. Mutable."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(GAP_BOUNDS_S) + 1))
    """By class; the last one has no upper end."""
    sum_s: float = 0.0

    def observe(self, gap_s: float) -> None:
        self.counts[bisect_left(GAP_BOUNDS_S, gap_s)] += 1
        self.sum_s += gap_s

    def add(self, other: "Gaps") -> None:
        for number, count in enumerate(other.counts):
            self.counts[number] += count
        self.sum_s += other.sum_s


@dataclass(slots=True)
class ChoiceTiming:
    """When one choice's tokens became known (monotonic seconds)."""

    first_s: float
    last_s: float
    num_first_tokens: int
    num_tokens: int

    @property
    def seconds_per_token(self) -> float | None:
        """TPOT: mean time between tokens after the first delivery; None if there were none."""
        later = self.num_tokens - self.num_first_tokens
        return (self.last_s - self.first_s) / later if later > 0 else None


@dataclass(slots=True, eq=False)
class RequestRecord:
    """One request. Mutable: owned by the task that serves it."""

    request_id: str
    method: str
    path: str
    arrived_s: float = field(default_factory=time.monotonic)
    endpoint: str = "other"
    """The route, from a fixed list: what metrics are labelled with (a path is hostile input)."""
    tenant: str = ""
    """Whose key it bore; empty: nobody's, or there are no keys."""
    status: int | None = None
    stream: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    finish_reasons: list[str] = field(default_factory=list)
    outcome: str = "ok"
    """"ok", "error", or "gone" when the client went away first."""
    error_code: str | None = None
    """OpenAI's code of the error, if it was one."""
    choices: dict[tuple[int, int], ChoiceTiming] = field(default_factory=dict)
    """By (prompt, choice)."""
    gaps: Gaps = field(default_factory=Gaps)
    queued_s: list[float] = field(default_factory=list)
    """How long each prompt waited for its first admission; those that were never admitted are
    missing."""
    shape_error: ErrorShape = openai_error
    """What an error looks like in the dialect of its route."""

    def observe(self, prompt: int, delta: TextDelta) -> None:
        """Note the arrival of a delta. *Mutates* the record. Cost: a dictionary look-up."""
        if delta.token_ids:
            now = time.monotonic()
            timing = self.choices.get((prompt, delta.index))
            num_tokens = len(delta.token_ids)
            if timing is None:
                self.choices[prompt, delta.index] = ChoiceTiming(now, now, num_tokens, num_tokens)
            else:
                self.gaps.observe(now - timing.last_s)
                timing.last_s = now
                timing.num_tokens += num_tokens
        if delta.finish_reason is not None:
            self.finish_reasons.append(delta.finish_reason)

    @property
    def generated_tokens(self) -> int:
        return sum(timing.num_tokens for timing in self.choices.values())

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the request's arrival to its first token; None if there was none."""
        if not self.choices:
            return None
        return min(timing.first_s for timing in self.choices.values()) - self.arrived_s


def attach(scope: Scope, record: RequestRecord) -> None:
    """Let the record travel with the request. *Mutates* ``scope``."""
    scope[_SCOPE_KEY] = record


def record_of(scope: Scope) -> RequestRecord:
    """The record that ``attach`` put there."""
    record = scope[_SCOPE_KEY]
    assert isinstance(record, RequestRecord)
    return record
