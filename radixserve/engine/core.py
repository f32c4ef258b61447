"""The body of the step loop: schedule, launch, wait, update. No I/O, no threads, no process.

``EngineCore`` is what both faces of the engine share: ``LLM`` calls ``step`` in the caller's
process, the engine process calls it between messages. It times each step, so that pacing can bound
the next (``scheduler/pacing.py``), and turns a step that raises into errors of that step's requests
and of nobody else's. Not thread-safe.

Pipelining. As many steps may be in flight as the runner allows (``max_in_flight``); with two, step
n + 1 is planned and launched while step n runs, and the device never waits for the host:

    step()    launch 1 |
    step()    launch 2 | wait 1, update 1
    step()    launch 3 | wait 2, update 2
    step()    nothing to plan until 3 is known | wait 3, update 3

Results are taken in, errors told, in the order of the launches. Between two calls of ``step``
anything may be called, whatever is in flight.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import (
    CacheEvent,
    CacheExplanation,
    CacheInfo,
    CacheStats,
    EngineInfo,
    EngineRequest,
    EngineStats,
    TokenDelta,
)

logger = logging.getLogger(__name__)


class Launched(Protocol):
    """A step on its way."""

    def wait(self) -> StepResult:
        """Block until the step's sampled tokens are on the host. *Raises* what went wrong in it.

        Called again only if an interrupt, which is no ``Exception``, has ended the call before.
        """
        ...


class Runner(Protocol):
    """Whatever turns a plan into tokens: the model runner, or a test's stand-in."""

    @property
    def max_in_flight(self) -> int:
        """How many launched steps may be unread: 1, or 2 where launching returns at once."""
        ...

    def launch(self, plan: StepPlan) -> Launched:
        """Queue a step behind those launched before. Reads the plan, its requests and their leases
        before it returns, and never after."""
        ...


