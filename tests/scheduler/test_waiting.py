"""The waiting queue against a plain list, and the bound on overtaking that it promises."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from radixserve.request import Request
from radixserve.scheduler.waiting import WaitingQueue
from tests.scheduler.requests import make_request

ESTIMATES = st.integers(0, 6)
PRODUCERS = [make_request(-1 - number) for number in range(3)]


@dataclass(slots=True)
class Plain:
    """What the naive queue knows of a waiting request."""

    request: Request
    estimate: int
    deadline: int
    producer: Request | None = None
    num_shared_tokens: int = 0


class WaitingQueueMachine(RuleBasedStateMachine):
    """Every operation on the queue and on a list that is searched from end to end."""

    max_overtakes = 0

    def __init__(self) -> None:
        super().__init__()
        self.queue = WaitingQueue(self.max_overtakes)
        self.plain: list[Plain] = []
        self.outside: list[Request] = []
        self.num_arrivals = 0
        self.num_admissions = 0

    def entry(self, data: st.DataObject) -> Plain:
        return data.draw(st.sampled_from(self.plain))

    def take_out(self, entry: Plain) -> None:
        self.plain.remove(entry)
        self.outside.append(entry.request)

    @rule(estimate=ESTIMATES)
    def arrive(self, estimate: int) -> None:
        self.num_arrivals += 1
        request = make_request(self.num_arrivals)
        deadline = self.num_admissions + len(self.plain) + self.max_overtakes
        self.queue.add(request, estimate)
        self.plain.append(Plain(request, estimate, deadline))

    @precondition(lambda self: self.outside)
    @rule(data=st.data(), estimate=ESTIMATES)
    def come_back(self, data: st.DataObject, estimate: int) -> None:
        request = data.draw(st.sampled_from(self.outside))
        self.outside.remove(request)
        self.queue.add(request, estimate, preempted=True)
        self.plain.append(Plain(request, estimate, self.num_admissions))

    @precondition(lambda self: self.plain)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        entry = self.entry(data)
        self.queue.remove(entry.request)
        self.take_out(entry)
        for other in self.plain:
            if other.request.arrival > entry.request.arrival:
                other.deadline -= 1

    @precondition(lambda self: self.next() is not None)
    @rule()
    def admit(self) -> None:
        request = self.queue.peek()
        assert request is not None
        self.queue.admit(request)
        self.num_admissions += 1
        self.take_out(next(entry for entry in self.plain if entry.request is request))

    @precondition(lambda self: self.plain)
    @rule(data=st.data(), estimate=ESTIMATES)
    def estimate(self, data: st.DataObject, estimate: int) -> None:
        entry = self.entry(data)
        self.queue.estimate(entry.request, estimate)
        entry.estimate = estimate

    @precondition(lambda self: self.candidates())
    @rule(data=st.data(), producer=st.sampled_from(PRODUCERS), shared=st.integers(1, 9))
    def defer(self, data: st.DataObject, producer: Request, shared: int) -> None:
        entry = data.draw(st.sampled_from(self.candidates()))
        self.queue.defer(entry.request, producer, shared)
        entry.producer, entry.num_shared_tokens = producer, shared

    @rule(producer=st.sampled_from(PRODUCERS), committed=st.integers(0, 9))
    def wake(self, producer: Request, committed: int) -> None:
        self.queue.wake(producer, committed)
        for entry in self.plain:
            if entry.producer is producer and entry.num_shared_tokens <= committed:
                entry.producer, entry.estimate = None, entry.num_shared_tokens

    @rule(producer=st.sampled_from(PRODUCERS), committed=st.integers(0, 9))
    def wake_all(self, producer: Request, committed: int) -> None:
        self.queue.wake_all(producer, committed)
        for entry in self.plain:
            if entry.producer is producer:
                entry.producer, entry.estimate = None, min(entry.num_shared_tokens, committed)

    @rule(count=st.integers(0, 4))
    def rotate(self, count: int) -> None:
        due = list(self.queue.rotate(count))
        assert len(due) == len(set(due)) <= count
        assert set(due) <= {entry.request for entry in self.candidates()}

    @rule()
    def rotate_all(self) -> None:
        candidates = {entry.request for entry in self.candidates()}
        due = list(self.queue.rotate(10_000))
        assert len(due) == len(candidates)
        assert set(due) == candidates

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == len(self.plain)
        assert set(self.queue) == {entry.request for entry in self.plain}
        assert self.queue.num_deferred == sum(e.producer is not None for e in self.plain)
        for entry in self.plain:
            assert entry.request in self.queue
            assert self.queue.num_cached_estimate(entry.request) == entry.estimate
        assert all(request not in self.queue for request in self.outside)
        assert self.queue.peek() is self.next()

    def candidates(self) -> list[Plain]:
        return [entry for entry in self.plain if entry.producer is None]

    def next(self) -> Request | None:
        candidates = self.candidates()
        if not candidates:
            return None
        oldest = min(candidates, key=lambda entry: entry.request.arrival)
        if self.num_admissions >= oldest.deadline:
            return oldest.request
        first = min(candidates, key=lambda entry: (-entry.estimate, entry.request.arrival))
        return first.request


TestWaitingQueue = WaitingQueueMachine.TestCase
TestWaitingQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@settings(deadline=None)
@given(
    max_overtakes=st.integers(0, 2),
    events=st.lists(
        st.one_of(
            st.tuples(st.just("arrive"), st.integers(0, 2)),
            st.tuples(st.just("admit"), st.just(0)),
            st.tuples(st.just("abort"), st.integers(0, 100)),
            st.tuples(st.just("estimate"), st.integers(0, 2000)),
        ),
        min_size=10,
        max_size=80,
    ),
)
def test_nobody_is_overtaken_more_often_than_promised(
    max_overtakes: int, events: list[tuple[str, int]]
) -> None:
    """A request that finds p waiting is admitted after at most p + max_overtakes others, also if
    some of the p give up: then others must not take their places before it."""
    queue = WaitingQueue(max_overtakes)
    arrived: dict[Request, tuple[int, int]] = {}
    num_admissions = 0

    def admit() -> None:
        nonlocal num_admissions
        request = queue.peek()
        assert request is not None
        queue.admit(request)
        found, admissions_before = arrived[request]
        assert num_admissions - admissions_before <= found + max_overtakes
        num_admissions += 1

    for number, (event, value) in enumerate(events):
        if event == "arrive":
            request = make_request(number)
            arrived[request] = len(queue), num_admissions
            queue.add(request, value)
        elif len(queue):
            waiting = sorted(queue, key=lambda request: request.arrival)
            chosen = waiting[value % len(waiting)]
            if event == "admit":
                admit()
            elif event == "abort":
                queue.remove(chosen)
            else:
                queue.estimate(chosen, value // 100)
    while len(queue):
        admit()


def test_aborts_of_those_ahead_do_not_lengthen_the_wait() -> None:
    """Regression: the oldest still counted those ahead of it that had given up long ago, and
    whoever had come after it waited with it."""
    queue = WaitingQueue(max_overtakes=2)
    ahead = [make_request(number) for number in range(50)]
    patient, late = make_request(50), make_request(51)
    for request in [*ahead, patient]:
        queue.add(request, 0)
    for request in ahead:
        queue.remove(request)
    queue.add(late, 0)
    order = []
    for number in range(52, 60):
        queue.add(make_request(number), 99)
        first = queue.peek()
        assert first is not None
        queue.admit(first)
        order.append(first.arrival)
    assert order[2:4] == [50, 51]


def test_lazy_heaps_do_not_grow_with_aborts() -> None:
    """Regression: nothing can be admitted, so nothing is popped; clients come and go for days."""
    queue = WaitingQueue(max_overtakes=4)
    stays = make_request(0)
    queue.add(stays, 3)
    deferred = make_request(1)
    queue.add(deferred, 0)
    queue.defer(deferred, PRODUCERS[0], 16)
    for number in range(2, 2000):
        request = make_request(number)
        queue.add(request, number % 7)
        queue.remove(request)
    assert len(queue._by_arrival) < 100
    assert len(queue._by_prefix) < 100
    assert len(queue._rotation) < 100
    assert queue.peek() is stays
    queue.wake(PRODUCERS[0], 16)
    assert list(queue.rotate(100)) == [stays, deferred]
    assert queue.peek() is deferred


def test_lazy_heaps_do_not_grow_below_a_stream_of_longer_prefixes() -> None:
    """Regression: what was admitted for its age stayed at the bottom of the other heap for good."""
    queue = WaitingQueue(max_overtakes=1)
    for number in range(4):
        queue.add(make_request(number), 9)
    for number in range(4, 3000):
        queue.add(make_request(number), 0 if number % 2 else 9)
        request = queue.peek()
        assert request is not None
        queue.admit(request)
    assert len(queue) == 4
    for lazy in (queue._by_arrival, queue._by_prefix, queue._rotation):
        assert len(lazy) <= 64 + 4 * 5


def test_lazy_heaps_do_not_grow_with_estimates() -> None:
    queue = WaitingQueue(max_overtakes=1)
    requests = [make_request(number) for number in range(3)]
    for request in requests:
        queue.add(request, 0)
    for number in range(1000):
        queue.estimate(requests[number % 3], number % 5)
    assert len(queue._by_prefix) <= 64 + 4 * 3
    assert len(queue._by_arrival) <= 64 + 4 * 3


def test_heaps_never_compare_requests() -> None:
    """One request, preempted and back again, has several items with the same arrival."""
    queue = WaitingQueue(max_overtakes=4)
    request = make_request(1)
    for _ in range(5):
        queue.add(request, 2)
        queue.estimate(request, 3)
        queue.estimate(request, 2)
        queue.defer(request, PRODUCERS[0], 8)
        queue.remove(request)
        queue.add(request, 2, preempted=True)
        queue.defer(request, PRODUCERS[0], 8)
        queue.wake(PRODUCERS[0], 8)
        assert queue.peek() is request
        queue.admit(request)
        assert queue.peek() is None


def test_unknown_requests_are_an_error() -> None:
    with pytest.raises(KeyError):
        WaitingQueue(1).remove(make_request(1))
