"""The scheduler's side of the tiers: running requests that load what lies below, page by page.

A request of which the tiers hold more than the tree is admitted as any other, with a lease, a seat
and room for all of its tokens. But it has no rows at first: the plans have loads of it, which count
as launched and then as computed, as rows do.

    0               num_computed    num_launched        end of the loading     num_tokens
    |== tree, landed ==|== in flight ==|---- to be loaded ----|--- to be computed ---|

It *loads* until all of its pages are planned, or the rest cannot be had: a file turns out damaged,
there is no page to load into, a step with one of its loads has failed. From the next plan on it
computes what is left. What it found is reported then (``on_loaded``), at the latest when it leaves:
no delta of it goes out before.

Pages are reserved as they are planned, before their slots are taken: what is evicted for them is
stored in the same plan, ahead of the loads. Nobody is preempted for a load: who gets no page
computes, and then makes room as others do.

Knows leases, and the tiers if there are any; no queues and no rows. Costs: O(loading requests) a
plan, O(1) for each page loaded, and O(tokens) to look for a request's pages.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from radixserve.cache.prefix_cache import Finding, PrefixCache
from radixserve.errors import OutOfPagesError
from radixserve.ids import Namespace, PageId, TokenArray
from radixserve.request import Request
from radixserve.scheduler.plan import PlannedLoad
from radixserve.scheduler.policy import MAX_PASSED_OVER
from radixserve.tiers.loading import Loading
from radixserve.tiers.moves import Load, Moves, Store
from radixserve.tiers.page_names import PageChain
from radixserve.tiers.tiers import Held, Tiers


@dataclass(frozen=True, slots=True)
class Below:
    """What the tiers hold of a request behind what the tree does, and is worth loading."""

    chain: PageChain
    first_page: int
    held: Held

    @property
    def num_pages(self) -> int:
        return self.held.num_host_pages + self.held.num_disk_pages


@dataclass(frozen=True, slots=True)
class Loaded:
    """How a request's loading ended: tokens by where they were loaded from."""

    num_host_tokens: int = 0
    num_disk_tokens: int = 0
    num_lost_tokens: int = 0
    """Expected, and not loaded in the end."""

    @property
    def num_tokens(self) -> int:
        return self.num_host_tokens + self.num_disk_tokens


NOTHING_LOADED = Loaded()


@dataclass(frozen=True, slots=True)
class _Taken:
    """One planned load: where it ends, and how many of its pages came from where."""

    start: int
    end: int
    num_host_pages: int
    num_disk_pages: int


@dataclass(slots=True)
class _Record:
    loading: Loading
    num_expected_tokens: int
    finding: Finding | None
    """Of a first admission: to be reported once it is known what was loaded."""
    taken: list[_Taken] = field(default_factory=list)
    is_over: bool = False
    """No more is to be planned; what was may still be in flight."""


