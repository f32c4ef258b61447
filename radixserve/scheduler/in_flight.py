"""The steps in flight: plans that were launched and whose results the host does not know yet.

    schedule(n)  schedule(n + 1)  update(n)  schedule(n + 2)  update(n + 1)  ...
       |------------ step n ----------|
                       |------------- step n + 1 --------------------|

Steps run and are updated in the order in which they were launched. Planning step n + 1 before
``update(n)`` counts on what step n will have done: the tokens that it computes are launched, those
that it samples are pending (``request.py``). This module keeps these two numbers of each request in
step with the plans in flight; it decides nothing. Owned by the scheduler, read by the planner.

A row is *stale* if its request has ended since the launch, by a stop token, an abort or an error.
It computes in vain. Ended requests keep no numbers, so a stale row is passed over when it lands.

Costs: O(rows of the plan); asking whether anything is in flight, O(1).
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator

from radixserve.request import Request, Status
from radixserve.scheduler.plan import PlannedRow, StepPlan


class InFlight:
    """Plans, oldest first."""

    def __init__(self) -> None:
        self._plans: deque[StepPlan] = deque()

    def __len__(self) -> int:
        return len(self._plans)

    def launch(self, plan: StepPlan) -> None:
        """The step will run: whoever plans next counts on it. *Mutates* the rows' requests."""
        self._plans.append(plan)
        for row in plan.rows:
            request = row.request
            assert row.start == request.num_launched_tokens, f"{request} has no row at {row.start}"
            request.num_launched_tokens += row.num_scheduled_tokens
            request.num_pending_tokens += row.num_samples > 0

    def land(self, plan: StepPlan) -> None:
        """The step, the oldest in flight, has run."""
        assert self._plans, "there is no step in flight"
        assert plan is self._plans[0], "steps are updated in the order of their launch"
        self._plans.popleft()

    def drop(self, plan: StepPlan) -> None:
        """The step has failed, wherever in the order it is: nobody counts on it any more."""
        self._plans.remove(plan)

    @staticmethod
    def land_row(row: PlannedRow) -> bool:
        """A row has run: count its tokens as computed. False if it is stale. *Mutates* the request.

        The pending token is none any more: the caller appends it.
        """
        request = row.request
        if request.status is Status.FINISHED:
            return False
        assert request.status is Status.RUNNING, f"{request} left with a row in flight"
        assert row.start == request.num_computed_tokens, f"{request} has landed out of order"
        request.num_computed_tokens += row.num_scheduled_tokens
        request.num_pending_tokens -= row.num_samples > 0
        return True

    def keep(self, known: Collection[StepPlan]) -> None:
        """Forget every plan but these: nobody will land the others."""
        self._plans = deque(plan for plan in self._plans if any(plan is one for one in known))

    def unexplained(self, running: Iterable[Request]) -> list[Request]:
        """Requests whose numbers are not what the plans in flight say: of those that run, and of
        those that have rows in flight though they do not."""
        rows: dict[Request, list[PlannedRow]] = {request: [] for request in running}
        for row in self._rows():
            rows.setdefault(row.request, []).append(row)
        return [request for request, own in rows.items() if not _explain(request, own)]

    def check_invariants(self, running: Iterable[Request]) -> None:
        """Assert that every request's numbers are what the plans in flight say."""
        running = tuple(running)
        unexplained = self.unexplained(running)
        assert not unexplained, f"not as the plans in flight say: {unexplained}"
        for request in running:
            assert request.num_launched_tokens < request.num_foreseen_tokens, request

    def _rows(self) -> Iterator[PlannedRow]:
        """The rows that are not stale, oldest first."""
        return (
            row
            for plan in self._plans
            for row in plan.rows
            if row.request.status is not Status.FINISHED
        )


def _explain(request: Request, rows: Iterable[PlannedRow]) -> bool:
    """Whether these rows in flight, oldest first, make the request's numbers what they are."""
    launched, pending = request.num_computed_tokens, 0
    for row in rows:
        if row.start != launched:
            return False
        launched += row.num_scheduled_tokens
        pending += row.num_samples > 0
    return (launched, pending) == (request.num_launched_tokens, request.num_pending_tokens)
