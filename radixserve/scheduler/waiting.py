"""One line of requests that wait for admission: longest cached prefix first, within an aging bound.

Tenants and priorities have lines of their own (``fair_queue.py``); each is as if it were the only
one, and what is said here of admissions is said of those from this line.

Order. Among candidates the one with the longest cached prefix comes first (it is the cheapest to
run, and its pages are the likeliest to be evicted while it waits); ties go by arrival. Prefix
lengths are estimates, refreshed by the scheduler as the tree changes; a stale one costs order,
never correctness.

The aging bound. Longest-prefix-first alone starves requests that share nothing. Every request
therefore gets a deadline on arrival, counted in admissions, not in seconds:

    deadline = admissions so far + requests waiting ahead of it + max_overtakes

and as soon as that many admissions have happened the oldest candidate goes first, whatever the
others have cached. So *a request that finds p requests waiting is admitted after at most
p + max_overtakes others* (re-admissions of preempted requests, which were admitted before, and time
that it or one ahead of it spends deferred behind a running producer aside). A preempted request is
past its deadline. Whoever is passed over for want of room ages by admissions from other lines, too
(``overtaken``): else those could keep it from ever finding room.

Deferral. A request whose next whole page is just being computed by a running one (its *producer*)
is set aside until the producer has committed the tokens both share, or leaves. It is no candidate
meanwhile, and costs nothing per step.

This module knows neither pages nor budgets. Costs: every operation O(log n) amortised, but
``remove`` O(n).
"""

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from radixserve.request import Request


@dataclass(slots=True, eq=False)
class _Entry:
    request: Request
    arrival: int
    num_cached_estimate: int
    deadline: int
    producer: Request | None = None
    """Set while deferred."""
    passed_over: bool = False
    """Set for the rest of one pass of admission."""
    waiting: bool = True
    """False once admitted or removed; heaps drop such entries when they meet them."""

    def __lt__(self, other: "_Entry") -> bool:
        """Heaps compare entries only where arrivals tie: void and live items of one request."""
        return self.arrival < other.arrival

    def leave(self) -> None:
        """Admitted or removed. The heaps may keep the entry for long, but not the request alive."""
        self.waiting = False
        del self.request

    @property
    def is_candidate(self) -> bool:
        return self.waiting and self.producer is None and not self.passed_over


