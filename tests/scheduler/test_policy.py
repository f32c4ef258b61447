"""The cheapest victim: whoever loses least, the youngest among equals, never the oldest."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import Namespace
from radixserve.request import Request
from radixserve.scheduler.policy import cheapest_victim
from tests.scheduler.requests import make_request


def running_request(
    cache: PrefixCache, arrival: int, num_cached: int, num_computed: int
) -> Request:
    """A request of whose computed tokens the first ``num_cached`` came from the tree."""
    tokens = np.arange(1, 41, dtype=np.int32)
    request = make_request(arrival, tokens.tolist())
    request.lease = cache.acquire(Namespace("warm"), tokens[:num_cached])
    request.num_computed_tokens = request.num_launched_tokens = num_cached + num_computed
    return request


def warm_cache() -> PrefixCache:
    cache = PrefixCache(num_pages=200, page_size=1)
    tokens = np.arange(1, 41, dtype=np.int32)
    lease = cache.acquire(Namespace("warm"), tokens)
    cache.reserve(lease, len(tokens))
    cache.release(lease, tokens)
    return cache


@given(
    running=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), min_size=2, max_size=8),
    order=st.randoms(use_true_random=False),
)
def test_loses_least_and_is_never_the_oldest(
    running: list[tuple[int, int]], order: random.Random
) -> None:
    cache = warm_cache()
    requests = [
        running_request(cache, arrival, cached, computed)
        for arrival, (cached, computed) in enumerate(running)
    ]
    stakes = [computed for _, computed in running]
    shuffled = list(requests)
    order.shuffle(shuffled)
    victim = cheapest_victim(shuffled)
    assert victim is not None
    assert victim is not requests[0]
    assert stakes[victim.arrival] == min(stakes[1:])
    assert victim.arrival == max(
        a for a, stake in enumerate(stakes) if a and stake == min(stakes[1:])
    )


def test_what_was_cached_counts_for_nothing() -> None:
    """Twenty cached tokens and two computed ones are less to lose than three computed ones."""
    cache = warm_cache()
    oldest = running_request(cache, 1, 0, 0)
    mostly_cached = running_request(cache, 2, 20, 2)
    computed = running_request(cache, 3, 0, 3)
    assert cheapest_victim([oldest, mostly_cached, computed]) is mostly_cached


def test_what_is_in_flight_is_at_stake() -> None:
    """By the time that it can be preempted it will have been computed."""
    cache = warm_cache()
    oldest = running_request(cache, 1, 0, 0)
    in_flight = running_request(cache, 2, 0, 2)
    in_flight.num_launched_tokens += 3
    computed = running_request(cache, 3, 0, 3)
    assert cheapest_victim([oldest, in_flight, computed]) is computed


def test_nobody_else_no_victim() -> None:
    assert cheapest_victim([]) is None
    assert cheapest_victim([running_request(warm_cache(), 1, 0, 3)]) is None