@dataclass(frozen=True, slots=True)
class _InFlight:
    plan: StepPlan
    launched: Launched
    begun_s: float
    """When its launch began, by the monotonic clock."""


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
        self._in_flight: deque[_InFlight] = deque()
        self._last_end_s = 0.0
        """When the last step ended, by the monotonic clock; rather, when the host noticed."""
        self._is_interrupted = False
        """Whether ``step`` was left by an interrupt, which is no ``Exception``."""

    def add(self, request: EngineRequest) -> None:
        """Queue a request that intake has validated. It first runs in a later ``step``."""
        self._scheduler.add(request)

    def abort(self, request_id: RequestId, index: int | None = None) -> list[TokenDelta]:
        """End a request, or one of its choices, now. Unknown or ended ids are ignored."""
        return self._recover() + self._scheduler.abort(request_id, index)

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has anything to do: requests, or steps in flight."""
        return self._scheduler.has_work

    def step(self) -> list[TokenDelta]:
        """Launch a step, if one can be planned, and take in the oldest one in flight, if there is
        no room for more or was nothing to plan.

        Returns what it added to each choice: empty if there was nothing to do, and also if all that
        it did was to launch.

        An exception of the runner ends the step's requests with ``finish_reason="error"``; the
        engine and all other requests go on.
        """
        deltas = self._recover()
        # Until this returns or raises an Exception: whoever catches an interrupt and goes on finds
        # the engine in whatever state it had.
        self._is_interrupted = True
        try:
            deltas += self._step()
        except Exception:
            self._is_interrupted = False
            raise
        self._is_interrupted = False
        return deltas

    def _recover(self) -> list[TokenDelta]:
        """Get over the interrupt that ended the last ``step``, if one did."""
        if not self._is_interrupted:
            return []
        self._is_interrupted = False
        return self._scheduler.recover([step.plan for step in self._in_flight])

    def _step(self) -> list[TokenDelta]:
        if self._has_room():
            plan = self._scheduler.schedule(max_chunk_tokens=self._pacer.max_chunk_tokens())
            if plan.rows:
                failed = self._launch(plan)
                if failed is not None:
                    return failed
                if self._has_room():
                    return []
        return self._land() if self._in_flight else []

    def _has_room(self) -> bool:
        return len(self._in_flight) < self._runner.max_in_flight

    def _launch(self, plan: StepPlan) -> list[TokenDelta] | None:
        """Launch a step. If that raises, take in all that were launched before it, then fail it."""
        begun_s = time.perf_counter()
        try:
            launched = self._runner.launch(plan)
        except Exception as error:
            logger.exception("a step of %d rows failed to launch", len(plan.rows))
            deltas: list[TokenDelta] = []
            try:
                while self._in_flight:
                    deltas += self._land()
            finally:
                failed = self._scheduler.fail(plan, _describe(error))
            return deltas + failed
        self._in_flight.append(_InFlight(plan, launched, begun_s))
        return None

    def _land(self) -> list[TokenDelta]:
        """Wait for the oldest step in flight and take in what it did, or how it failed."""
        oldest = self._in_flight[0]
        plan = oldest.plan
        failure: str | None = None
        try:
            result = oldest.launched.wait()
        except Exception as error:
            logger.exception("a step of %d rows failed", len(plan.rows))
            failure = _describe(error)
        self._in_flight.popleft()
        # It did not run before the one ahead of it had ended.
        begun_s = max(oldest.begun_s, self._last_end_s)
        self._last_end_s = time.perf_counter()
        if failure is not None:
            return self._scheduler.fail(plan, failure)
        num_streams = sum(row.num_scheduled_tokens == 1 for row in plan.rows)
        self._pacer.observe(
            num_streams, plan.num_scheduled_tokens - num_streams, self._last_end_s - begun_s
        )
        return self._scheduler.update(plan, result)

    def stats(self) -> EngineStats:
        return self._scheduler.stats()

    def cache_info(self) -> CacheInfo:
        return self._cache.info()

    def clear_cache(self, namespace: Namespace | None = None) -> int:
        """Drop every page, of one namespace or all, that no running request uses. Returns how many
        became free.

        A step in flight is done no harm (``cache/prefix_cache.py``)."""
        return self._cache.clear(namespace)

    def cache_stats(self) -> CacheStats:
        """All figures of the cache. *Cost*: O(nodes of the tree)."""
        tree = self._cache.tree
        return CacheStats(
            engine=self.stats(),
            num_namespaces=len(tree.roots),
            num_nodes=sum(1 for _ in tree.nodes()) - len(tree.roots),
            eviction_policy=tree.policy.name,
        )

    def explain(
        self, prompt_ids: Sequence[int], namespace: Namespace = DEFAULT_NAMESPACE
    ) -> CacheExplanation:
        """What a prompt, checked by intake, would find in the cache now. Changes nothing that
        shows. *Cost*: a match, in every namespace."""
        prompt = np.asarray(prompt_ids, dtype=np.int32)
        finding = self._scheduler.explain(namespace, prompt)
        return CacheExplanation(
            num_prompt_tokens=len(prompt),
            matched_tokens=finding.num_tokens,
            cause=finding.cause,
            evicted_seconds_ago=finding.evicted_s_ago,
            in_other_namespaces=self._cache.is_held_elsewhere(
                namespace, prompt[:-1], finding.num_tokens
            ),
        )

    def watch_cache(self) -> list[CacheEvent]:
        """Begin, or go on, to note which pages come and go; returns a snapshot of those stored."""
        return self._cache.watch()

    def unwatch_cache(self) -> None:
        """Note it no more."""
        self._cache.unwatch()

    def take_cache_events(self) -> list[CacheEvent]:
        """What came and went since the last call; nothing unless watched. Cost then: O(1)."""
        return self._cache.take_events()

    def check_invariants(self) -> None:
        """Assert that nothing has leaked and everything agrees. Cost: O(everything)."""
        self._scheduler.check_invariants()


def _describe(error: BaseException) -> str:
    return f"the step failed: {type(error).__name__}: {error}"
