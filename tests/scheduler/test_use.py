"""What the eviction policy learns from requests that fork and that are preempted: they are one use
each, whatever happens to them. A return takes another request."""

import pytest

from radixserve.cache.return_time import ReturnTime
from tests.support.simulation import Simulation


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.01
        return self.now_s


def learning(sim: Simulation) -> ReturnTime:
    """Let the simulation's cache, still empty, evict by return time."""
    policy = ReturnTime(Clock(), sim.cache.total_pages, sim.cache.page_size)
    sim.cache.retention.policy = policy
    return policy


def num_returned(policy: ReturnTime) -> float:
    policy._statistics.count(policy._now())
    return float(policy._statistics.returned.sum())


@pytest.mark.parametrize("max_running", [2, 8])
def test_the_choices_of_a_request_return_to_nothing(depth: int, max_running: int) -> None:
    # Where only two may run, the other choices wait and are admitted one by one.
    sim = Simulation(max_in_flight=depth, max_running=max_running)
    policy = learning(sim)
    prompt = list(range(1, 11))
    sim.add("a", prompt, max_tokens=5, n=5)
    sim.run()
    assert num_returned(policy) == 0
    assert policy._num_touches == 1
    sim.add("b", [*prompt, 30])
    sim.run()
    assert num_returned(policy) == len(prompt)


def test_a_preempted_request_returns_to_nothing(depth: int) -> None:
    sim = Simulation(
        max_in_flight=depth, num_pages=12, page_size=4, max_running=3, max_batch_tokens=16
    )
    policy = learning(sim)
    for name, base in (("a", 1), ("b", 11), ("c", 21)):
        sim.add(name, [base + i for i in range(6)], max_tokens=24)
    sim.run()
    assert sim.scheduler.stats().preemptions > 0
    assert num_returned(policy) == 0
    assert policy._num_touches == 3
