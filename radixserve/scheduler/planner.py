"""Which tokens run next, and whose pages make room for them.

There is no prefill phase and no decode phase. Every running request has tokens that it knows or
foresees, fewer that it has launched, and a plan gives each some of the rest (``request.py``). In a
plan come, in this order:

1. running requests with one token to run (a stream is waiting for each of them),
2. running requests with more, oldest first, a chunk each (a long prompt cannot stall the others);
   a share of the budget goes to short remainders and newcomers before it goes to long prompts,
3. newcomers, in the order of the waiting queue (``waiting.py``), as long as tokens, pages and
   ``max_running`` last. One that would compute a page which another is about to compute is set
   aside for it (``producers.py``),
4. if there is nobody at all, what nobody has asked for yet (``ahead.py``).

Out of pages: the cache evicts; if that is not enough the cheapest running request is preempted
(``policy.py``). Its computed pages stay in the tree, its planned tokens leave the plan, and it
waits again as if it had never run, with all its tokens for a prompt.

Tiers: behind the rows come the loads of those who load (``loads.py``) and have none; then copies
for the disk, as many as may still be moved; and, ahead of these in the step, a store of every page
that was evicted since the last plan. A plan may have moves and no rows. While streams wait for the
step, ``max_moved_pages`` bounds loads and copies for the disk, never the stores. Who gets no page
to load into computes: if that leaves a plan empty, it is made again.

Planning ahead: steps may be in flight (``in_flight.py``). A request whose next token cannot be
foreseen (``policy.awaits_update``) is left out. Nobody is preempted with a row in flight: if that
is what it would take, *the whole plan is empty*, the steps in flight run dry, and with nothing in
flight room is made as ever. That costs a bubble per such preemption, and cannot go on forever,
since every plan with nothing in flight gets on, or all that could go on waits for reads from disk.
With nothing in flight all of this is as if there were no planning ahead. What was evicted for an
empty plan is stored by the next one.

The order of a plan's rows is theirs of 1 to 4, unless some share what is worth reading once: then
it is the tree's (``cascade_planner.py``).

Decides only: what has been launched is counted in ``in_flight.py``, results are taken in by the
scheduler. Costs: O(running) per plan, and as much again for each newcomer, of which there are at
most MAX_PROBES.
"""

import logging
from collections.abc import Iterable
from typing import Final

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cascade import NO_CASCADE, CascadeCosts
from radixserve.errors import OutOfPagesError
from radixserve.request import Request, Status
from radixserve.scheduler.admission import Admission
from radixserve.scheduler.ahead import Ahead
from radixserve.scheduler.cascade_planner import CascadePlanner
from radixserve.scheduler.loads import Loads
from radixserve.scheduler.plan import PlannedRow, StepPlan
from radixserve.scheduler.policy import (
    MAX_MOVED_PAGES,
    MIN_SHORT_TOKENS,
    SHORT_SHARE,
    awaits_update,
    cheapest_victim,
)
from radixserve.scheduler.running import Running
from radixserve.tiers.moves import NO_MOVES, Moves

logger = logging.getLogger(__name__)

_NOTHING: Final = StepPlan((), ())


