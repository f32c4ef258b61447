"""Tenants and priorities in the whole scheduler: a flood beside a few, on the simulated device."""

import pytest

from radixserve.scheduler.policy import GENERATED_TOKEN_COST, cheapest_victim
from tests.scheduler.requests import make_request
from tests.support.simulation import Simulation


def prompt(number: int, length: int = 12) -> list[int]:
    """One that shares no page with another."""
    return [1 + number % 7, 1 + number // 7 % 7, 1 + number // 49 % 49, *range(1, length - 2)]


def flood(sim: Simulation, count: int, *, tenant: str = "heavy", max_tokens: int = 6) -> None:
    for number in range(count):
        sim.add(f"{tenant}{number}", prompt(number), max_tokens, tenant=tenant)


def steps_until(sim: Simulation, names: list[str]) -> int:
    for step in range(5000):
        if all((name, 0) in sim.ends for name in names):
            return step
        sim.step(check=step % 50 == 0)
    raise AssertionError(f"{names} have not ended")


def test_ten_requests_beside_a_thousand(depth: int) -> None:
    """Half of the engine is the light tenant's: its last answer takes twice as long as if it were
    alone, and as long as those that run when it comes. In turn it would take some 700 steps."""
    light = [f"light{number}" for number in range(10)]
    steps = {}
    for num_heavy in (0, 1000):
        sim = Simulation(max_in_flight=depth, max_running=8, num_pages=200)
        flood(sim, num_heavy)
        for _ in range(10):
            sim.step()
        for number, name in enumerate(light):
            sim.add(name, prompt(3000 + number), 6, tenant="light")
        steps[num_heavy] = steps_until(sim, light)
        assert ("heavy999", 0) not in sim.ends
    assert steps[1000] <= 2 * steps[0] + 6 * depth


def test_alone_a_tenant_gets_everything(depth: int) -> None:
    """Work is conserved: whose requests they are changes nothing about how long all take."""
    steps = []
    for light in ("heavy", "light"):
        sim = Simulation(max_in_flight=depth, max_running=8, num_pages=200)
        flood(sim, 150)
        for number in range(2):
            sim.add(f"light{number}", prompt(3000 + number), 6, tenant=light)
        steps.append(steps_until(sim, [f"heavy{number}" for number in range(150)]))
        sim.run()
        sim.assert_no_leaks()
    assert abs(steps[1] - steps[0]) <= 2


def test_computed_and_generated_tokens_count_and_cached_ones_do_not() -> None:
    sim = Simulation(num_pages=200, page_size=4)
    sim.add("first", prompt(1, 20), 5, tenant="a")
    sim.run()
    queue = sim.scheduler._waiting
    assert queue.served("a") == 20 + 5 * GENERATED_TOKEN_COST
    sim.add("again", prompt(1, 20), 5, tenant="a", n=3)
    sim.run()
    # One token of the prompt must run; the choices share it.
    assert queue.served("a") == 20 + 1 + (5 + 3 * 5) * GENERATED_TOKEN_COST
    assert sim.ends["again", 0].num_cached_tokens == 19


def test_a_preemption_is_not_charged() -> None:
    sim = Simulation(num_pages=10, page_size=4, max_running=4)
    for number in range(2):
        sim.add(f"r{number}", prompt(number, 8), 16, tenant="a")
    sim.run()
    assert sim.scheduler.stats().preemptions > 0
    assert sim.scheduler._waiting.served("a") == 2 * (8 + 16 * GENERATED_TOKEN_COST)


def test_admissions_are_told_once() -> None:
    sim = Simulation(num_pages=10, page_size=4, max_running=4)
    for number in range(4):
        sim.add(f"r{number}", prompt(number, 8), 16, n=1 + number % 2)
    told: list[str] = []
    while sim.scheduler.has_work:
        sim.step()
        told += sim.scheduler.admitted
    assert sim.scheduler.stats().preemptions > 0
    assert sorted(told) == ["r0", "r1", "r2", "r3"]


def test_the_important_go_first_and_the_others_end_too(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_running=1)
    sim.add("running", prompt(0), 4)
    sim.step()
    for number, priority in enumerate((3, 0, -2, 0)):
        sim.add(f"p{priority}/{number}", prompt(number + 1), 4, priority=priority)
    sim.run()
    assert sim.admitted == ["running", "p-2/2", "p0/1", "p0/3", "p3/0"]


def test_choices_that_find_no_room_keep_tenant_and_priority() -> None:
    sim = Simulation(max_running=1)
    sim.add("forks", prompt(0), 8, n=3, tenant="a", priority=-4)
    sim.add("other", prompt(1), 8, tenant="a")
    for _ in range(3):
        sim.step()
    waiting = [request for request in sim.scheduler._waiting if request.request_id == "forks"]
    assert [(one.index, one.tenant, one.priority) for one in waiting] == [
        (1, "a", -4),
        (2, "a", -4),
    ]
    sim.run()
    assert len(sim.ends) == 4


@pytest.mark.parametrize(("num_tenants", "victims"), [(1, "24"), (2, "12")])
def test_who_matters_least_is_preempted_first(num_tenants: int, victims: str) -> None:
    """Of each tenant only those with its largest value are asked; of these the cheapest."""
    sim = Simulation(num_pages=64)
    priorities = [0, 0, 5, -1, 5, 0]
    for number, priority in enumerate(priorities):
        tenant = f"t{number % num_tenants}"
        sim.add(str(number), prompt(number, 8 + number), 20, tenant=tenant, priority=priority)
    sim.step()
    running = sim.scheduler.running
    assert len(running) == 6
    # The later ones have the longer prompts. One tenant: 2 and 4 have its largest value. Two: 2 and
    # 4 of the first one; of the second one 1 and 5.
    for name in victims:
        victim = cheapest_victim(running)
        assert victim is not None
        assert victim.request_id == name
        running = tuple(request for request in running if request is not victim)


def test_the_oldest_is_no_victim_whatever_its_priority() -> None:
    oldest, other = make_request(1, priority=100), make_request(2, priority=-100)
    sim = Simulation()
    lease = sim.cache.acquire(other.namespace, other.token_ids[:-1])
    oldest.lease = other.lease = lease
    assert cheapest_victim([oldest, other]) is other
