"""All requests that wait for admission: whose turn it is, tenant before priority before prefix.

    tenant       who has been served least (``shares.py``)
    priority     within a tenant: the smallest value first, with aging (``tenant_queue.py``)
    line         within both: the longest cached prefix first, with aging (``waiting.py``)

What a tenant is guaranteed. Between two tenants that both have candidates, the one with the
smaller counter is next. So while both go on having some, *their counters never differ by more than
U*: the most that one prompt, and what the tenant then has running, can still cost. Nobody else's
flood changes that. In particular *a tenant that waits anew, and has been served no more than those
who wait, has its first request admitted after at most one of each of them*. Work is conserved: a
tenant that is alone is served as if there were no tenants, and whose turn finds nothing to admit
(deferred, passed over) loses it to the next.

How the aging bound reads: with ``p`` requests of its own tenant and priority ahead, a request is
admitted after at most ``p + max_overtakes`` others *of its line*; its line has one in
``MAX_CLASS_WAIT + c`` admissions of its tenant, and its tenant its share as above. Who is past its
deadline, and next by all this, lets nobody go before it; and who is passed over for want of room
ages by every admission made instead, whosesoever.

Not bounded here is how long the running ones run: nobody is preempted for being served too much.

With one tenant and one priority all of it is ``WaitingQueue``, in order, bound and costs. Costs
otherwise: O(log) more, O(tenants waiting) when a tenant comes to wait anew.
"""

import heapq
from collections import deque
from collections.abc import Iterator

from radixserve.request import Request
from radixserve.scheduler.shares import Shares
from radixserve.scheduler.tenant_queue import TenantQueue
from radixserve.scheduler.waiting import WaitingQueue


