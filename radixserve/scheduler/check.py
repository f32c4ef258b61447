"""Whether queues, running requests, leases and cache agree: for tests.

*Cost*: O(everything).
"""

from collections.abc import Iterable

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.request import Request, Status
from radixserve.scheduler.ahead import Ahead
from radixserve.scheduler.fair_queue import FairQueue
from radixserve.scheduler.in_flight import InFlight
from radixserve.scheduler.loads import Loads
from radixserve.scheduler.running import Running


def check(
    live: Iterable[Request],
    running: Running,
    waiting: FairQueue,
    in_flight: InFlight,
    loads: Loads,
    ahead: Ahead,
    cache: PrefixCache,
) -> None:
    """*Raises* ``AssertionError`` that says what is broken. ``live``: all that have not ended."""
    leases = []
    for request in running:
        assert request.status is Status.RUNNING, request
        assert request.lease is not None, request
        assert request.num_computed_tokens < request.num_tokens, request
        assert request.num_launched_tokens <= request.lease.num_reserved_tokens, request
        assert request.lease.num_committed_tokens <= request.num_computed_tokens, request
        leases.append(request.lease)
    for request in waiting:
        assert request.status is Status.WAITING, request
        assert request.lease is None, request
        assert request.num_launched_tokens == request.num_pending_tokens == 0, request
    assert len(list(live)) == len(running) + len(waiting), "a request is lost"
    arrivals = [request.arrival for request in running]
    assert arrivals == sorted(arrivals), "running requests are out of order"
    in_flight.check_invariants(running)
    waiting.check_invariants()
    loads.check_invariants(running.as_tuple())
    ahead.check_invariants()
    if ahead.lease is not None:
        leases.append(ahead.lease)
    cache.check_invariants(leases)
