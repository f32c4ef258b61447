"""A gate, and an engine's figures as they come after each step, by a clock of the test's own."""

import pytest

from radixserve.config import QueueLimits
from radixserve.engine.gate import Gate
from radixserve.errors import OverloadedError
from radixserve.ids import RequestId
from radixserve.types import CacheInfo, EngineStats

PAGES = CacheInfo(free_pages=9, cached_pages=0, in_use_pages=0, total_pages=9, page_size=16)
NO_LIMITS = QueueLimits(max_queued_requests=10**6, max_queued_tokens=10**9, max_queue_s=10**6)


class BusyEngine:
    """An engine's figures, as they come after each step, and the time."""

    def __init__(self, limits: QueueLimits = NO_LIMITS) -> None:
        self.now_s = 100.0
        self.num_steps = self.starts = self.prompt_tokens = self.cached_tokens = 0
        self.gate = Gate(limits, clock=lambda: self.now_s)
        self.names = 0

    def enter(
        self,
        num_tokens: int = 100,
        *,
        tenant: str = "",
        priority: int = 0,
        deadline_s: float | None = None,
        follows: RequestId | None = None,
    ) -> RequestId:
        self.names += 1
        name = RequestId(str(self.names))
        self.gate.enter(
            name,
            num_tokens,
            tenant=tenant,
            priority=priority,
            deadline_s=deadline_s,
            follows=follows,
        )
        return name

    def refused(self, num_tokens: int = 100, **more: object) -> OverloadedError:
        before = len(self.gate)
        with pytest.raises(OverloadedError) as caught:
            self.enter(num_tokens, **more)  # type: ignore[arg-type]  # passed on
        assert len(self.gate) == before
        assert caught.value.retry_after_s >= 1
        return caught.value

    def stats(self, num_waiting: int, num_deferred: int = 0) -> EngineStats:
        return EngineStats(
            num_waiting=num_waiting,
            num_running=1,
            num_deferred=num_deferred,
            cache=PAGES,
            num_steps=self.num_steps,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            admissions={"never_seen": self.starts},
        )

    def step(
        self,
        elapsed_s: float,
        starts: int,
        *,
        tokens: int = 100,
        cached: int = 0,
        waiting: int = 5,
        deferred: int = 0,
        admitted: tuple[RequestId, ...] = (),
    ) -> None:
        """A step in which so many started, of so many tokens each."""
        self.now_s += elapsed_s
        self.num_steps += 1
        self.starts += starts
        self.prompt_tokens += starts * tokens
        self.cached_tokens += starts * cached
        self.gate.observe(admitted, self.stats(waiting, deferred))

    def run(self, starts_per_s: int, *, tokens: int = 100, cached: int = 0) -> None:
        """Measure such an engine for long enough."""
        for _ in range(100):
            self.step(1.0, starts_per_s, tokens=tokens, cached=cached)