class Loads:
    """Who loads. Owned by the scheduler. Without ``tiers`` nobody ever does."""

    def __init__(self, cache: PrefixCache, tiers: Tiers | None) -> None:
        self._cache = cache
        self._tiers = tiers
        if tiers is not None:
            cache.tree.demoter = tiers
        self._records: dict[Request, _Record] = {}
        self._chains: dict[Request, PageChain] = {}
        """Of those who were looked for last: who finds no room is looked for in every plan."""
        self.num_over = 0
        """How many requests have gone on from loading to computing, since start."""
        self.on_loaded: Callable[[Request, Finding | None, Loaded], None] = _nobody
        """Told once for each request that began to load, with what it was admitted with."""

    def __contains__(self, request: Request) -> bool:
        """Whether a request still has pages to load, and therefore gets no rows."""
        record = self._records.get(request)
        return record is not None and not record.is_over

    def find(self, request: Request, num_cached_tokens: int) -> Below | None:
        """What could be loaded of a waiting request: see ``behind``; it is hashed once."""
        if self._tiers is None:
            return None
        chain = self._tiers.chain(request.namespace, request.matchable_ids)
        return self._below(self._known(request, chain), num_cached_tokens)

    def _known(self, request: Request, chain: PageChain) -> PageChain:
        """The request's chain as far as it was made before, if that was this one."""
        known = self._chains.get(request)
        if (
            known is not None
            and known.num_pages == chain.num_pages
            and known.num_public_pages == chain.num_public_pages
        ):
            return known
        if len(self._chains) > MAX_PASSED_OVER:
            self._chains.clear()
        self._chains[request] = chain
        return chain

    def behind(
        self, namespace: Namespace, tokens: TokenArray, num_cached_tokens: int
    ) -> Below | None:
        """What could be loaded of ``tokens``, of which the tree holds ``num_cached_tokens``, for
        who only asks.

        *Cost*: O(tokens), hashed.
        """
        if self._tiers is None:
            return None
        chain = self._tiers.chain(namespace, tokens)
        return self._below(chain, num_cached_tokens, loads=False)

    def _below(
        self, chain: PageChain, num_cached_tokens: int, *, loads: bool = True
    ) -> Below | None:
        assert self._tiers is not None
        first_page = num_cached_tokens // self._cache.page_size
        held = self._tiers.held(chain, first_page, chain.num_pages, loads=loads)
        below = Below(chain, first_page, held)
        return below if below.num_pages else None

    def begin(self, request: Request, below: Below, finding: Finding | None) -> None:
        """A request that is about to run loads what was found; its lease ends where that begins.

        ``finding``: what is to be reported of its admission, and comes back by ``on_loaded``.
        """
        assert self._tiers is not None
        self._chains.pop(request, None)
        self._records[request] = _Record(
            # One page ahead: how many may be, the plan knows.
            self._tiers.begin(below.chain, below.first_page, below.num_pages, max_ahead=1),
            below.num_pages * self._cache.page_size,
            finding,
        )

    def collect(self) -> None:
        """Take in what the disk has done. To be called before a plan is made."""
        if self._tiers is not None:
            self._tiers.collect()

    def refresh(self) -> None:
        """Let those go on of whom nothing is left to load."""
        for request, record in tuple(self._records.items()):
            if record.loading.is_over:
                self._end(request, record)

    def plan(self, max_pages: int) -> list[tuple[PlannedLoad, list[Load]]]:
        """The next loads, of at most ``max_pages`` pages together, oldest request first.

        *Mutates* leases; evicts as needed. Who gets no page stops to load.
        """
        planned: list[tuple[PlannedLoad, list[Load]]] = []
        for request, record in sorted(self._records.items(), key=_arrival):
            if max_pages <= 0:
                break
            if record.is_over:
                continue
            assert self._tiers is not None, "somebody loads, and there are no tiers"
            record.loading.max_ahead = self._tiers.costs.max_read_pages(max_pages)
            record.loading.look_ahead()
            if record.loading.is_waiting:
                continue
            loads = self._take(request, record, max_pages)
            if loads:
                size = self._cache.page_size
                start = record.taken[-1].start
                planned.append((PlannedLoad(request, start, len(loads) * size), loads))
                max_pages -= len(loads)
            if record.loading.is_over and not record.is_over:
                self._end(request, record)
        return planned

    def take_stores(self, max_backups: int) -> tuple[Store, ...]:
        """What the plan that is being made is to store: all that was evicted since the last one,
        and at most ``max_backups`` pages for the disk's sake."""
        if self._tiers is None:
            return ()
        self._tiers.plan_backups(self._cache.tree, max_backups)
        return self._tiers.take_stores()

    def moved(self, moves: Moves) -> None:
        """The moves of a plan have been performed."""
        if self._tiers is not None:
            self._tiers.landed(moves)

    def landed(self, request: Request) -> None:
        """A load of a running request has landed, and counts as computed."""
        record = self._records.get(request)
        if record is not None:
            self._settle(request, record)

    def failed(self, moves: Moves, lost: Iterable[PlannedLoad]) -> None:
        """A step has failed. The requests of the loads ``lost`` live, are back where these began,
        and compute from there on."""
        if self._tiers is not None:
            self._tiers.failed(moves)
        for load in lost:
            record = self._records.get(load.request)
            if record is not None:
                record.taken = [taken for taken in record.taken if taken.start < load.start]
                self._end(load.request, record)

    def stop(self, request: Request) -> None:
        """A running request is about to leave: it loads no more. Nothing happens if it did not."""
        record = self._records.get(request)
        if record is not None:
            record.loading.close()
            self._report(request, record)

    def give_up_waiting(self) -> None:
        """The disk takes too long: who waits for it computes."""
        for request, record in tuple(self._records.items()):
            if record.loading.is_waiting:
                self._end(request, record)

    def give_up_in_vain(self) -> None:
        """Nothing is in flight and nothing could be planned. Who loads waits for the disk; unless
        that has nothing to do, and the waiting would be in vain: then it computes."""
        if self._tiers is not None and not self._tiers.is_busy:
            for request, record in tuple(self._records.items()):
                self._end(request, record)

    def recover(self, known: Collection[Moves], running: Collection[Request]) -> None:
        """Get over an interrupt: only the moves ``known`` will be performed."""
        if self._tiers is not None:
            self._tiers.recover(known)
        for request, record in tuple(self._records.items()):
            if request not in running:
                record.loading.close()
                del self._records[request]
                continue
            launched = request.num_launched_tokens
            if record.loading.next_page * self._cache.page_size != launched:
                record.taken = [taken for taken in record.taken if taken.end <= launched]
                self._end(request, record)

    def _take(self, request: Request, record: _Record, max_pages: int) -> list[Load]:
        """Reserve pages for the next slots of a request, and take these."""
        loading, lease, size = record.loading, request.lease, self._cache.page_size
        assert lease is not None
        first = loading.next_page
        assert first * size == request.num_launched_tokens, f"{request} does not load at {first}"
        num_pages = min(max_pages, loading.end_page - first)
        try:
            self._cache.reserve(lease, (first + num_pages) * size)
        except OutOfPagesError:
            self._end(request, record)
            return []
        num_host, num_disk = loading.num_host_pages, loading.num_disk_pages
        slots = loading.take(num_pages)
        record.taken.append(
            _Taken(
                first * size,
                (first + len(slots)) * size,
                loading.num_host_pages - num_host,
                loading.num_disk_pages - num_disk,
            )
        )
        pages = lease.page_table[first : first + len(slots)]
        return [Load(slot, PageId(int(page))) for slot, page in zip(slots, pages, strict=True)]

    def _end(self, request: Request, record: _Record) -> None:
        """Plan no more loads of a request."""
        if not record.is_over:
            record.is_over = True
            self.num_over += 1
            record.loading.close()
        self._settle(request, record)

    def _settle(self, request: Request, record: _Record) -> None:
        """Report what was loaded, if all of it has landed and no more is to come."""
        end = record.taken[-1].end if record.taken else 0
        if record.is_over and request.num_computed_tokens >= end:
            self._report(request, record)

    def _report(self, request: Request, record: _Record) -> None:
        del self._records[request]
        size = self._cache.page_size
        landed = [taken for taken in record.taken if taken.end <= request.num_computed_tokens]
        num_host = sum(taken.num_host_pages for taken in landed) * size
        num_disk = sum(taken.num_disk_pages for taken in landed) * size
        num_lost = record.num_expected_tokens - num_host - num_disk
        self.on_loaded(request, record.finding, Loaded(num_host, num_disk, num_lost))

    def check_invariants(self, running: Collection[Request]) -> None:
        """Assert that who loads runs, and stands where its loading does; and the tiers' own."""
        if self._tiers is not None:
            self._tiers.check_invariants()
        for request, record in self._records.items():
            assert request in running, f"{request} loads and does not run"
            assert not request.num_pending_tokens or record.is_over, request
            if not record.is_over:
                at = record.loading.next_page * self._cache.page_size
                assert at == request.num_launched_tokens, f"{request} is not at {at}"


def _arrival(item: tuple[Request, _Record]) -> int:
    return item[0].arrival


def _nobody(request: Request, finding: Finding | None, loaded: Loaded) -> None:
    """Nobody is told."""
