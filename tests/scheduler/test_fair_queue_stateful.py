"""A tenant that is alone notices nothing of tenants: step by step what ``WaitingQueue`` does."""

from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from radixserve.request import Request
from radixserve.scheduler.fair_queue import FairQueue
from radixserve.scheduler.waiting import WaitingQueue
from tests.scheduler.requests import make_request

PRODUCERS = [make_request(-1 - number) for number in range(3)]


class OneTenantMachine(RuleBasedStateMachine):
    """One tenant and one priority: step by step what a line of its own says and does."""

    def __init__(self) -> None:
        super().__init__()
        self.fair = FairQueue(2)
        self.line = WaitingQueue(2)
        self.waiting: list[Request] = []
        self.num_arrivals = 0

    def both(self, act: Callable[[FairQueue | WaitingQueue], object]) -> None:
        assert act(self.fair) == act(self.line)

    @rule(cached=st.integers(0, 4), preempted=st.booleans())
    def arrive(self, cached: int, *, preempted: bool) -> None:
        self.num_arrivals += 1
        request = make_request(self.num_arrivals, tenant="a", priority=3)
        self.both(lambda queue: queue.add(request, cached, preempted=preempted))
        self.waiting.append(request)

    @precondition(lambda self: self.fair.peek() is not None)
    @rule(cost=st.integers(0, 9), is_admitted=st.booleans())
    def look(self, cost: int, *, is_admitted: bool) -> None:
        request = self.fair.peek()
        assert request is not None
        if is_admitted:
            self.both(lambda queue: queue.admit(request))
            self.fair.charge("a", cost)
            self.waiting.remove(request)
        else:
            self.both(lambda queue: queue.pass_over(request))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data(), cached=st.integers(0, 4))
    def estimate_or_abort(self, data: st.DataObject, cached: int) -> None:
        request = data.draw(st.sampled_from(self.waiting))
        if cached == 4:
            self.both(lambda queue: queue.remove(request))
            self.waiting.remove(request)
        else:
            self.both(lambda queue: queue.estimate(request, cached))

    @precondition(lambda self: self.fair.peek() is not None)
    @rule(producer=st.sampled_from(PRODUCERS), shared=st.integers(1, 5))
    def defer(self, producer: Request, shared: int) -> None:
        request = self.fair.peek()
        assert request is not None
        self.both(lambda queue: queue.defer(request, producer, shared))

    @rule(producer=st.sampled_from(PRODUCERS), committed=st.integers(0, 5), is_gone=st.booleans())
    def wake(self, producer: Request, committed: int, *, is_gone: bool) -> None:
        if is_gone:
            self.both(lambda queue: queue.wake_all(producer, committed))
        else:
            self.both(lambda queue: queue.wake(producer, committed))

    @rule()
    def begin_pass(self) -> None:
        self.both(lambda queue: queue.begin_pass())

    @rule(count=st.integers(0, 5))
    def rotate(self, count: int) -> None:
        self.both(lambda queue: list(queue.rotate(count)))

    @invariant()
    def agree(self) -> None:
        if not len(self.line):
            # The same but for whose estimate is refreshed next: an old line remembers who is gone.
            self.line = WaitingQueue(2)
        self.fair.check_invariants()
        self.both(lambda queue: queue.peek())
        self.both(list)
        self.both(lambda queue: queue.num_deferred)
        for request in self.waiting:
            self.both(lambda queue, one=request: queue.is_due(one))  # type: ignore[misc]
            self.both(lambda queue, one=request: queue.num_cached_estimate(one))  # type: ignore[misc]


TestOneTenant = OneTenantMachine.TestCase
TestOneTenant.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
