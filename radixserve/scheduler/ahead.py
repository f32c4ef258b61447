"""Prefixes that nobody has asked for yet, computed while nothing else is there to do.

A chat template may show an earlier answer otherwise than the model gave it: without its thinking,
say. Then the next turn finds the cache only as far as that answer:

    computed      system | user | assistant <think> hm </think> Yes.
    next turn     system | user | assistant Yes. | user ...
                                  ^^^^^^^^^^^^^^^^^^^^ certain to come; computed here, ahead of it

What is to come is not known here: prefixes are handed in. One at a time becomes a request that is
no request. It is in no queue and not among the running ones, samples nothing, says nothing, and is
in no figure but ``prefilled_tokens``. It exists only while nobody waits or runs:

- it begins, and gets another row, only if nobody does, and with no row of its own in flight;
- a row has at most ``MAX_STEP_TOKENS`` tokens, so a newcomer waits for one short step at most;
- whoever is added ends it at once. What it has computed is in the tree by then, the partial last
  page included, and its prefix goes back among those that wait, as the newest of its tenant.

A prefix is dropped when its turn has come: a request of its namespace begins with it. Also when
another one of its namespace does, which is the same conversation further on; and when a step of it
has failed. Tenants take turns, the newest of each first, and each has few (``fair_stack.py``).

Room: a prefix gets pages as everybody does, free ones first, then what the cache evicts first; but
at most a quarter of the pool beyond what is cached of it. What does not fit in is not computed.
One of which no more than a page is missing is left alone: a step costs more than it saves.

To the eviction policy what it matched has not been used again (that is the next turn's to do), and
what it has computed is new. Nothing crosses namespaces: it takes from the cache and gives to it as
a request of its namespace would.

Costs: ``add`` and ``make_way`` O(prefixes of the namespace x their tokens), vectorised; ``row`` a
match for each prefix begun.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from radixserve.cache.prefix_cache import Lease, PrefixCache
from radixserve.errors import OutOfPagesError
from radixserve.fair_stack import FairStack
from radixserve.ids import Namespace, RequestId, TokenArray
from radixserve.request import Request, Status
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.scheduler.fair_queue import FairQueue
from radixserve.scheduler.plan import PlannedRow
from radixserve.scheduler.running import Running

MAX_STEP_TOKENS: Final = 256
"""Most tokens a step: what a newcomer may have to wait for."""

MAX_POOL_PART: Final = 4
"""A prefix gets at most one part in so many of the pool's pages."""

MAX_PREFIXES: Final = 64
MAX_PREFIXES_PER_TENANT: Final = 8

_PARAMS: Final = SamplingParams(temperature=0.0).resolve(SamplingDefaults(), max_tokens=1, seed=0)
_NO_END: Final[frozenset[int]] = frozenset()


@dataclass(frozen=True, slots=True)
class _Prefix:
    """Tokens (int32[n]) with which a request of the namespace will begin."""

    namespace: Namespace
    tenant: str
    tokens: TokenArray

    def begins(self, namespace: Namespace, tokens: TokenArray) -> bool:
        """Whether these are such tokens."""
        length = len(self.tokens)
        return (
            self.namespace == namespace
            and length <= len(tokens)
            and bool(np.array_equal(self.tokens, tokens[:length]))
        )


