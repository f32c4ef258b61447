"""The body of the step loop: schedule, run, update. No I/O, no threads, no process.

``EngineCore`` is what both faces of the engine share: ``LLM`` calls ``step`` in the caller's
process, the engine process calls it between messages. It times each step, so that pacing can bound
the next (``scheduler/pacing.py``), and turns a step that raises into errors of that step's requests
and of nobody else's. Not thread-safe.
"""

import logging
import time
from typing import Protocol

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import RequestId
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import CacheInfo, EngineInfo, EngineRequest, EngineStats, TokenDelta

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """Whatever turns a plan into tokens: the model runner, or a test's stand-in."""

    def run(self, plan: StepPlan) -> StepResult: ...


class EngineCore:
    """Requests in, token deltas out, one step at a time."""

    def __init__(
        self,
        info: EngineInfo,
        runner: Runner,
        scheduler: Scheduler,
        cache: PrefixCache,
        pacer: Pacer,
    ) -> None:
        self.info = info
        self._runner = runner
        self._scheduler = scheduler
        self._cache = cache
        self._pacer = pacer

    def add(self, request: EngineRequest) -> None:
        """Queue a request that intake has validated. It first runs in a later ``step``."""
        self._scheduler.add(request)

    def abort(self, request_id: RequestId, index: int | None = None) -> list[TokenDelta]:
        """End a request, or one of its choices, now. Unknown or ended ids are ignored."""
        return self._scheduler.abort(request_id, index)

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def step(self) -> list[TokenDelta]:
        """Run one step and return what it added to each choice. Empty if there was nothing to do.

        An exception of the runner ends the step's requests with ``finish_reason="error"``; the
        engine and all other requests go on.
        """
        plan = self._scheduler.schedule(max_chunk_tokens=self._pacer.max_chunk_tokens())
        if not plan.rows:
            return []
        begun_s = time.perf_counter()
        try:
            result = self._runner.run(plan)
        except Exception as error:
            logger.exception("a step of %d rows failed", len(plan.rows))
            return self._scheduler.fail(plan, f"the step failed: {type(error).__name__}: {error}")
        num_streams = sum(row.num_scheduled_tokens == 1 for row in plan.rows)
        self._pacer.observe(
            num_streams, plan.num_scheduled_tokens - num_streams, time.perf_counter() - begun_s
        )
        return self._scheduler.update(plan, result)

    def stats(self) -> EngineStats:
        return self._scheduler.stats()

    def cache_info(self) -> CacheInfo:
        return self._cache.info()

    def clear_cache(self) -> int:
        """Drop every page that no running request uses. Returns how many became free."""
        return self._cache.clear()

    def check_invariants(self) -> None:
        """Assert that nothing has leaked and everything agrees. Cost: O(everything)."""
        self._scheduler.check_invariants()
