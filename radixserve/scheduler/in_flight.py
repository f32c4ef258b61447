"""The steps in flight: plans that were launched and whose results the host does not know yet.

    schedule(n)  schedule(n + 1)  update(n)  schedule(n + 2)  update(n + 1)  ...
       |------------ step n ----------|
                       |------------- step n + 1 --------------------|

Steps run and are updated in the order in which they were launched. Planning step n + 1 before
``update(n)`` counts on what step n will have done: the tokens that it computes are launched, those
that it samples are pending (``request.py``); tokens that it loads are launched too, as if computed.
What is said here of rows holds of loads, but that they sample nothing. This module keeps these two
numbers of each request in step with the plans in flight; it decides nothing. Owned by the
scheduler, read by the planner.

A row is *stale* if its request has ended since the launch, by a stop token, an abort or an error.
It computes in vain. Ended requests keep no numbers, so a stale row is passed over when it lands.

A row is *void* if a load that it counts on has failed. Its request lives: it is back where that
load began, and computes from there in steps launched later. The void row computes from junk, into
pages or parts of pages which those steps overwrite; it is passed over when it lands.

Costs: O(rows of the plan); asking whether anything is in flight, O(1).
"""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from radixserve.request import Request, Status
from radixserve.scheduler.plan import PlannedLoad, PlannedRow, StepPlan


@dataclass(slots=True, eq=False)
class _Step:
    plan: StepPlan
    void: set[Request] = field(default_factory=set)
    """Whose rows and loads in it are void."""


class _Part(NamedTuple):
    """What one step does for one request."""

    start: int
    num_tokens: int
    num_pending_tokens: int = 0


class InFlight:
    """Plans, oldest first."""

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()
        self._void: set[Request] = set()
        """Whose parts were void in the step that was taken out last."""

    def __len__(self) -> int:
        return len(self._steps)

    def launch(self, plan: StepPlan) -> None:
        """The step will run: whoever plans next counts on it. *Mutates* the rows' requests."""
        self._steps.append(_Step(plan))
        for request, part in _parts(plan):
            assert part.start == request.num_launched_tokens, f"{request} is not at {part.start}"
            request.num_launched_tokens += part.num_tokens
            request.num_pending_tokens += part.num_pending_tokens

    def land(self, plan: StepPlan) -> None:
        """The step, the oldest in flight, has run."""
        assert self._steps, "there is no step in flight"
        assert plan is self._steps[0].plan, "steps are updated in the order of their launch"
        self._void = self._steps.popleft().void

    def drop(self, plan: StepPlan) -> list[PlannedLoad]:
        """The step has failed, wherever in the order it is: nobody counts on it any more.

        Returns those of its loads whose requests live on: they are where the load began, and what
        later steps in flight do for them is void. *Mutates* these requests.
        """
        index = next(i for i, step in enumerate(self._steps) if step.plan is plan)
        self._void = self._steps[index].void
        del self._steps[index]
        lost = [load for load in plan.loads if not self.is_passed_over(load.request)]
        for load in lost:
            load.request.num_launched_tokens = load.start
            load.request.num_pending_tokens = 0
            for step in tuple(self._steps)[index:]:
                step.void.add(load.request)
        return lost

    def is_passed_over(self, request: Request) -> bool:
        """Whether what the step taken out last did for a request is stale or void."""
        return request.status is Status.FINISHED or request in self._void

    @staticmethod
    def land_row(row: PlannedRow) -> bool:
        """A row has run: count its tokens as computed. False if it is stale. *Mutates* the request.

        The pending token is none any more: the caller appends it.
        """
        request = row.request
        if request.status is Status.FINISHED:
            return False
        _land(request, row.start, row.num_scheduled_tokens)
        request.num_pending_tokens -= row.num_samples > 0
        return True

    @staticmethod
    def land_load(load: PlannedLoad) -> None:
        """A load, neither stale nor void, has run: it counts as computed. *Mutates* the request."""
        _land(load.request, load.start, load.num_tokens)

    def keep(self, known: Collection[StepPlan]) -> None:
        """Forget every plan but these: nobody will land the others."""
        self._steps = deque(step for step in self._steps if any(step.plan is one for one in known))

    def unexplained(self, running: Iterable[Request]) -> list[Request]:
        """Requests whose numbers are not what the plans in flight say: of those that run, and of
        those that have rows in flight though they do not. Also those that lack a token: what they
        have computed was taken in, and what that sampled was not."""
        parts: dict[Request, list[_Part]] = {request: [] for request in running}
        for request, part in self._live_parts():
            parts.setdefault(request, []).append(part)
        return [request for request, own in parts.items() if not _explain(request, own)]

    def check_invariants(self, running: Iterable[Request]) -> None:
        """Assert that every request's numbers are what the plans in flight say."""
        unexplained = self.unexplained(running)
        assert not unexplained, f"not as the plans in flight say: {unexplained}"

    def _live_parts(self) -> Iterator[tuple[Request, _Part]]:
        """Those that are neither stale nor void, oldest first."""
        return (
            (request, part)
            for step in self._steps
            for request, part in _parts(step.plan)
            if request.status is not Status.FINISHED and request not in step.void
        )


def _parts(plan: StepPlan) -> Iterator[tuple[Request, _Part]]:
    """What a plan does for whom. No request has a row and a load in it."""
    for load in plan.loads:
        yield load.request, _Part(load.start, load.num_tokens)
    for row in plan.rows:
        yield row.request, _Part(row.start, row.num_scheduled_tokens, int(row.num_samples > 0))


def _land(request: Request, start: int, num_tokens: int) -> None:
    assert request.status is Status.RUNNING, f"{request} left with a row in flight"
    assert start == request.num_computed_tokens, f"{request} has landed out of order"
    request.num_computed_tokens += num_tokens


def _explain(request: Request, parts: Iterable[_Part]) -> bool:
    """Whether these parts in flight, oldest first, make the request's numbers what they are, and
    leave it something to run."""
    launched, pending = request.num_computed_tokens, 0
    for part in parts:
        if part.start != launched:
            return False
        launched += part.num_tokens
        pending += part.num_pending_tokens
    return (launched, pending) == (
        request.num_launched_tokens,
        request.num_pending_tokens,
    ) and launched < request.num_foreseen_tokens
