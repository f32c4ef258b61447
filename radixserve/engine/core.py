"""The body of the step loop: schedule, launch, wait, update. No I/O, no threads, no process.

A request with a grammar first waits for its grammar to be compiled (``grammar_stage.py``), in
threads, while the steps go on.

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

Tiers, if the scheduler has any: the core tells their costs what steps take, bounds by them what a
step moves, and knows when all that could go on waits for the disk (``can_step``).
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.engine.bell import Bell
from radixserve.engine.disk_watch import LOOK_S, DiskWatch
from radixserve.engine.grammar_stage import GrammarStage
from radixserve.engine.step_times import StepTimes
from radixserve.engine.tree_feed import TreeFeed
from radixserve.errors import DeviceLostError, InvalidRequestError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.grammar_compiler import GrammarCompiler
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.tiers.tiers import Tiers
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

CLOSE_S: Final = 2.0
"""How long closing may take for what is to be kept on disk."""


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
        grammars: GrammarCompiler | None = None,
    ) -> None:
        """Without ``grammars``, which takes a tokenizer, requests with a grammar fail."""
        self.info = info
        self._runner = runner
        self._scheduler = scheduler
        self._tiers = scheduler.tiers
        self._cache = cache
        costs = None if self._tiers is None else self._tiers.costs
        self._times = StepTimes(pacer, costs, info.page_size)
        self.grammars = GrammarCompiler(_no_tokens) if grammars is None else grammars
        """Compiles grammars: also for who would check one before it is submitted."""
        self._compiling = GrammarStage(self.grammars)
        self._in_flight: deque[_InFlight] = deque()
        self._last_end_s = 0.0
        """When the last step ended, by the monotonic clock; rather, when the host noticed."""
        self._is_interrupted = False
        """Whether ``step`` was left by an interrupt, which is no ``Exception``."""
        self._is_closed = False
        self._disk = DiskWatch(self._tiers)
        self._bell = Bell()
        self._compiling.on_done = self._bell.ring
        if self._tiers is not None:
            self._tiers.on_news = self._bell.ring
        self.tree_feed = TreeFeed(cache.tree)
        """What becomes of the tree's nodes, for whoever draws it."""
        self.admitted: list[RequestId] = []
        """Who left the queue for the first time in the last ``step``."""

    def add(self, request: EngineRequest) -> None:
        """Queue a request that intake has validated. It first runs in a later ``step``. *Raises*
        ``ValueError`` if its id is in use."""
        if request.request_id in self._compiling or request.request_id in self._scheduler:
            raise ValueError(f"request id {request.request_id!r} is already in use")
        constraint = None
        if request.params.grammar is not None:
            constraint = self._compiling.add(request)
            if constraint is None:
                return
        self._disk.is_awaited = False
        self._scheduler.add(request, constraint)

    def abort(self, request_id: RequestId, index: int | None = None) -> list[TokenDelta]:
        """End a request, or one of its choices, now. Unknown or ended ids are ignored."""
        deltas = self._recover() + self._compiling.abort(request_id, index)
        # Somebody else may get what it has held.
        self._disk.is_awaited = False
        return deltas + self._scheduler.abort(request_id, index)

    @property
    def has_work(self) -> bool:
        """Whether ``step`` has anything to do or to wait for: requests, or steps in flight."""
        return self._scheduler.has_work or bool(self._compiling)

    @property
    def can_step(self) -> bool:
        """Whether ``step`` would do anything else than wait, for a grammar or for the disk. Where
        it would not, ``call_when_ready`` says when to ask again.

        May be true without ``has_work``: there is always something to keep on disk, or to compute
        that nobody has asked for yet.
        """
        if len(self._scheduler.ahead) and not self._scheduler.has_work:
            return True
        if self._compiling.has_done or (self._scheduler.has_work and not self._disk.holds_up):
            return True
        return self._tiers is not None and (self._tiers.has_news or self._tiers.has_chores)

    def call_when_ready(self, wake: Callable[[], None]) -> None:
        """Have ``wake`` called, by another thread, whenever ``can_step`` may have come true since a
        grammar or a file is done. Time does that, too: while there is work look each ``LOOK_S``."""
        self._bell.on_ring = wake

    def step(self) -> list[TokenDelta]:
        """Launch a step, if one can be planned, and take in the oldest one in flight, if there is
        no room for more or was nothing to plan. If all requests wait for their grammars to be
        compiled, or for the disk, first wait for one of these.

        Returns what it added to each choice: nothing if all that it did was to launch.

        An exception of the runner ends the step's requests with ``finish_reason="error"``; the
        engine and all other requests go on. *Raises* ``DeviceLostError``: then nothing does.
        """
        deltas = self._recover()
        if self.has_work and not self.can_step:
            self._bell.wait_until(lambda: self.can_step, LOOK_S)
        # Also what was compiled for nobody, its request having been aborted, is to be taken: it
        # would keep `can_step` true.
        if self._compiling or self._compiling.has_done:
            deltas += self._take_compiled()
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

    def _take_compiled(self) -> list[TokenDelta]:
        """Queue those whose grammars are compiled. Returns the ends of those whose are not."""
        ready, failed = self._compiling.take()
        for one in ready:
            self._disk.is_awaited = False
            self._scheduler.add(one.request, one.constraint)
        return failed

    def _recover(self) -> list[TokenDelta]:
        """Get over the interrupt that ended the last ``step``, if one did."""
        if not self._is_interrupted:
            return []
        self._is_interrupted = self._disk.is_awaited = False
        return self._scheduler.recover([step.plan for step in self._in_flight])

    def _step(self) -> list[TokenDelta]:
        self.admitted = []
        self._cache.tree.now_s = time.monotonic()
        if self._has_room():
            if self._disk.look():
                self._scheduler.loads.give_up_waiting()
            plan = self._scheduler.schedule(
                max_chunk_tokens=self._times.max_chunk_tokens(),
                max_moved_pages=self._times.max_moved_pages(),
            )
            self.admitted = self._scheduler.admitted
            # Or else it is empty for this once only: too many had to be passed over.
            is_disk_awaited = self._disk.is_busy and bool(self._scheduler.running)
            self._disk.is_awaited = plan.is_empty and not self._in_flight and is_disk_awaited
            if not plan.is_empty:
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
        except DeviceLostError:
            raise
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
        except DeviceLostError:
            raise
        except Exception as error:
            logger.exception("a step of %d rows failed", len(plan.rows))
            failure = _describe(error)
        self._in_flight.popleft()
        # It did not run before the one ahead of it had ended.
        begun_s = max(oldest.begun_s, self._last_end_s)
        self._last_end_s = time.perf_counter()
        if failure is not None:
            return self._scheduler.fail(plan, failure)
        self._times.observe(plan, result, self._last_end_s - begun_s)
        return self._scheduler.update(plan, result)

    def stats(self) -> EngineStats:
        """Who waits for a grammar counts as waiting, though not for room."""
        stats = self._scheduler.stats()
        if not self._compiling:
            return stats
        return replace(
            stats,
            num_waiting=stats.num_waiting + len(self._compiling),
            num_deferred=stats.num_deferred + len(self._compiling),
        )

    def cache_info(self) -> CacheInfo:
        return self._cache.info()

    def clear_cache(self, namespace: Namespace | None = None) -> int:
        """Drop every page, of one namespace or all, that no running request uses; the tiers below
        forget them too. Returns how many became free.

        A step in flight is done no harm (``cache/prefix_cache.py``)."""
        self._scheduler.ahead.forget(namespace)
        num_freed = self._cache.clear(namespace)
        if self._tiers is not None:
            self._tiers.clear(namespace)
            self._disk.is_awaited = False
        return num_freed

    def close(self) -> None:
        """End: what runs is aborted, and what was computed is kept on disk, if there is one, as far
        as ``CLOSE_S`` seconds suffice. Idempotent; without tiers nothing is to be done."""
        if self._tiers is None or self._is_closed:
            return
        self._is_closed = True
        try:
            self._flush(self._tiers, time.perf_counter() + CLOSE_S)
        except Exception:
            logger.exception("not all that was computed last is kept on disk")
        finally:
            self._tiers.close()

    def _flush(self, tiers: Tiers, end_s: float) -> None:
        """Let steps copy to the host tier what is to be kept, and threads write it to disk."""
        self._recover()
        self._scheduler.abort_all()
        self._scheduler.ahead.forget(None)
        while (left_s := end_s - time.perf_counter()) > 0:
            if self._in_flight or tiers.has_chores or tiers.has_news:
                self._step()
            elif not tiers.wait(left_s):
                return

    def set_public_prefixes(self, prefixes: Sequence[Sequence[int]]) -> None:
        """Let every namespace share these token ids, which intake has checked, and no others:
        ``PrefixCache.set_public``. For requests that are added later."""
        self._scheduler.set_public([np.asarray(prefix, dtype=np.int32) for prefix in prefixes])

    def prefill_ahead(
        self, prompt_ids: Sequence[int], namespace: Namespace = DEFAULT_NAMESPACE, tenant: str = ""
    ) -> None:
        """Compute a prefix, which intake has checked, when nobody waits or runs:
        ``scheduler/ahead.py``. Until then ``can_step`` is true, and ``has_work`` is not."""
        tokens = np.asarray(prompt_ids, dtype=np.int32)
        self._scheduler.ahead.add(namespace, tokens, tenant)

    def cache_stats(self) -> CacheStats:
        """All figures of the cache. *Cost*: O(nodes of the tree)."""
        tree = self._cache.tree
        return CacheStats(
            engine=self.stats(),
            num_namespaces=len(tree.namespaces),
            num_nodes=sum(1 for _ in tree.nodes()) - len(tree.roots),
            eviction_policy=tree.policy.name,
        )

    def explain(
        self,
        prompt_ids: Sequence[int],
        namespace: Namespace = DEFAULT_NAMESPACE,
        *,
        looks_elsewhere: bool = False,
    ) -> CacheExplanation:
        """What a prompt, checked by intake, would find in the cache now. Changes nothing that
        shows. *Cost*: a match, in every namespace if it ``looks_elsewhere``."""
        prompt = np.asarray(prompt_ids, dtype=np.int32)
        return self._scheduler.explain(namespace, prompt, looks_elsewhere=looks_elsewhere)

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


def _no_tokens() -> list[bytes]:
    raise InvalidRequestError(
        "this checkpoint has no tokenizer, and a grammar needs one to know its tokens' text",
        param="grammar",
    )


def _describe(error: BaseException) -> str:
    return f"the step failed: {type(error).__name__}: {error}"
