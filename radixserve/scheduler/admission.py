"""From waiting to running: who is next, whether somebody computes its prefix already, and whether
there is room.

Room is asked for the whole of a request's known tokens, for what the running ones still lack, and
for one page of growth each, so that an admission is not followed by a preemption. Growth beyond
that is not reserved: answers may end early.

Knows queues, producers and pages; no token budget (the scheduler stops asking when it is spent).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from radixserve.cache.prefix_cache import Finding, PrefixCache
from radixserve.errors import OutOfPagesError
from radixserve.ids import Namespace, RequestId, TokenArray
from radixserve.request import Request, Status
from radixserve.scheduler.fair_queue import FairQueue
from radixserve.scheduler.loads import NOTHING_LOADED, Loaded, Loads
from radixserve.scheduler.policy import MAX_PASSED_OVER, MAX_PROBES, NUM_REFRESHED
from radixserve.scheduler.producers import Producers
from radixserve.scheduler.running import Running
from radixserve.types import CacheExplanation, CacheReport, MissCause


class Admission:
    """Decides which waiting requests start to run."""

    def __init__(
        self,
        cache: PrefixCache,
        waiting: FairQueue,
        producers: Producers,
        running: Running,
        loads: Loads,
        *,
        max_running: int,
        enable_prefix_cache: bool = True,
    ) -> None:
        self._cache = cache
        self._waiting = waiting
        self._producers = producers
        self._running = running
        self._loads = loads
        loads.on_loaded = self._loaded
        self._max_running = max_running
        self._enable_prefix_cache = enable_prefix_cache
        self.prompt_tokens = 0
        """Prompt tokens of all requests at their first admission, since start."""
        self.cached_tokens = 0
        """Those of them that the tree held, or the tiers below."""
        self.host_tokens = 0
        """Those of these that were loaded from host memory."""
        self.disk_tokens = 0
        """Those of these that were loaded from files."""
        self.in_flight_tokens = 0
        """Those of these that were computed while the request waited for them."""
        self.causes: Counter[MissCause] = Counter()
        """First admissions by the cause of their miss."""
        self.admitted: list[RequestId] = []
        """Who was admitted for the first time since somebody emptied this."""

    def wait(self, request: Request, *, preempted: bool = False) -> None:
        """Queue a request that is new, was preempted, or found no room to fork."""
        request.status = Status.WAITING
        self._waiting.add(request, self._match(request), preempted=preempted)

    def newcomers(self, max_tokens: int | None = None) -> Iterator[Request]:
        """Start waiting requests one by one, for as long as the caller asks and there is room.

        Requests with more than ``max_tokens`` to run, and those for whose pages there is no room
        just now, are passed over in favour of smaller ones; but once one is past its deadline
        nobody is admitted before it. Lazy: each is started when asked for. At most ``MAX_PROBES``
        are looked at per call.
        """
        self._waiting.begin_pass()
        num_passed_over = 0
        for due in self._waiting.rotate(NUM_REFRESHED):
            self._waiting.estimate(due, self._match(due))
        for _ in range(MAX_PROBES):
            request = self._waiting.peek()
            if request is None or len(self._running) >= self._max_running:
                return
            num_cached_tokens = self._match(request)
            if num_cached_tokens < self._waiting.num_cached_estimate(request):
                # Evicted since: it may not be the first any more. With the estimate now right it
                # comes up again if it still is.
                self._waiting.estimate(request, num_cached_tokens)
                continue
            production = None
            if not request.is_to_score:
                production = self._producers.find(request, num_cached_tokens)
            if production is not None:
                self._waiting.defer(request, production.producer, production.num_shared_tokens)
                if request.num_matched_before_wait is None:
                    request.num_matched_before_wait = num_cached_tokens
                continue
            is_due = self._waiting.is_due(request)
            is_long = max_tokens is not None and request.num_tokens - num_cached_tokens > max_tokens
            if (is_due or not is_long) and self._start(request, num_cached_tokens):
                yield request
            elif is_due or num_passed_over == MAX_PASSED_OVER:
                return
            else:
                self._waiting.pass_over(request)
                num_passed_over += 1

    def _start(self, request: Request, num_cached_tokens: int) -> bool:
        """Let a request run if its known tokens fit beside everybody else's."""
        cache = self._cache
        num_pages = self._num_pages(request.num_tokens)
        num_promised = self._running.num_pages_lacking() + len(self._running)
        if not self._has_room(num_pages - num_cached_tokens // cache.page_size + num_promised):
            return False
        # A match that ends inside a page keeps that page and a copy of it: one more page than the
        # tokens need. Whoever needs the whole pool to finish cannot have it.
        whole_pages_only = self._num_pages(request.max_total_tokens) >= cache.total_pages
        # A page of which the tree holds the beginning may be loaded as a whole.
        below = self._loads.find(request, num_cached_tokens)
        finding: Finding | None = None
        if request.num_cached_tokens is None:
            # Before `acquire`: to make room it may evict what would have shown the cause.
            finding = self._explain(
                request.namespace,
                request.matchable_ids,
                whole_pages_only=whole_pages_only and below is None,
            )
            if request.is_to_score:
                finding = replace(finding, cause="scored", evicted_s_ago=None)
        try:
            lease = cache.acquire(
                request.namespace,
                request.matchable_ids,
                whole_pages_only=whole_pages_only or below is not None,
                use=request.use,
            )
        except OutOfPagesError:
            return False
        if not self._has_room(num_pages - len(lease.page_table) + num_promised):
            # Locking the match took its pages out of what can be evicted.
            cache.give_back(lease)
            return False
        self._waiting.admit(request)
        num_computed_tokens = lease.num_cached_tokens
        if finding is not None:
            self.admitted.append(request.request_id)
            num_to_compute = request.num_prompt_tokens - num_computed_tokens
            if below is None:
                assert finding.num_tokens == num_computed_tokens, f"{finding} is not what {lease}"
                self._report(request, finding)
            else:
                num_to_compute -= below.num_pages * cache.page_size
            self._waiting.charge(request.tenant, num_to_compute)
        if below is not None:
            self._loads.begin(request, below, finding)
        self._running.enter(request, lease, num_computed_tokens)
        return True

    def explain(
        self, namespace: Namespace, prompt: TokenArray, *, looks_elsewhere: bool
    ) -> CacheExplanation:
        """What ``prompt`` (int32[n], n >= 1) would find in the cache now, and why no more; and, for
        those who may know, whether other namespaces hold more. *Cost*: ``PrefixCache.explain``, and
        where it ``looks_elsewhere`` a match in every namespace."""
        tokens = prompt[:-1]
        finding = self._explain(namespace, tokens)
        below = self._loads.behind(namespace, tokens, finding.num_tokens)
        host_tokens = disk_tokens = 0
        if below is not None:
            host_tokens = below.held.num_host_pages * self._cache.page_size
            disk_tokens = below.held.num_disk_pages * self._cache.page_size
        return CacheExplanation(
            num_prompt_tokens=len(prompt),
            matched_tokens=finding.num_tokens,
            host_tokens=host_tokens,
            disk_tokens=disk_tokens,
            cause=finding.cause,
            evicted_seconds_ago=finding.evicted_s_ago,
            in_other_namespaces=(
                self._cache.is_held_elsewhere(namespace, tokens, finding.num_tokens)
                if looks_elsewhere
                else None
            ),
        )

    def _explain(
        self, namespace: Namespace, tokens: TokenArray, *, whole_pages_only: bool = False
    ) -> Finding:
        finding = self._cache.explain(namespace, tokens, whole_pages_only=whole_pages_only)
        if not self._enable_prefix_cache:
            return replace(finding, cause="cache_off", evicted_s_ago=None)
        return finding

    def _loaded(self, request: Request, finding: Finding | None, loaded: Loaded) -> None:
        """A request has loaded what was to be had, and knows how its prefix fared: with the tree,
        where its match was cut at a page border, and below."""
        if finding is None:
            return
        size = self._cache.page_size
        whole = finding.whole_pages(size)
        if loaded.num_tokens:
            num_left = request.num_prompt_tokens - 1 - whole.num_tokens - loaded.num_tokens
            whole = replace(finding, num_tokens=whole.num_tokens)
            if num_left < size:
                cause: MissCause = "whole_pages" if num_left else "complete"
                whole = replace(whole, cause=cause, evicted_s_ago=None)
        self._report(request, whole, loaded)
        # At its admission it was expected not to compute these.
        self._waiting.charge(request.tenant, loaded.num_lost_tokens)

    def _report(self, request: Request, finding: Finding, loaded: Loaded = NOTHING_LOADED) -> None:
        """Note, once, how a request's prefix fared."""
        num_cached_tokens = finding.num_tokens + loaded.num_tokens
        request.num_cached_tokens = num_cached_tokens
        before = request.num_matched_before_wait
        num_in_flight = 0 if before is None else max(0, finding.num_tokens - before)
        self.prompt_tokens += request.num_prompt_tokens
        self.cached_tokens += num_cached_tokens
        self.host_tokens += loaded.num_host_tokens
        self.disk_tokens += loaded.num_disk_tokens
        self.in_flight_tokens += num_in_flight
        self.causes[finding.cause] += 1
        request.cache_report = CacheReport(
            device_tokens=finding.num_tokens - num_in_flight,
            host_tokens=loaded.num_host_tokens,
            disk_tokens=loaded.num_disk_tokens,
            in_flight_tokens=num_in_flight,
            computed_tokens=request.num_prompt_tokens - num_cached_tokens,
            cause=finding.cause,
            evicted_seconds_ago=finding.evicted_s_ago,
        )

    def _has_room(self, num_pages: int) -> bool:
        if not self._running:
            # Everything can be evicted, and intake has seen to it that one request fits the pool.
            return True
        return num_pages <= self._cache.free_pages + self._cache.cached_pages

    def _match(self, request: Request) -> int:
        """How many of the tokens that a waiting request may take from the cache are there."""
        return self._cache.match(request.namespace, request.matchable_ids)

    def _num_pages(self, num_tokens: int) -> int:
        return -(-num_tokens // self._cache.page_size)
