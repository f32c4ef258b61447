"""The running requests: those that hold pages, oldest first.

Entering and leaving are the two moments at which a request's lease begins and ends, at which it
starts and stops to be a producer (``producers.py``), and at which those who waited for it are told.
Some of them load (``loads.py``) before they compute.
Owned by the scheduler, shared with admission. Costs: O(running) list operations.
"""

from bisect import insort
from collections.abc import Iterator, Sequence

from radixserve.cache.prefix_cache import Lease, PrefixCache
from radixserve.cache.retention import Keep
from radixserve.request import Request, Status
from radixserve.scheduler.fair_queue import FairQueue
from radixserve.scheduler.loads import Loads
from radixserve.scheduler.producers import Producers


class Running:
    """Who holds pages. Iterates oldest first."""

    def __init__(
        self, cache: PrefixCache, producers: Producers, waiting: FairQueue, loads: Loads
    ) -> None:
        self._cache = cache
        self._producers = producers
        self._waiting = waiting
        self._loads = loads
        self._requests: list[Request] = []

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def as_tuple(self) -> tuple[Request, ...]:
        return tuple(self._requests)

    def enter(self, request: Request, lease: Lease, num_computed_tokens: int) -> None:
        """Let a request run on ``lease``, whose first tokens are computed already."""
        request.lease = lease
        request.num_computed_tokens = request.num_launched_tokens = num_computed_tokens
        request.status = Status.RUNNING
        insort(self._requests, request, key=_arrival)
        self._producers.announce(request, lease.num_committed_tokens)

    def leave(self, request: Request, num_kept_tokens: int, keeps: Sequence[Keep] = ()) -> None:
        """End a request's lease, giving its first ``num_kept_tokens`` tokens to the tree.

        What steps in flight still do for it is in vain (``prefix_cache.py`` says why that harms
        nobody).
        """
        assert request.lease is not None
        # Before its progress is forgotten: what it has loaded is reported.
        self._loads.stop(request)
        self._requests.remove(request)
        self._producers.withdraw(request)
        committed = request.lease.num_committed_tokens
        self._cache.release(request.lease, request.token_ids[:num_kept_tokens], keeps)
        request.lease = None
        request.num_computed_tokens = request.num_launched_tokens = 0
        request.num_pending_tokens = 0
        self._waiting.wake_all(request, committed)

    def commit(self, request: Request) -> None:
        """Put newly full pages into the tree, and wake who waits for them. Cheap if none is."""
        lease = request.lease
        assert lease is not None
        size = self._cache.page_size
        if request.num_computed_tokens // size > lease.num_committed_tokens // size:
            self._cache.commit(lease, request.token_ids[: request.num_computed_tokens])
            self._producers.announce(request, lease.num_committed_tokens)
            self._waiting.wake(request, lease.num_committed_tokens)

    def appended(self, request: Request) -> None:
        """A token was appended: the page that the request is filling may be fully known now."""
        if request.lease is not None and request.num_tokens % self._cache.page_size == 0:
            self._producers.announce(request, request.lease.num_committed_tokens)

    def num_pages_lacking(self) -> int:
        """Pages that the running requests do not have yet for the tokens foreseen."""
        size = self._cache.page_size
        return sum(
            -(-request.num_foreseen_tokens // size) - request.lease.num_pages
            for request in self._requests
            if request.lease is not None
        )


def _arrival(request: Request) -> int:
    return request.arrival