class Ahead:
    """The prefixes that wait, and the one that is computed. Owned by the scheduler."""

    def __init__(
        self,
        cache: PrefixCache,
        running: Running,
        waiting: FairQueue,
        *,
        max_batch_tokens: int,
        is_on: bool = True,
    ) -> None:
        """Off, it computes nothing: where nobody finds what others have computed."""
        self._cache = cache
        self._running = running
        self._waiting = waiting
        self._is_on = is_on
        self._max_step_tokens = min(MAX_STEP_TOKENS, max_batch_tokens)
        self._prefixes: FairStack[_Prefix] = FairStack(
            max_items=MAX_PREFIXES, max_per_owner=MAX_PREFIXES_PER_TENANT
        )
        self._prefix: _Prefix | None = None
        """The one that is computed, by ``_request``."""
        self._request: Request | None = None
        self.prefilled_tokens = 0
        """Tokens computed here, since start."""

    def __len__(self) -> int:
        """How many prefixes wait or are computed."""
        return len(self._prefixes) + (self._request is not None)

    @property
    def lease(self) -> Lease | None:
        """What is held of the cache, if anything is."""
        return None if self._request is None else self._request.lease

    def owns(self, request: Request) -> bool:
        """Whether this is the request that is none."""
        return request is self._request

    def add(self, namespace: Namespace, tokens: TokenArray, tenant: str) -> None:
        """Have a prefix (int32[n]) computed when nobody waits or runs, or never."""
        if not self._is_on:
            return
        self._prefixes.drop(lambda prefix: prefix.begins(namespace, tokens))
        self._prefixes.push(tenant, _Prefix(namespace, tenant, tokens))

    def make_way(self, namespace: Namespace, prompt: TokenArray) -> None:
        """A request with this prompt is about to wait: whatever is computed here ends."""
        if self._request is not None:
            assert self._prefix is not None
            interrupted = self._prefix
            self._end(self._request.num_computed_tokens)
            self._prefixes.push(interrupted.tenant, interrupted)
        if len(self._prefixes):
            self._prefixes.drop(lambda prefix: prefix.begins(namespace, prompt))

    def forget(self, namespace: Namespace | None) -> None:
        """Compute nothing of a namespace, or (None) of any, that was handed in before."""
        if self._prefix is not None and namespace in (None, self._prefix.namespace):
            self.drop()
        self._prefixes.drop(lambda prefix: namespace in (None, prefix.namespace))

    def row(self) -> PlannedRow | None:
        """What to compute next, if nobody waits or runs. *Mutates* the cache as a row does."""
        if self._running or self._waiting:
            return None
        while self._request is None and (prefix := self._prefixes.pop()) is not None:
            self._begin(prefix)
        request = self._request
        if request is None or request.is_in_flight:
            return None
        assert request.lease is not None
        start = request.num_launched_tokens
        count = min(self._max_step_tokens, request.num_prompt_tokens - start)
        try:
            self._cache.reserve(request.lease, start + count)
        except OutOfPagesError:
            self.drop()
            return None
        return PlannedRow(request, start, count, num_samples=0)

    def landed(self, row: PlannedRow) -> None:
        """The row has run, and counts as computed (``InFlight.land_row``)."""
        request = self._request
        assert request is row.request
        assert request.lease is not None
        self.prefilled_tokens += row.num_scheduled_tokens
        if request.lease.pending_copy is not None:
            self._cache.finish_copy(request.lease)
        self._cache.commit(request.lease, request.token_ids[: request.num_computed_tokens])
        if request.num_computed_tokens == request.num_prompt_tokens:
            self._end(request.num_computed_tokens)

    def drop(self) -> None:
        """End what is computed, and do not come back to it. Only what was committed before stays:
        of the rest it is not known whether it is right."""
        if self._request is not None:
            assert self._request.lease is not None
            self._end(self._request.lease.num_committed_tokens)

    def _begin(self, prefix: _Prefix) -> None:
        """Make a request of it, unless there is next to nothing to compute, or no room."""
        cache = self._cache
        num_cached = cache.match(prefix.namespace, prefix.tokens)
        num_pages = num_cached // cache.page_size + cache.total_pages // MAX_POOL_PART
        # Cut for good: who is interrupted does not get another quarter.
        tokens = prefix.tokens[: num_pages * cache.page_size]
        if len(tokens) - num_cached <= cache.page_size:
            return
        try:
            lease = cache.acquire(prefix.namespace, tokens)
        except OutOfPagesError:
            return
        assert lease.num_cached_tokens == num_cached, f"{lease} is not the match of {num_cached}"
        # Nobody has come back to what was matched.
        lease.use.num_tokens = num_cached
        request = Request(
            RequestId("ahead"),
            tokens,
            _PARAMS,
            namespace=prefix.namespace,
            stop_token_ids=_NO_END,
            arrival=0,
            use=lease.use,
            tenant=prefix.tenant,
        )
        # Whatever token comes next: it is never run. Who runs always has one left.
        request.append(0)
        request.lease = lease
        request.num_cached_tokens = num_cached
        request.num_computed_tokens = request.num_launched_tokens = num_cached
        request.status = Status.RUNNING
        self._request, self._prefix = request, replace(prefix, tokens=tokens)

    def _end(self, num_kept_tokens: int) -> None:
        """Give its first computed tokens to the tree. A row in flight computes in vain."""
        request = self._request
        assert request is not None
        assert request.lease is not None
        self._cache.release(request.lease, request.token_ids[:num_kept_tokens])
        request.lease = None
        request.num_computed_tokens = request.num_launched_tokens = 0
        request.status = Status.FINISHED
        self._request = self._prefix = None

    def check_invariants(self) -> None:
        """Assert that it is in nobody's way. *Cost*: O(1); for tests."""
        request = self._request
        assert (request is None) == (self._prefix is None), "a prefix without a request"
        if request is not None:
            assert not self._running, "somebody runs beside what nobody has asked for"
            assert not self._waiting, "somebody waits for what nobody has asked for"
            assert request.lease is not None, request
            assert request.lease.num_committed_tokens <= request.num_computed_tokens, request
            assert request.num_computed_tokens < request.num_prompt_tokens, request
            assert request.num_launched_tokens <= request.lease.num_reserved_tokens, request