class FairQueue:
    """All waiting requests. Owned by the scheduler. Reads as ``WaitingQueue`` does."""

    def __init__(self, max_overtakes: int) -> None:
        self._max_overtakes = max_overtakes
        self._shares = Shares()
        self._lines: dict[Request, WaitingQueue] = {}
        self._tenants: dict[str, TenantQueue] = {}
        """Those that wait."""
        self._last_to_leave = ""
        """Whose last waiting request left last."""
        self._turns: list[tuple[int, int, TenantQueue]] = []
        """(counter, ordinal, tenant): a heap of those that may have candidates. Counters only rise,
        so one that is out of date is no larger than the true one, and is put right at the top."""
        self._num_turns = 0
        self._rotation: deque[WaitingQueue] = deque()
        self._deferred_behind: dict[Request, dict[WaitingQueue, TenantQueue]] = {}
        """By producer: in which lines somebody may be deferred behind it."""
        self._passed_over: dict[WaitingQueue, TenantQueue] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, request: Request) -> bool:
        return request in self._lines

    def __iter__(self) -> Iterator[Request]:
        return iter(self._lines)

    @property
    def num_deferred(self) -> int:
        return sum(line.num_deferred for tenant in self._tenants.values() for line in tenant)

    def served(self, tenant: str) -> int:
        """The tenant's counter of service."""
        return self._shares.served(tenant)

    def charge(self, tenant: str, num_tokens: int) -> None:
        """The tenant has been served so many tokens more, as ``shares.py`` counts them."""
        self._shares.charge(tenant, num_tokens)

    def add(self, request: Request, num_cached_estimate: int, *, preempted: bool = False) -> None:
        """Queue a new request, or one that was preempted (past its line's deadline at once)."""
        tenant = self._tenants.get(request.tenant)
        if tenant is None:
            self._lift(request.tenant)
            tenant = self._tenants[request.tenant] = TenantQueue(
                request.tenant, self._max_overtakes
            )
        line = tenant.line(request.priority)
        if not len(line):
            self._rotation.append(line)
        line.add(request, num_cached_estimate, preempted=preempted)
        self._lines[request] = line
        self._take_turns(tenant)

    def remove(self, request: Request) -> None:
        """Take out a request that was aborted. *Cost*: O(waiting in its line)."""
        self._lines[request].remove(request)
        self._left(request)

    def admit(self, request: Request) -> None:
        """Take out a request that starts to run."""
        line = self._lines[request]
        line.admit(request)
        for other in self._passed_over:
            if other is not line:
                other.overtaken()
        self._tenants[request.tenant].note_admission(request.priority)
        self._left(request)

    def peek(self) -> Request | None:
        """The candidate that is next in order, if there is any. Does not take it out.

        None also if one that was passed over has come to be due since: nobody may go before it.
        """
        if any(line.is_blocked for line in self._passed_over):
            return None
        while self._turns:
            served, ordinal, tenant = self._turns[0]
            if self._tenants.get(tenant.name) is not tenant:
                heapq.heappop(self._turns)
                continue
            current = self._shares.served(tenant.name)
            if current > served:
                heapq.heapreplace(self._turns, (current, ordinal, tenant))
                continue
            request = tenant.peek()
            if request is not None:
                return request
            # Until it has a candidate again.
            heapq.heappop(self._turns)
            tenant.in_turn = False
        return None

    def is_due(self, request: Request) -> bool:
        """Whether the request is past its deadline: nobody may be admitted before it."""
        return self._lines[request].is_due(request)

    def pass_over(self, request: Request) -> None:
        """Look at others first until ``begin_pass``: there is no room for this one just now."""
        line = self._lines[request]
        line.pass_over(request)
        self._passed_over[line] = self._tenants[request.tenant]

    def begin_pass(self) -> None:
        """Everybody who was passed over is a candidate again."""
        for line, tenant in self._passed_over.items():
            line.begin_pass()
            self._take_turns(tenant)
        self._passed_over.clear()

    def num_cached_estimate(self, request: Request) -> int:
        return self._lines[request].num_cached_estimate(request)

    def estimate(self, request: Request, num_cached_tokens: int) -> None:
        """Note what the tree holds of a waiting request now."""
        self._lines[request].estimate(request, num_cached_tokens)

    def rotate(self, count: int) -> Iterator[Request]:
        """About the next ``count`` candidates, the lines taking turns, whose estimates are due a
        refresh."""
        num_lines = len(self._rotation)
        for _ in range(min(count, num_lines)):
            line = self._rotation.popleft()
            self._rotation.append(line)
            yield from line.rotate(max(1, count // num_lines))

    def defer(self, request: Request, producer: Request, num_shared_tokens: int) -> None:
        """Set a request aside until ``producer`` has committed ``num_shared_tokens`` tokens."""
        line = self._lines[request]
        line.defer(request, producer, num_shared_tokens)
        self._deferred_behind.setdefault(producer, {})[line] = self._tenants[request.tenant]

    def wake(self, producer: Request, num_committed_tokens: int) -> None:
        """``producer`` has progressed: what it has committed of a waiter's prefix is cached now."""
        for line, tenant in self._deferred_behind.get(producer, {}).items():
            line.wake(producer, num_committed_tokens)
            self._take_turns(tenant)

    def wake_all(self, producer: Request, num_committed_tokens: int) -> None:
        """``producer`` has left (finished, aborted, preempted, failed)."""
        for line, tenant in self._deferred_behind.pop(producer, {}).items():
            line.wake_all(producer, num_committed_tokens)
            self._take_turns(tenant)

    def check_invariants(self) -> None:
        """Assert that lines, tenants and turns agree. *Cost*: O(waiting); for tests."""
        lines = [line for tenant in self._tenants.values() for line in tenant]
        assert all(len(line) for line in lines), "an empty line is kept"
        assert all(len(tenant) for tenant in self._tenants.values()), "an empty tenant is kept"
        assert sum(map(len, lines)) == len(self._lines), "a request is in no line, or in two"
        assert all(request in line for request, line in self._lines.items()), "in another line"
        assert set(self._rotation) == set(lines), "a line has no refreshes, or one that is gone"
        assert len(self._rotation) == len(lines), "a line has its refreshes twice"
        in_turn = [tenant for _, _, tenant in self._turns if tenant.in_turn]
        assert len(in_turn) == len(set(in_turn)), "a tenant has two turns"
        for tenant in self._tenants.values():
            has_turn = tenant in in_turn
            assert has_turn == tenant.in_turn, f"the turn of {tenant.name!r} is lost"
            assert has_turn or tenant.peek() is None, f"{tenant.name!r} is not looked at"

    def _take_turns(self, tenant: TenantQueue) -> None:
        """The tenant may have a candidate."""
        if not tenant.in_turn:
            tenant.in_turn = True
            self._num_turns += 1
            served = self._shares.served(tenant.name)
            heapq.heappush(self._turns, (served, self._num_turns, tenant))

    def _left(self, request: Request) -> None:
        line = self._lines.pop(request)
        if len(line):
            return
        tenant = self._tenants[request.tenant]
        tenant.drop(request.priority)
        self._rotation.remove(line)
        self._passed_over.pop(line, None)
        if not len(tenant):
            del self._tenants[tenant.name]
            self._last_to_leave = tenant.name
            # Void turns go when they come up, which those at the bottom may never do.
            if len(self._turns) > 64 + 4 * len(self._tenants):
                self._turns = [
                    turn for turn in self._turns if self._tenants.get(turn[2].name) is turn[2]
                ]
                heapq.heapify(self._turns)

    def _lift(self, tenant: str) -> None:
        """The tenant comes to wait anew: it is to have no claim from the time when it did not."""
        if self._tenants:
            floor = min(map(self._shares.served, self._tenants))
        else:
            floor = self._shares.served(self._last_to_leave)
        self._shares.lift(tenant, floor)
        if len(self._shares) > 64 + 4 * len(self._tenants):
            self._shares.forget(floor, keep=self._tenants.keys() | {self._last_to_leave})
