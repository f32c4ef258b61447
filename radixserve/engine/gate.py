"""The gate in front of the queue: whoever would have to wait for too long is told so at once.

Bounded are the requests that wait, their prompt tokens, and the time that a new one would wait,
as estimated (``start_rate.py``). A request waits from ``enter`` until the engine admits it
(``observe`` is told) or it ends (``leave``).

Why a bound on the wait keeps an overloaded server quick: what an accepted request sees until its
first token is its wait and its prompt's computation. The second is bounded by the batch, whatever
the load; so with the first bounded, too, ten times the requests make no longer waits than just too
many do. At capacity the queue is at its bound now and then already, by chance.

Tenants. A bound is met only if *both* meet it: the queue as a whole, and the tenant's own part of
it times the number of tenants that wait. The second is what admission makes of it, being fair
between tenants (``scheduler/fair_queue.py``): of ``m`` tenants each waits behind ``m`` times its
own. So one tenant alone may use all of the queue; *one of m tenants is never refused before it has
an m-th of it*, however many requests of others wait; one that has nothing waiting, never. All
together may exceed a bound by ``1/2 + 1/3 + ... + 1/m`` of it, if they come one after the other.

Priorities. Requests of the same tenant with a larger value are not waited for; they do count as
requests and tokens.

Before a few requests have been seen to start, nothing is known of the wait, and only the bounds of
requests and tokens hold.

No I/O, no engine, no event loop; the clock is given. Costs: O(priorities of the tenant) per call.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from radixserve.config import QueueLimits
from radixserve.engine.start_rate import StartRate
from radixserve.errors import OverloadedError
from radixserve.ids import RequestId
from radixserve.types import EngineStats, RefusalReason

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
"""Clients take no heed of what is longer: they then come back sooner."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    tenant: str
    priority: int
    num_tokens: int


@dataclass(slots=True)
class _Load:
    num_requests: int = 0
    num_tokens: int = 0

    def add(self, other: "_Load", times: int = 1) -> None:
        self.num_requests += times * other.num_requests
        self.num_tokens += times * other.num_tokens


class Gate:
    """What waits, by tenant and priority, and whether one more may."""

    def __init__(self, limits: QueueLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._rate = StartRate()
        self._waiting: dict[RequestId, _Waiting] = {}
        self._total = _Load()
        self._tenants: dict[str, dict[int, _Load]] = {}
        """By tenant and priority; none that is empty."""
        self.refused: Counter[RefusalReason] = Counter()
        """How many met which bound."""

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def expected_wait_s(self) -> float:
        """How long all that wait now will take to be started."""
        return self._wait_s(self._total)

    def enter(
        self,
        request_id: RequestId,
        num_prompt_tokens: int,
        *,
        tenant: str = "",
        priority: int = 0,
        deadline_s: float | None = None,
        follows: RequestId | None = None,
    ) -> None:
        """Let a request wait. *Raises* ``OverloadedError``; then it does not. One that ``follows``
        another, of the same client's request, is let in as that one was."""
        assert request_id not in self._waiting, f"{request_id} waits already"
        if follows is None:
            self._check(num_prompt_tokens, tenant, priority, deadline_s)
        load = _Load(1, num_prompt_tokens)
        self._waiting[request_id] = _Waiting(tenant, priority, num_prompt_tokens)
        self._tenants.setdefault(tenant, {}).setdefault(priority, _Load()).add(load)
        self._total.add(load)

    def leave(self, request_id: RequestId) -> None:
        """A request waits no more, for whatever reason. Does nothing if it did not."""
        waiting = self._waiting.pop(request_id, None)
        if waiting is None:
            return
        load = _Load(1, waiting.num_tokens)
        self._total.add(load, -1)
        own = self._tenants[waiting.tenant]
        own[waiting.priority].add(load, -1)
        if not own[waiting.priority].num_requests:
            del own[waiting.priority]
            if not own:
                del self._tenants[waiting.tenant]

    def observe(self, admitted: Iterable[RequestId], stats: EngineStats) -> None:
        """A step of the engine: who was admitted in it, and its figures after it."""
        for request_id in admitted:
            self.leave(request_id)
        self._rate.observe(stats, self._clock())

    def _check(self, num_tokens: int, tenant: str, priority: int, deadline_s: float | None) -> None:
        limits = self._limits
        lines = self._tenants.get(tenant, {})
        num_tenants = len(self._tenants) + (tenant not in self._tenants)
        # The tenant's own times the number of tenants; of these, what comes before this request.
        part, before = _Load(), _Load()
        # The tenant's own that come after it.
        behind = _Load()
        for value, load in lines.items():
            part.add(load, num_tenants)
            if value <= priority:
                before.add(load, num_tenants)
            else:
                behind.add(load)
        num_requests = min(self._total.num_requests, part.num_requests)
        if num_requests >= limits.max_queued_requests:
            self._refuse(
                "requests",
                f"{num_requests} requests wait already, and {limits.max_queued_requests} may (the "
                "server's --max-queued-requests)",
            )
        queued_tokens = min(self._total.num_tokens, part.num_tokens)
        # A prompt larger than the bound may wait if it waits alone.
        if queued_tokens and queued_tokens + num_tokens > limits.max_queued_tokens:
            self._refuse(
                "tokens",
                f"{queued_tokens} prompt tokens wait already, {num_tokens} more are too many: "
                f"{limits.max_queued_tokens} may (the server's --max-queued-tokens)",
            )
        ahead = _Load(self._total.num_requests, self._total.num_tokens)
        ahead.add(behind, -1)
        wait_s = min(self._wait_s(ahead), self._wait_s(before))
        if wait_s > limits.max_queue_s:
            self._refuse(
                "wait",
                f"your request would wait for about {wait_s:.1f} s, and {limits.max_queue_s:g} s "
                "are the limit (the server's --max-queue-s)",
            )
        if deadline_s is not None and wait_s > deadline_s:
            self._refuse(
                "wait",
                f"your request would wait for about {wait_s:.1f} s, longer than the "
                f"{deadline_s:g} s that it has",
            )

    def _refuse(self, reason: RefusalReason, why: str) -> None:
        self.refused[reason] += 1
        retry_after_s = min(max(self.expected_wait_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
        raise OverloadedError(
            f"the server is overloaded: {why}; try again in {math.ceil(retry_after_s)} s",
            retry_after_s=retry_after_s,
        )

    def _wait_s(self, load: _Load) -> float:
        return self._rate.wait_s(load.num_requests, load.num_tokens, self._clock())
