"""What runs next: continuous batching in one step form, over one token budget.

    plan = scheduler.schedule()     decides; touches pages, no tokens
    result = runner.run(plan)
    scheduler.update(plan, result)  advances; pages enter the tree here and nowhere else

There is no prefill phase and no decode phase. Every running request has tokens it knows and fewer
that it has computed, and a plan gives each some of the rest (``request.py``). In a plan come, in
this order:

1. running requests with one token to run (a stream is waiting for each of them),
2. running requests with more, oldest first, a chunk each (a long prompt cannot stall the others);
   a share of the budget goes to short remainders and newcomers before it goes to long prompts,
3. newcomers, in the order of the waiting queue (``waiting.py``), as long as tokens, pages and
   ``max_running`` last. One that would compute a page which another is about to compute is set
   aside for it (``producers.py``).

Out of pages: the cache evicts; if that is not enough the cheapest running request is preempted
(``policy.py``). Its computed pages stay in the tree, its planned tokens leave the plan, and it
waits again as if it had never run, with all its tokens for a prompt.

Ownership: the scheduler owns every request's progress and lease, and nobody else mutates either. It
knows no tensors, no text and no clock. Not thread-safe. ``update`` must be called for a plan before
the next ``schedule``. Costs: O(running) per step, and as much again for each newcomer, of which
there are at most MAX_PROBES.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.errors import OutOfPagesError
from radixserve.ids import Namespace, RequestId
from radixserve.request import Request, Status
from radixserve.scheduler.admission import Admission
from radixserve.scheduler.plan import PlannedRow, StepPlan, StepResult
from radixserve.scheduler.policy import (
    MAX_OVERTAKES,
    MIN_SHORT_TOKENS,
    SHORT_SHARE,
    cheapest_victim,
)
from radixserve.scheduler.producers import Producers
from radixserve.scheduler.running import Running
from radixserve.scheduler.waiting import WaitingQueue
from radixserve.types import EngineRequest, EngineStats, FinishReason, SampledToken, TokenDelta

logger = logging.getLogger(__name__)


class Scheduler:
    """Owns all requests from arrival to end.

    Without ``enable_prefix_cache`` each request gets a namespace of its own, which is forgotten
    when it ends: it finds nothing, leaves nothing, and still resumes from its own pages after a
    preemption.
    """

    def __init__(
        self,
        cache: PrefixCache,
        *,
        max_batch_tokens: int,
        max_running: int,
        enable_prefix_cache: bool = True,
        max_overtakes: int = MAX_OVERTAKES,
    ) -> None:
        if max_batch_tokens < max_running:
            raise ValueError(
                f"max_batch_tokens ({max_batch_tokens}) must not be smaller than "
                f"max_running ({max_running})"
            )
        self._cache = cache
        self._max_batch_tokens = max_batch_tokens
        self._max_running = max_running
        self._enable_prefix_cache = enable_prefix_cache
        producers = Producers(cache.page_size)
        self._waiting = WaitingQueue(max_overtakes)
        self._running = Running(cache, producers, self._waiting)
        self._admission = Admission(
            cache, self._waiting, producers, self._running, max_running=max_running
        )
        self._choices: dict[RequestId, list[Request]] = {}
        """Every live request by id: one, or, once forked, ``n`` of them."""
        self._num_arrivals = 0
        self._num_steps = 0
        self._computed_tokens = 0
        self._generated_tokens = 0
        self._preemptions = 0

    # -- requests in, requests out ------------------------------------------------------------

    def add(self, arrived: EngineRequest) -> None:
        """Queue a request. Raises ``ValueError`` if its id is in use."""
        if arrived.request_id in self._choices:
            raise ValueError(f"request id {arrived.request_id!r} is already in use")
        namespace = arrived.namespace
        if not self._enable_prefix_cache:
            namespace = Namespace(f"private:{arrived.request_id}")
        request = Request(
            arrived.request_id,
            np.asarray(arrived.prompt_ids, dtype=np.int32),
            arrived.params,
            namespace=namespace,
            stop_token_ids=frozenset(arrived.end_token_ids),
            arrival=self._next_arrival(),
        )
        self._choices[request.request_id] = [request]
        self._admission.wait(request)

    def abort(self, request_id: RequestId, index: int | None = None) -> list[TokenDelta]:
        """End a request (or one choice of it) now, wherever it is. Unknown ids are ignored: it may
        have ended by itself a moment ago, and a choice does not exist before the request has
        forked. What it has computed stays in the tree."""
        return [
            delta
            for request in tuple(self._choices.get(request_id, ()))
            if index is None or (request.index == index and not _is_to_fork(request))
            for delta in self._end(request, "abort")
        ]

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting)

    @property
    def running(self) -> tuple[Request, ...]:
        """The requests that hold pages, oldest first."""
        return self._running.as_tuple()

    def stats(self) -> EngineStats:
        return EngineStats(
            num_waiting=len(self._waiting),
            num_running=len(self._running),
            cache=self._cache.info(),
            num_steps=self._num_steps,
            prompt_tokens=self._admission.prompt_tokens,
            cached_tokens=self._admission.cached_tokens,
            computed_tokens=self._computed_tokens,
            generated_tokens=self._generated_tokens,
            preemptions=self._preemptions,
            evicted_pages=self._cache.evicted_pages,
        )

    # -- deciding -----------------------------------------------------------------------------

    def schedule(self, *, max_chunk_tokens: int | None = None) -> StepPlan:
        """Plan one step. Empty if nothing waits or runs.

        ``max_chunk_tokens`` bounds the tokens of steps that also carry one-token rows beyond those
        rows themselves (``pacing.py``): it bounds how long the streams are held up.

        *Mutates* the cache (locks, own pages, evictions) and who is running. *Cost*: under 1 ms
        with 1,000 waiting and 64 running.
        """
        rows: dict[Request, PlannedRow] = {}
        budget = self._max_batch_tokens
        chunks: list[Request] = []
        for request in self.running:
            if request.status is not Status.RUNNING:
                # The victim of one before it.
                continue
            if _num_remaining(request) > 1:
                chunks.append(request)
            else:
                self._plan_row(request, 1, rows)
        budget -= len(rows)
        if rows and max_chunk_tokens is not None:
            budget = min(budget, max_chunk_tokens)
        share = max(budget // SHORT_SHARE, min(MIN_SHORT_TOKENS, budget // 2))
        if any(_num_remaining(request) > share for request in chunks):
            short = [request for request in chunks if _num_remaining(request) <= share]
            left = self._plan_chunks(short, share, rows)
            left = self._plan_chunks(self._admission.newcomers(share), left, rows)
            budget -= share - left
        budget = self._plan_chunks(chunks, budget, rows)
        self._plan_chunks(self._admission.newcomers(), budget, rows)
        return StepPlan(
            rows=tuple(rows.values()),
            copies=tuple(
                request.lease.pending_copy
                for request in rows
                if request.lease is not None and request.lease.pending_copy is not None
            ),
        )

    def _plan_chunks(
        self, requests: Iterable[Request], budget: int, rows: dict[Request, PlannedRow]
    ) -> int:
        """Plan a chunk of each that has none yet, as long as ``budget`` lasts. Returns the rest.

        Asks for no request that it cannot give a token: asking is what starts a newcomer.
        """
        upcoming = iter(requests)
        while budget > 0 and (request := next(upcoming, None)) is not None:
            if request.status is Status.RUNNING and request not in rows:
                self._plan_row(request, min(_num_remaining(request), budget), rows)
                budget -= _num_planned(rows, request)
        return budget

    def _plan_row(self, request: Request, count: int, rows: dict[Request, PlannedRow]) -> None:
        """Plan the next ``count`` tokens of a running request, making room for them if need be.

        Room comes from eviction, then from victims; the request itself may turn out to be the
        cheapest victim, and then it has no row.
        """
        start = request.num_computed_tokens
        while request.status is Status.RUNNING:
            assert request.lease is not None
            try:
                self._cache.reserve(request.lease, start + count)
            except OutOfPagesError:
                victim = cheapest_victim(self.running) or request
                rows.pop(victim, None)
                self._preempt(victim)
                continue
            rows[request] = PlannedRow(
                request, start, count, self._num_samples(request, start + count)
            )
            return

    @staticmethod
    def _num_samples(request: Request, end: int) -> int:
        """How many tokens to sample after position ``end``: none inside the known tokens; ``n`` at
        the first end of the prompt, where the choices fork."""
        if end < request.num_tokens:
            return 0
        return request.params.n if _is_to_fork(request) else 1

    def _preempt(self, request: Request) -> None:
        """Back to waiting. What was computed stays in the tree, until somebody needs the room."""
        logger.info(
            "request %s/%d preempted with %d of %d tokens computed: out of pages",
            request.request_id,
            request.index,
            request.num_computed_tokens,
            request.num_tokens,
        )
        self._preemptions += 1
        self._running.leave(request, request.num_computed_tokens)
        self._admission.wait(request, preempted=True)

    # -- advancing ----------------------------------------------------------------------------

    def update(self, plan: StepPlan, result: StepResult) -> list[TokenDelta]:
        """Take in what a step computed: progress, full pages into the tree, tokens, forks, ends.

        Returns what is new to each choice. *Mutates* requests and cache.
        """
        self._num_steps += 1
        deltas: list[TokenDelta] = []
        for row, sampled in zip(plan.rows, result.sampled, strict=True):
            request = row.request
            assert request.lease is not None, f"{request} lost its pages during a step"
            self._computed_tokens += row.num_scheduled_tokens
            if request.lease.pending_copy is not None:
                self._cache.finish_copy(request.lease)
            if any(token is None for token in sampled):
                deltas.extend(self._end(request, "error", error=_BROKEN_LOGITS))
                continue
            request.num_computed_tokens += row.num_scheduled_tokens
            self._running.commit(request)
            tokens = [token for token in sampled if token is not None]
            if len(tokens) > 1:
                deltas.extend(self._fork(request, tokens[1:]))
            if tokens:
                deltas.append(self._append(request, tokens[0]))
        return deltas

    def fail(self, plan: StepPlan, error: str) -> list[TokenDelta]:
        """A step could not be run: end its requests with an error; everybody else goes on.

        What the step would have computed is not in the tree and does not get there.
        """
        return [
            delta for row in plan.rows for delta in self._end(row.request, "error", error=error)
        ]

    def _append(self, request: Request, token: SampledToken) -> TokenDelta:
        """Give a choice its next token, and end it if that was the last."""
        request.append(token.token_id)
        self._generated_tokens += 1
        if token.token_id in request.stop_token_ids:
            return self._finish(request, "stop", token)
        if request.num_output_tokens == request.params.max_tokens:
            return self._finish(request, "length", token)
        self._running.appended(request)
        return _delta(request, token)

    def _fork(self, parent: Request, tokens: list[SampledToken]) -> Iterator[TokenDelta]:
        """Make the other choices of a request whose prompt has just been computed.

        Each shares all of the parent's pages, the last partial one by a copy. Where there is no
        room for one, it waits like any other request and finds the shared pages in the tree.
        """
        assert parent.lease is not None
        for index, token in enumerate(tokens, start=1):
            child = Request(
                parent.request_id,
                parent.token_ids[: parent.num_prompt_tokens],
                parent.params,
                namespace=parent.namespace,
                stop_token_ids=parent.stop_token_ids,
                arrival=self._next_arrival(),
                index=index,
            )
            child.num_cached_tokens = parent.num_cached_tokens
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
        num_choices = request.params.n if _is_to_fork(request) else 1
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
            self._running.leave(request, kept)
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
        return _delta(request, token, error=error)

    def _next_arrival(self) -> int:
        self._num_arrivals += 1
        return self._num_arrivals

    def check_invariants(self) -> None:
        """Assert that queues, leases and cache agree. *Cost*: O(everything); for tests."""
        leases = []
        for request in self._running:
            assert request.status is Status.RUNNING, request
            assert request.lease is not None, request
            assert request.num_computed_tokens < request.num_tokens, request
            assert request.lease.num_committed_tokens <= request.num_computed_tokens, request
            leases.append(request.lease)
        for request in self._waiting:
            assert request.status is Status.WAITING, request
            assert request.lease is None, request
        live = [request for choices in self._choices.values() for request in choices]
        assert len(live) == len(self._running) + len(self._waiting), "a request is lost"
        arrivals = [request.arrival for request in self._running]
        assert arrivals == sorted(arrivals), "running requests are out of order"
        self._cache.check_invariants(leases)


_BROKEN_LOGITS = (
    "no token could be chosen: the model's logits are not numbers, or every token is forbidden"
)


def _is_to_fork(request: Request) -> bool:
    """Whether it stands for several choices, whose first tokens are still to be sampled."""
    return request.params.n > 1 and not request.num_output_tokens


def _num_remaining(request: Request) -> int:
    """Tokens known and not yet computed."""
    return request.num_tokens - request.num_computed_tokens


def _num_planned(rows: dict[Request, PlannedRow], request: Request) -> int:
    row = rows.get(request)
    return row.num_scheduled_tokens if row is not None else 0


def _delta(
    request: Request, token: SampledToken | None = None, *, error: str | None = None
) -> TokenDelta:
    return TokenDelta(
        request_id=request.request_id,
        index=request.index,
        token_ids=[token.token_id] if token is not None else [],
        logprobs=[token.logprob] if token is not None and token.logprob is not None else None,
        finish_reason=request.finish_reason,
        stop_token_id=(
            token.token_id if token is not None and request.finish_reason == "stop" else None
        ),
        num_cached_tokens=request.num_cached_tokens or 0,
        error=error,
    )