class WaitingQueue:
    """All waiting requests of one tenant and one priority. Owned by ``FairQueue``."""

    def __init__(self, max_overtakes: int) -> None:
        self._max_overtakes = max_overtakes
        self._num_admissions = 0
        self._num_deferred = 0
        self._entries: dict[Request, _Entry] = {}
        # Lazy heaps of candidates: an item is void if its entry no longer is a candidate or, in
        # `_by_prefix`, if its estimate has changed since.
        self._by_arrival: list[tuple[int, _Entry]] = []
        self._by_prefix: list[tuple[int, int, _Entry]] = []
        self._by_producer: dict[Request, list[tuple[int, int, _Entry]]] = {}
        self._rotation: deque[_Entry] = deque()
        self._passed_over: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request: Request) -> bool:
        return request in self._entries

    def __iter__(self) -> Iterator[Request]:
        return iter(self._entries)

    @property
    def num_deferred(self) -> int:
        return self._num_deferred

    @property
    def is_blocked(self) -> bool:
        """Whether one that was passed over has come to be due since: nobody may go before it."""
        return any(
            entry.waiting and self._num_admissions >= entry.deadline for entry in self._passed_over
        )

    def add(self, request: Request, num_cached_estimate: int, *, preempted: bool = False) -> None:
        """Queue a new request, or one that was preempted (which is past its deadline at once)."""
        deadline = self._num_admissions
        if not preempted:
            deadline += len(self._entries) + self._max_overtakes
        entry = _Entry(request, request.arrival, num_cached_estimate, deadline)
        self._entries[request] = entry
        self._rotation.append(entry)
        self._push(entry)

    def remove(self, request: Request) -> None:
        """Take out a request that was aborted. Who came after it has one less ahead.

        *Cost*: O(waiting).
        """
        self._take_out(request)
        for entry in self._entries.values():
            if entry.arrival > request.arrival:
                entry.deadline -= 1

    def admit(self, request: Request) -> None:
        """Take out a request that starts to run; everybody else has aged by one admission."""
        self._take_out(request)
        self._num_admissions += 1

    def _take_out(self, request: Request) -> None:
        entry = self._entries.pop(request)
        self._num_deferred -= entry.producer is not None
        entry.leave()

    def peek(self) -> Request | None:
        """The candidate that is next in order, if there is any. Does not take it out.

        None also if one that was passed over has come to be due since: nobody may go before it.
        """
        if self.is_blocked:
            return None
        oldest = self._oldest()
        if oldest is None or self._num_admissions >= oldest.deadline:
            return oldest.request if oldest else None
        while True:
            negated, _, entry = self._by_prefix[0]
            if entry.is_candidate and entry.num_cached_estimate == -negated:
                return entry.request
            heapq.heappop(self._by_prefix)

    def is_due(self, request: Request) -> bool:
        """Whether the request is past its deadline: nobody may be admitted before it."""
        return self._num_admissions >= self._entries[request].deadline

    def pass_over(self, request: Request) -> None:
        """Look at others first until ``begin_pass``: there is no room for this one just now."""
        entry = self._entries[request]
        entry.passed_over = True
        self._passed_over.append(entry)

    def overtaken(self) -> None:
        """Somebody of another line was admitted: who was passed over has aged by that."""
        for entry in self._passed_over:
            entry.deadline -= 1

    def begin_pass(self) -> None:
        """Everybody who was passed over is a candidate again."""
        for entry in self._passed_over:
            entry.passed_over = False
            if entry.is_candidate:
                self._push(entry)
        self._passed_over.clear()

    def num_cached_estimate(self, request: Request) -> int:
        return self._entries[request].num_cached_estimate

    def estimate(self, request: Request, num_cached_tokens: int) -> None:
        """Note what the tree holds of a waiting request now."""
        entry = self._entries[request]
        if entry.num_cached_estimate != num_cached_tokens:
            entry.num_cached_estimate = num_cached_tokens
            if entry.producer is None:
                self._push(entry)

    def rotate(self, count: int) -> Iterator[Request]:
        """The next ``count`` candidates in a round over all, whose estimates are due a refresh."""
        for _ in range(min(count, len(self._rotation))):
            entry = self._rotation.popleft()
            if entry.waiting:
                self._rotation.append(entry)
                if entry.producer is None:
                    yield entry.request

    def defer(self, request: Request, producer: Request, num_shared_tokens: int) -> None:
        """Set a request aside until ``producer`` has committed ``num_shared_tokens`` tokens."""
        entry = self._entries[request]
        self._num_deferred += entry.producer is None
        entry.producer = producer
        waiters = self._by_producer.setdefault(producer, [])
        heapq.heappush(waiters, (num_shared_tokens, request.arrival, entry))

    def wake(self, producer: Request, num_committed_tokens: int) -> None:
        """``producer`` has progressed: what it has committed of a waiter's prefix is cached now."""
        waiters = self._by_producer.get(producer)
        while waiters and waiters[0][0] <= num_committed_tokens:
            num_shared_tokens, _, entry = heapq.heappop(waiters)
            self._resume(entry, producer, num_shared_tokens)
        if waiters is not None and not waiters:
            del self._by_producer[producer]

    def wake_all(self, producer: Request, num_committed_tokens: int) -> None:
        """``producer`` has left (finished, aborted, preempted, failed).

        All that it leaves to its waiters is what it has committed, so their estimates come out
        equal and the oldest of them is next in line to produce the rest.
        """
        for num_shared_tokens, _, entry in self._by_producer.pop(producer, ()):
            self._resume(entry, producer, min(num_shared_tokens, num_committed_tokens))

    def _resume(self, entry: _Entry, producer: Request, num_cached_tokens: int) -> None:
        if entry.waiting and entry.producer is producer:
            entry.producer = None
            self._num_deferred -= 1
            entry.num_cached_estimate = num_cached_tokens
            self._push(entry)

    def _push(self, entry: _Entry) -> None:
        heapq.heappush(self._by_arrival, (entry.arrival, entry))
        heapq.heappush(self._by_prefix, (-entry.num_cached_estimate, entry.arrival, entry))
        # Void items go when they come up, which those at the bottom may never do: if nothing can be
        # admitted, or if requests with a longer prefix never cease to come.
        longest = max(len(self._by_arrival), len(self._by_prefix), len(self._rotation))
        if longest > 64 + 4 * len(self._entries):
            self._compact()

    def _oldest(self) -> _Entry | None:
        while self._by_arrival:
            entry = self._by_arrival[0][1]
            if entry.is_candidate:
                return entry
            heapq.heappop(self._by_arrival)
        return None

    def _compact(self) -> None:
        candidates = [entry for entry in self._entries.values() if entry.is_candidate]
        self._rotation = deque(self._entries.values())
        self._by_arrival = [(entry.arrival, entry) for entry in candidates]
        self._by_prefix = [
            (-entry.num_cached_estimate, entry.arrival, entry) for entry in candidates
        ]
        heapq.heapify(self._by_arrival)
        heapq.heapify(self._by_prefix)
