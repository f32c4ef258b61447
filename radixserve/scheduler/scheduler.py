"""All requests from arrival to end: continuous batching in one step form, over one token budget.

    plan = scheduler.schedule()     decides (``planner.py``); touches pages, no tokens
    launched = runner.launch(plan)
    result = launched.wait()
    scheduler.update(plan, result)  advances; pages enter the tree here and nowhere else

``schedule`` may be called again before ``update``: the next step is planned while this one runs
(``in_flight.py``). A plan that is not empty counts as launched as soon as it is returned.
``update`` takes in the plans in that order, or ``fail`` does, in any order.

A request may end (by a stop token, an abort, an error) with a row in flight. Its lease is released
at once and the row computes in vain: why that is safe is written in ``cache/prefix_cache.py``. When
the row's plan is updated nothing comes of it, but its tokens count as computed, which they were.

With ``tiers`` below the device pool (``tiers/tiers.py``) plans also have moves, and a request of
which these hold more than the tree loads before it computes (``loads.py``). What a step loads
enters the tree in ``update``, too; if it fails, who only loaded in it computes instead.

Ownership: the scheduler owns every request's progress and lease, and nobody else mutates either. It
knows no tensors, no text, no clock. Not thread-safe. Costs: under 1 ms a step (see ``schedule``).

Forbidden: ``schedule`` before the previous plan has been launched; ``update`` out of order.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import count

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cascade import CascadeCosts
from radixserve.errors import OutOfPagesError
from radixserve.ids import Namespace, RequestId, TokenArray
from radixserve.request import Request, Status
from radixserve.sampling.constraint import Constraint
from radixserve.scheduler.admission import Admission
from radixserve.scheduler.ahead import Ahead
from radixserve.scheduler.arrivals import begin, constrain, fork
from radixserve.scheduler.check import check
from radixserve.scheduler.deltas import delta_of, end_without_token
from radixserve.scheduler.fair_queue import FairQueue
from radixserve.scheduler.in_flight import InFlight
from radixserve.scheduler.keeping import keeps_of
from radixserve.scheduler.loads import Loads
from radixserve.scheduler.plan import StepPlan, StepResult
from radixserve.scheduler.planner import Planner
from radixserve.scheduler.policy import GENERATED_TOKEN_COST, MAX_OVERTAKES
from radixserve.scheduler.producers import Producers
from radixserve.scheduler.running import Running
from radixserve.tiers.tiers import Tiers
from radixserve.types import (
    CacheExplanation,
    EngineRequest,
    EngineStats,
    FinishReason,
    SampledToken,
    TokenDelta,
)

logger = logging.getLogger(__name__)


class Scheduler:
    """Owns all requests from arrival to end.

    Without ``enable_prefix_cache`` each request gets a namespace of its own, which is forgotten
    when it ends: it finds nothing, leaves nothing, and still resumes from its own pages after a
    preemption. Without ``cascade_costs`` plans have no cascades.
    """

    def __init__(
        self,
        cache: PrefixCache,
        *,
        max_batch_tokens: int,
        max_running: int,
        enable_prefix_cache: bool = True,
        max_overtakes: int = MAX_OVERTAKES,
        tiers: Tiers | None = None,
        cascade_costs: CascadeCosts | None = None,
    ) -> None:
        if max_batch_tokens < max_running:
            raise ValueError(
                f"max_batch_tokens ({max_batch_tokens}) is smaller than max_running ({max_running})"
            )
        if tiers is not None and not enable_prefix_cache:
            raise ValueError("tiers keep what requests share, and enable_prefix_cache is off")
        self.tiers = tiers
        self._cache = cache
        self._max_running = max_running
        self._enable_prefix_cache = enable_prefix_cache
        producers = Producers(cache.page_size, cache.public_prefixes)
        self._waiting = FairQueue(max_overtakes)
        self.loads = Loads(cache, tiers)
        self._running = Running(cache, producers, self._waiting, self.loads)
        self._admission = Admission(
            cache,
            self._waiting,
            producers,
            self._running,
            self.loads,
            max_running=max_running,
            enable_prefix_cache=enable_prefix_cache,
        )
        self.ahead = Ahead(
            cache,
            self._running,
            self._waiting,
            max_batch_tokens=max_batch_tokens,
            is_on=enable_prefix_cache,
        )
        """What is computed unasked while there is no work. It is not part of ``has_work``."""
        self._planner = Planner(
            cache,
            self._running,
            self._admission,
            self.ahead,
            self.loads,
            max_batch_tokens=max_batch_tokens,
            cascade_costs=cascade_costs,
        )
        self._in_flight = InFlight()
        self._choices: dict[RequestId, list[Request]] = {}
        """Every live request by id: one, or, once forked, ``n`` of them."""
        self._next_arrival = count(1).__next__
        self._num_steps = self._computed_tokens = self._generated_tokens = 0

    # -- requests in, requests out ------------------------------------------------------------

    def __contains__(self, request_id: RequestId) -> bool:
        """Whether a choice of that request lives."""
        return request_id in self._choices

    def add(self, arrived: EngineRequest, constraint: Constraint | None = None) -> None:
        """Queue a request, new or resumed. Raises ``ValueError`` if its id is in use.

        ``constraint``: of a request with a grammar, at the beginning of an answer.
        """
        if arrived.request_id in self._choices:
            raise ValueError(f"request id {arrived.request_id!r} is already in use")
        namespace = arrived.namespace
        if not self._enable_prefix_cache:
            namespace = Namespace(f"private:{arrived.request_id}")
        choices = begin(arrived, namespace, self._next_arrival)
        self.ahead.make_way(namespace, choices[0].token_ids)
        self._choices[arrived.request_id] = choices
        if constraint is not None:
            constrain(choices, constraint)
        for request in choices:
            self._admission.wait(request)

    def abort(self, request_id: RequestId, index: int | None = None) -> list[TokenDelta]:
        """End a request (or one choice of it) now, wherever it is. Unknown ids are ignored: it may
        have ended by itself a moment ago, and a choice does not exist before the request has
        forked. What it has computed stays in the tree."""
        return [
            delta
            for request in tuple(self._choices.get(request_id, ()))
            if index is None or (request.index == index and not request.is_to_fork)
            for delta in self._end(request, "abort")
        ]

    def abort_all(self) -> list[TokenDelta]:
        """End every request, wherever it is: the engine is about to end."""
        return [delta for request_id in tuple(self._choices) for delta in self.abort(request_id)]

    @property
    def has_work(self) -> bool:
        """Whether anybody waits or runs, or a step is in flight, be it in vain."""
        return bool(self._running or self._waiting or self._in_flight)

    @property
    def running(self) -> tuple[Request, ...]:
        """The requests that hold pages, oldest first."""
        return self._running.as_tuple()

    @property
    def admitted(self) -> list[RequestId]:
        """Requests that the last ``schedule`` admitted for the first time. A copy."""
        return list(self._admission.admitted)

    def stats(self) -> EngineStats:
        return EngineStats(
            num_waiting=len(self._waiting),
            num_deferred=self._waiting.num_deferred,
            num_running=len(self._running),
            cache=self._cache.info(),
            num_steps=self._num_steps,
            prompt_tokens=self._admission.prompt_tokens,
            cached_tokens=self._admission.cached_tokens,
            in_flight_tokens=self._admission.in_flight_tokens,
            admissions=dict(self._admission.causes),
            host_tokens=self._admission.host_tokens,
            disk_tokens=self._admission.disk_tokens,
            tiers=None if self.tiers is None else self.tiers.info(),
            computed_tokens=self._computed_tokens,
            prefilled_tokens=self.ahead.prefilled_tokens,
            num_ahead=len(self.ahead),
            generated_tokens=self._generated_tokens,
            preemptions=self._planner.preemptions,
            evicted_pages=self._cache.evicted_pages,
        )

    def set_public(self, prefixes: Sequence[TokenArray]) -> None:
        """See ``PrefixCache.set_public``. Without a prefix cache nothing is shared or public."""
        if self._enable_prefix_cache:
            self._cache.set_public(prefixes)

    def explain(
        self, namespace: Namespace, prompt: TokenArray, *, looks_elsewhere: bool
    ) -> CacheExplanation:
        """See ``Admission.explain``."""
        return self._admission.explain(namespace, prompt, looks_elsewhere=looks_elsewhere)

    # -- deciding -----------------------------------------------------------------------------

    def schedule(
        self, *, max_chunk_tokens: int | None = None, max_moved_pages: int | None = None
    ) -> StepPlan:
        """Plan one step, to be launched behind those in flight.

        Empty if nothing waits or runs, and if nothing can be planned until a step in flight is
        known. With nothing in flight and anything to do it is only if all that could go on waits
        for reads from disk: until ``tiers.has_news``; or for once (``policy.MAX_PROBES``).

        ``max_chunk_tokens`` bounds the tokens of steps that also carry one-token rows beyond those
        rows themselves (``pacing.py``): it bounds how long the streams are held up. For the same
        reason ``max_moved_pages`` bounds the pages that such steps load or copy for the disk.

        *Mutates* the cache (locks, own pages, evictions) and who is running. *Cost*: under 1 ms
        with 1,000 waiting and 64 running.
        """
        self._admission.admitted.clear()
        self.loads.collect()
        plan = self._planner.plan(max_chunk_tokens, max_moved_pages, is_idle=not self._in_flight)
        if not plan.is_empty:
            self._in_flight.launch(plan)
        return plan

    # -- advancing ----------------------------------------------------------------------------

    def update(self, plan: StepPlan, result: StepResult) -> list[TokenDelta]:
        """Take in what the oldest step in flight computed: progress, full pages into the tree,
        tokens, forks, ends.

        Returns what is new to each choice; rows of ended requests add nothing. *Mutates* requests
        and cache.
        """
        self._in_flight.land(plan)
        self.loads.moved(plan.moves)
        self._num_steps += 1
        for load in plan.loads:
            if not self._in_flight.is_passed_over(load.request):
                self._in_flight.land_load(load)
                self._running.commit(load.request)
                self.loads.landed(load.request)
        deltas: list[TokenDelta] = []
        for number, (row, sampled) in enumerate(zip(plan.rows, result.sampled, strict=True)):
            request = row.request
            self._computed_tokens += row.num_scheduled_tokens
            if self._in_flight.is_passed_over(request) or not self._in_flight.land_row(row):
                continue
            if self.ahead.owns(request):
                self.ahead.landed(row)
                continue
            assert request.lease is not None
            if request.lease.pending_copy is not None:
                self._cache.finish_copy(request.lease)
            tokens = [token for token in sampled if token is not None]
            if len(tokens) < len(sampled):
                reason, error = end_without_token(request)
                deltas.extend(self._end(request, reason, error=error))
                continue
            if row.num_scores:
                request.take_scores(row.start, result.scores[number])
            self._running.commit(request)
            if len(tokens) > 1:
                deltas.extend(self._fork(request, tokens[1:]))
            if tokens:
                deltas.append(self._append(request, tokens[0]))
        return deltas

    def fail(self, plan: StepPlan, error: str) -> list[TokenDelta]:
        """A step in flight could not be run: end its rows' requests with an error, unless they have
        ended; everybody else goes on. Who was to load in it computes instead.

        What the step would have computed is not in the tree and does not get there. Rows of the
        same requests in later steps are stale, or void.
        """
        self.loads.failed(plan.moves, self._in_flight.drop(plan))
        return [
            delta
            for row in plan.rows
            if not self._in_flight.is_passed_over(row.request)
            for delta in self._end(row.request, "error", error=error)
        ]

    def recover(self, known: Collection[StepPlan]) -> list[TokenDelta]:
        """Get over an interrupt that came anywhere in ``schedule``, ``update`` or ``fail``, or
        between them: of the plans in flight only those in ``known`` will be updated.

        Requests that count on another, or of which a plan was half taken in, end with an error.
        """
        self._in_flight.keep(known)
        self.ahead.drop()
        self.loads.recover([plan.moves for plan in known], self.running)
        return [
            delta
            for request in self._in_flight.unexplained(self.running)
            for delta in self._end(request, "error", error="the step was interrupted")
        ]

    def _append(self, request: Request, token: SampledToken) -> TokenDelta:
        """Give a choice its next token, and end it if that was the last."""
        request.append(token.token_id)
        self._generated_tokens += 1
        self._waiting.charge(request.tenant, GENERATED_TOKEN_COST)
        if token.token_id in request.stop_token_ids:
            return self._finish(request, "stop", token)
        if request.num_output_tokens == request.params.max_tokens:
            assert not request.is_in_flight, f"{request} was planned beyond its last token"
            return self._finish(request, "length", token)
        if request.constraint is not None:
            request.constraint.advance(token.token_id)
        self._running.appended(request)
        return delta_of(request, token)

    def _fork(self, parent: Request, tokens: list[SampledToken]) -> Iterator[TokenDelta]:
        """Make the other choices of a request whose prompt has just been computed.

        Each shares all of the parent's pages, the last partial one by a copy. Where there is no
        room for one, it waits like any other request and finds the shared pages in the tree.
        """
        assert parent.lease is not None
        assert not parent.is_in_flight, f"{parent} was planned ahead of its fork"
        for index, token in enumerate(tokens, start=1):
            child = fork(parent, index, self._next_arrival())
            self._choices[parent.request_id].append(child)
            if len(self._running) < self._max_running:
                try:
                    computed = parent.token_ids[: parent.num_computed_tokens]
                    lease = self._cache.fork(parent.lease, computed)
                    self._running.enter(child, lease, parent.num_computed_tokens)
                except OutOfPagesError:
                    logger.debug("no page for choice %d of %s", index, parent.request_id)
            yield self._append(child, token)
            if child.status is Status.WAITING:
                self._admission.wait(child)

    def _end(
        self, request: Request, reason: FinishReason, *, error: str | None = None
    ) -> list[TokenDelta]:
        """End a request before its time. One that was still to fork ends all of its choices: nobody
        must wait for those."""
        if self.ahead.owns(request):
            self.ahead.drop()
            return []
        num_choices = request.params.n if request.is_to_fork else 1
        ended = self._finish(request, reason, error=error)
        return [replace(ended, index=ended.index + more) for more in range(num_choices)]

    def _finish(
        self,
        request: Request,
        reason: FinishReason,
        token: SampledToken | None = None,
        *,
        error: str | None = None,
    ) -> TokenDelta:
        """End a choice, wherever it is; its computed tokens, the partial last page included, stay
        in the tree. After an error only what was committed before does."""
        if request.status is Status.RUNNING:
            assert request.lease is not None
            kept = request.num_computed_tokens
            if reason == "error":
                kept = request.lease.num_committed_tokens
            # What nobody can find again is not to be kept.
            keeps = keeps_of(request, kept) if self._enable_prefix_cache else ()
            self._running.leave(request, kept, keeps)
            if self.tiers is not None and reason != "error":
                self.tiers.note_computed(request.namespace, request.token_ids[:kept])
        elif request in self._waiting:
            self._waiting.remove(request)
        request.status = Status.FINISHED
        request.finish_reason = reason
        choices = self._choices[request.request_id]
        choices.remove(request)
        if not choices:
            del self._choices[request.request_id]
        if not self._enable_prefix_cache:
            self._cache.forget(request.namespace)
        return delta_of(request, token, error=error)

    def check_invariants(self) -> None:
        """Assert that queues, leases, cache and tiers agree. *Cost*: O(everything); for tests."""
        own = [request for choices in self._choices.values() for request in choices]
        check(
            own, self._running, self._waiting, self._in_flight, self.loads, self.ahead, self._cache
        )