class Planner:
    """Makes plans. Counts ``preemptions`` since start."""

    def __init__(
        self,
        cache: PrefixCache,
        running: Running,
        admission: Admission,
        ahead: Ahead,
        loads: Loads,
        *,
        max_batch_tokens: int,
        cascade_costs: CascadeCosts | None = None,
    ) -> None:
        """Without ``cascade_costs`` nobody looks for what rows share."""
        self._cache = cache
        self._running = running
        self._admission = admission
        self._ahead = ahead
        self._loads = loads
        self._max_batch_tokens = max_batch_tokens
        self._cascades: CascadePlanner | None = None
        if cascade_costs is not None:
            self._cascades = CascadePlanner(cascade_costs, cache.page_size)
        self.preemptions = 0

    def plan(
        self, max_chunk_tokens: int | None, max_moved_pages: int | None, *, is_idle: bool
    ) -> StepPlan:
        """As ``Scheduler.schedule``, which see. ``is_idle``: nothing is in flight."""
        while True:
            self._loads.refresh()
            num_over = self._loads.num_over
            plan = self._plan(max_chunk_tokens, max_moved_pages, is_idle=is_idle)
            if not plan.is_empty:
                return plan
            if is_idle:
                self._loads.give_up_in_vain()
            if self._loads.num_over == num_over:
                return plan

    def _plan(
        self, max_chunk_tokens: int | None, max_moved_pages: int | None, *, is_idle: bool
    ) -> StepPlan:
        rows: dict[Request, PlannedRow] = {}
        try:
            are_awaited = self._plan_rows(max_chunk_tokens, rows)
        except _RoomIsInFlightError:
            logger.debug("out of pages: the steps in flight are awaited")
            return _NOTHING
        max_pages = MAX_MOVED_PAGES
        if are_awaited and max_moved_pages is not None:
            max_pages = min(max_pages, max_moved_pages)
        loads = self._loads.plan(max_pages)
        moves = NO_MOVES
        if rows or loads or is_idle:
            up = tuple(load for _, own in loads for load in own)
            moves = Moves(self._loads.take_stores(max_pages - len(up)), up)
        # Last: whoever is to run has its lease now.
        arranged, cascade = tuple(rows.values()), NO_CASCADE
        if self._cascades is not None and rows:
            arranged, cascade = self._cascades.arrange(arranged)
        return StepPlan(
            rows=arranged,
            copies=tuple(
                request.lease.pending_copy
                for request in rows
                # A lease with a row in flight has had its copy in that row's plan.
                if request.lease is not None
                and request.lease.pending_copy is not None
                and not request.is_in_flight
            ),
            moves=moves,
            loads=tuple(load for load, _ in loads),
            cascade=cascade,
        )

    def _plan_rows(self, max_chunk_tokens: int | None, rows: dict[Request, PlannedRow]) -> bool:
        """Plan all rows. Returns whether anybody waits for the end of this step as streams do.

        *Raises* ``_RoomIsInFlightError``.
        """
        budget = self._max_batch_tokens
        chunks: list[Request] = []
        is_awaited = False
        for request in self._running.as_tuple():
            if request.status is not Status.RUNNING or request in self._loads:
                # The victim of one before it, or not so far yet.
                continue
            if awaits_update(request):
                is_awaited |= request.is_to_fork or request.constraint is not None
            elif _num_remaining(request) > 1:
                chunks.append(request)
            else:
                self._plan_row(request, 1, rows)
        budget -= len(rows)
        # Choices that are about to fork, and those with grammars, have no row, but wait for the end
        # of this step as streams do.
        is_awaited |= bool(rows)
        if is_awaited and max_chunk_tokens is not None:
            budget = min(budget, max_chunk_tokens)
        share = max(budget // SHORT_SHARE, min(MIN_SHORT_TOKENS, budget // 2))
        if any(_num_remaining(request) > share for request in chunks):
            short = [request for request in chunks if _num_remaining(request) <= share]
            left = self._plan_chunks(short, share, rows)
            left = self._plan_chunks(self._admission.newcomers(share), left, rows)
            budget -= share - left
        budget = self._plan_chunks(chunks, budget, rows)
        self._plan_chunks(self._admission.newcomers(), budget, rows)
        unasked = self._ahead.row()
        if unasked is not None:
            rows[unasked.request] = unasked
        return is_awaited

    def _plan_chunks(
        self, requests: Iterable[Request], budget: int, rows: dict[Request, PlannedRow]
    ) -> int:
        """Plan a chunk of each that has none yet, as long as ``budget`` lasts. Returns the rest.

        Asks for no request that it cannot give a token: asking is what starts a newcomer. One that
        then loads is given none.
        """
        upcoming = iter(requests)
        while budget > 0 and (request := next(upcoming, None)) is not None:
            if (
                request.status is Status.RUNNING
                and request not in rows
                and request not in self._loads
            ):
                self._plan_row(request, min(_num_remaining(request), budget), rows)
                budget -= _num_planned(rows, request)
        return budget

    def _plan_row(self, request: Request, count: int, rows: dict[Request, PlannedRow]) -> None:
        """Plan the next ``count`` tokens of a running request, making room for them if need be.

        Room comes from eviction, then from victims; the request itself may turn out to be the
        cheapest victim, and then it has no row. *Raises* ``_RoomIsInFlightError``.
        """
        start = request.num_launched_tokens
        while request.status is Status.RUNNING:
            assert request.lease is not None
            try:
                self._cache.reserve(request.lease, start + count)
            except OutOfPagesError:
                victim = cheapest_victim(self._running.as_tuple()) or request
                if victim.is_in_flight:
                    raise _RoomIsInFlightError from None
                rows.pop(victim, None)
                self._preempt(victim)
                continue
            rows[request] = PlannedRow(
                request,
                start,
                count,
                num_samples=self._num_samples(request, start + count),
                num_scores=_num_scores(request, start, start + count),
            )
            return

    @staticmethod
    def _num_samples(request: Request, end: int) -> int:
        """How many tokens to sample after position ``end``: none inside the foreseen tokens; ``n``
        at the first end of the prompt, where the choices fork."""
        if end < request.num_foreseen_tokens:
            return 0
        return request.params.n if request.is_to_fork else 1

    def _preempt(self, request: Request) -> None:
        """Back to waiting. What was computed stays in the tree, until somebody needs the room."""
        assert not request.is_in_flight, f"{request} preempted with a row in flight"
        logger.info(
            "request %s/%d preempted with %d of %d tokens computed: out of pages",
            request.request_id,
            request.index,
            request.num_computed_tokens,
            request.num_tokens,
        )
        self.preemptions += 1
        self._running.leave(request, request.num_computed_tokens)
        self._admission.wait(request, preempted=True)


class _RoomIsInFlightError(Exception):
    """Room is to be had only from requests with rows in flight."""


def _num_remaining(request: Request) -> int:
    """Tokens known or foreseen and not yet launched."""
    return request.num_foreseen_tokens - request.num_launched_tokens


def _num_scores(request: Request, start: int, end: int) -> int:
    """How many of the tokens ``[start, end)`` score the prompt token behind them."""
    if not request.is_to_score:
        return 0
    return max(0, min(end, request.num_prompt_tokens - 1) - start)


def _num_planned(rows: dict[Request, PlannedRow], request: Request) -> int:
    row = rows.get(request)
    return row.num_scheduled_tokens if row is not None else 0
