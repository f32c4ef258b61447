"""Whose turn it is: what tenants and priorities are promised."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.request import Request
from radixserve.scheduler.fair_queue import FairQueue
from radixserve.scheduler.policy import MAX_CLASS_WAIT
from radixserve.scheduler.shares import Shares
from tests.scheduler.requests import make_request

PRODUCERS = [make_request(-1 - number) for number in range(3)]
COST = 10


class Line:
    """A queue that requests are put into and admitted from, each at a cost."""

    def __init__(self, max_overtakes: int = 64) -> None:
        self.queue = FairQueue(max_overtakes)
        self.num_arrivals = 0

    def add(
        self, tenant: str = "", *, priority: int = 0, cached: int = 0, preempted: bool = False
    ) -> Request:
        self.num_arrivals += 1
        request = make_request(self.num_arrivals, tenant=tenant, priority=priority)
        self.queue.add(request, cached, preempted=preempted)
        return request

    def admit(self, cost: int = COST) -> Request:
        """The next one starts to run."""
        request = self.queue.peek()
        assert request is not None
        self.queue.admit(request)
        self.queue.charge(request.tenant, cost)
        self.queue.check_invariants()
        return request

    def admit_all(self, cost: int = COST) -> list[Request]:
        return [self.admit(cost) for _ in range(len(self.queue))]


def tenants(requests: list[Request]) -> str:
    return "".join(request.tenant for request in requests)


def test_a_light_tenant_goes_first_and_a_flood_does_not_matter() -> None:
    line = Line()
    for _ in range(1000):
        line.add("h")
    for _ in range(20):
        line.admit()
    light = [line.add("l") for _ in range(10)]
    order = [line.admit() for _ in range(30)]
    assert tenants(order) == "hl" * 10 + "h" * 10
    assert [request for request in order if request.tenant == "l"] == light
    assert tenants(line.admit_all()) == "h" * 960


def test_who_costs_more_is_admitted_less() -> None:
    line = Line()
    for _ in range(60):
        line.add("x")
        line.add("y")
    order = ""
    for _ in range(40):
        first = line.queue.peek()
        assert first is not None
        order += line.admit(cost=30 if first.tenant == "x" else 10).tenant
    assert order == "xyyy" * 10


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_others=st.integers(1, 4),
    most=st.integers(1, 50),
    running_cost=st.integers(0, 40),
)
def test_counters_of_those_that_wait_stay_close(
    seed: int, num_others: int, most: int, running_cost: int
) -> None:
    """U: the most that one prompt costs, and what is generated for those running meanwhile."""
    rng = random.Random(seed)
    line = Line(max_overtakes=2)
    names = [f"t{number}" for number in range(num_others + 1)]
    for name in names:
        for _ in range(200):
            line.add(name, cached=rng.randrange(5), priority=rng.randrange(2))
    running: dict[str, int] = dict.fromkeys(names, 0)
    for _ in range(150):
        request = line.admit(rng.randint(1, most))
        running[request.tenant] = running_cost
        # What runs goes on generating: no more than what was foreseen of it.
        name = rng.choice(names)
        some = rng.randint(0, running[name])
        running[name] -= some
        line.queue.charge(name, some)
        counters = [line.queue.served(name) for name in names]
        assert max(counters) - min(counters) <= most + running_cost


@settings(deadline=None)
@given(
    costs=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100)), min_size=5, max_size=40),
    waits_now=st.sets(st.sampled_from("abc"), min_size=1),
)
def test_who_comes_anew_waits_for_one_of_each_at_most(
    costs: list[tuple[str, int]], waits_now: set[str]
) -> None:
    line = Line()
    for tenant, cost in costs:
        line.add(tenant)
        line.admit(cost)
    for tenant in sorted(waits_now):
        for _ in range(5):
            line.add(tenant)
    newcomer = line.add("new")
    ahead = ""
    while (request := line.admit(1)) is not newcomer:
        ahead += request.tenant
    assert len(ahead) == len(set(ahead)) <= len(waits_now)


def test_an_idle_day_gives_no_claim() -> None:
    """Who has asked for nothing for long does not get everything for long."""
    line = Line()
    line.add("idle")
    line.admit()
    for _ in range(500):
        line.add("busy")
        line.admit()
    for _ in range(20):
        line.add("busy")
        line.add("idle")
    order = [line.admit().tenant for _ in range(20)]
    assert order.count("idle") == 10


def test_nor_does_one_that_was_never_seen() -> None:
    line = Line()
    for _ in range(50):
        line.add("busy")
    for _ in range(30):
        line.admit()
    for _ in range(20):
        line.add("new")
    assert line.queue.served("new") == 300
    order = [line.admit().tenant for _ in range(20)]
    assert order.count("new") == 10


def test_who_comes_anew_is_lifted_to_the_least_served_of_those_that_wait() -> None:
    line = Line()
    served = {"much": 1000, "little": 40, "more": 500}
    for tenant in served:
        line.add(tenant)
    for tenant, num_tokens in served.items():
        line.queue.charge(tenant, num_tokens)
    line.add("new")
    assert line.queue.served("new") == 40
    assert tenants([line.admit(1) for _ in range(2)]) == "littlenew"


def test_a_turn_that_finds_nobody_is_the_next_ones() -> None:
    """Work is conserved: deferred and passed-over requests hold nobody up."""
    line = Line()
    deferred, large = line.add("a"), line.add("b")
    for _ in range(6):
        line.queue.charge("c", 1000)
        line.add("c")
    line.queue.defer(deferred, PRODUCERS[0], 16)
    line.queue.begin_pass()
    assert line.queue.peek() is large
    line.queue.pass_over(large)
    assert line.admit().tenant == "c"
    assert line.admit().tenant == "c"
    line.queue.begin_pass()
    assert line.queue.peek() is large
    line.queue.pass_over(large)
    line.queue.wake(PRODUCERS[0], 16)
    assert line.queue.peek() is deferred
    line.queue.check_invariants()


def test_who_is_passed_over_ages_by_the_admissions_of_other_tenants() -> None:
    """A large request that finds no room, against another tenant's small ones without end."""
    line = Line(max_overtakes=4)
    large = line.add("large")
    num_others = 0
    while True:
        line.add("small")
        line.add("small")
        line.queue.begin_pass()
        if line.queue.peek() is large and line.queue.is_due(large):
            break
        if line.queue.peek() is large:
            line.queue.pass_over(large)
        assert line.queue.peek() is not large
        if line.queue.peek() is None:
            # It has become due in this pass.
            break
        line.admit(1)
        num_others += 1
        assert num_others < 20
    assert num_others == 4


def test_within_a_tenant_the_longest_prefix_still_goes_first() -> None:
    line = Line()
    for cached in (0, 5, 2, 9):
        line.add("a", cached=cached)
        line.add("b", cached=10 - cached)
    order = line.admit_all()
    arrivals = {
        tenant: [request.arrival for request in order if request.tenant == tenant]
        for tenant in "ab"
    }
    assert arrivals == {"a": [7, 3, 5, 1], "b": [2, 6, 4, 8]}
    assert tenants(order) == "abababab"


# -- priorities -------------------------------------------------------------------------------


def test_the_smaller_value_goes_first_within_a_tenant() -> None:
    line = Line()
    for priority in (5, -3, 0, -3, 100):
        line.add(priority=priority)
    assert [request.priority for request in line.admit_all()] == [-3, -3, 0, 5, 100]


def test_a_priority_is_nothing_to_other_tenants() -> None:
    line = Line()
    for _ in range(10):
        line.add("pushy", priority=-100)
        line.add("modest", priority=100)
    assert tenants(line.admit_all()) == "pushymodest" * 10


@settings(deadline=None)
@given(
    important=st.lists(st.integers(-5, 0), min_size=1, max_size=4, unique=True),
    num_ahead=st.integers(0, 3),
)
def test_nobody_starves_behind_more_important_ones(important: list[int], num_ahead: int) -> None:
    """p ahead of its own priority, c lines: at most (p + 1) (MAX_CLASS_WAIT + c) admissions."""
    line = Line()
    for _ in range(num_ahead):
        line.add(priority=7)
    patient = line.add(priority=7)
    bound = (num_ahead + 1) * (MAX_CLASS_WAIT + len(important) + 1)
    for number in range(bound + 1):
        for priority in important:
            line.add(priority=priority)
        if line.admit() is patient:
            break
        assert number < bound
    # And the important ones kept the most of it.
    assert number >= (num_ahead + 1) * MAX_CLASS_WAIT


def test_an_important_line_keeps_what_it_is_promised() -> None:
    line = Line()
    for _ in range(400):
        for priority in (0, 1, 2):
            line.add(priority=priority)
    order = [line.admit().priority for _ in range(20 * MAX_CLASS_WAIT)]
    assert order.count(0) >= len(order) * (MAX_CLASS_WAIT - 2) / (MAX_CLASS_WAIT + 1)
    assert order.count(1) >= 10
    assert order.count(2) >= 10


def test_two_hundred_priorities_are_served_in_turns() -> None:
    """More lines than MAX_CLASS_WAIT: a client's own doing, and still nobody starves."""
    line = Line()
    for _ in range(5):
        for priority in range(-100, 101):
            line.add(priority=priority)
    order = [line.admit().priority for _ in range(201 + MAX_CLASS_WAIT)]
    assert set(order) == set(range(-100, 101))


# -- memory -----------------------------------------------------------------------------------


def test_nothing_is_kept_of_tenants_that_are_gone() -> None:
    line = Line()
    for number in range(3000):
        line.add(f"tenant {number}", priority=number % 7)
        line.admit()
    assert len(line.queue._shares) <= 70
    assert not line.queue._tenants
    assert len(line.queue._turns) <= 64
    assert not line.queue._rotation


def test_nothing_is_kept_while_somebody_waits_on() -> None:
    """The stayer's turn is at the bottom of the heap, and others come and go above it."""
    line = Line()
    line.queue.charge("stays", 10**9)
    stays = line.add("stays")
    line.queue.defer(stays, PRODUCERS[0], 5)
    for number in range(3000):
        line.queue.remove(line.add(f"tenant {number}"))
    assert len(line.queue._turns) <= 64 + 4
    assert len(line.queue._shares) <= 70
    line.queue.wake_all(PRODUCERS[0], 5)
    assert line.queue.peek() is stays


def test_forgetting_changes_no_turn() -> None:
    """What is forgotten is what the next lift makes up for."""
    shares = Shares()
    for number in range(10):
        shares.charge(f"t{number}", number)
    shares.forget(5, keep={"t2"})
    assert len(shares) == 5
    for number in range(10):
        shares.lift(f"t{number}", 5)
        assert shares.served(f"t{number}") == max(number, 5)


def test_unknown_requests_are_an_error() -> None:
    with pytest.raises(KeyError):
        FairQueue(1).remove(make_request(1))
