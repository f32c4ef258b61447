"""A scheduler as small as can be over a cache, tiers and simulated memories.

It plans steps as the real one does, launches up to three, and lands them in order. A step's work is
done at any moment between its launch and its landing: with ``is_eager`` at once, else at the last.
A step that fails leaves junk where it was to write.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from radixserve.cache.prefix_cache import Lease, PageCopy, PrefixCache
from radixserve.errors import OutOfPagesError
from radixserve.ids import Namespace, PageId, TokenArray
from radixserve.tiers.costs import Costs
from radixserve.tiers.loading import Loading
from radixserve.tiers.moves import Load, Moves, SlotId
from radixserve.tiers.page_names import PageKey, PageNamer
from radixserve.tiers.tiers import Tiers
from tests.cache.failing_pool import FailingPool
from tests.cache.public_model import PublicModel, Tokens
from tests.support.slow_disk import SlowDisk
from tests.tiers.contents import DIGEST_BYTES, JUNK, Bytes, Contents


@dataclass(eq=False)
class Running:
    """A request as the scheduler would keep it."""

    namespace: Namespace
    tokens: list[int]
    lease: Lease = field(repr=False)
    num_computed: int
    num_launched: int
    loading: Loading | None = None
    generation: int = 0
    """Counts what makes its rows and loads in flight stale."""


@dataclass
class Span:
    """Tokens of one request in a plan: to be computed or loaded."""

    request: Running
    generation: int
    start: int
    end: int
    copy: PageCopy | None = None

    @property
    def is_stale(self) -> bool:
        return self.generation != self.request.generation


@dataclass
class Plan:
    moves: Moves
    rows: list[Span]
    loads: list[Span]
    writes: list[tuple[int, int, Bytes]]
    """Page, offset, content."""
    load_pages: list[tuple[Load, Namespace, Tokens]]
    """What each load is to bring."""
    is_performed: bool = False


def as_array(tokens: Tokens | list[int]) -> TokenArray:
    return np.array(tokens, dtype=np.int32)


class SmallScheduler:
    """Mutable; whoever drives it looks at everything."""

    def set_up(self, namer: PageNamer) -> None:
        """What outlives a process."""
        self.namer = namer
        self.page_size = namer.page_size
        self.contents = Contents(namer.page_size, namer)
        self.running: list[Running] = []
        self.in_flight: list[Plan] = []
        self.known: list[Tokens] = [()]
        self.ended: list[tuple[Namespace, Tokens]] = []
        self.public = PublicModel()
        self.files: dict[PageKey, Bytes] = {}

    def build(self, num_pages: int, num_slots: int, has_disk: bool) -> None:
        """All that a process has."""
        size = self.page_size
        self.pool = FailingPool(num_pages)
        self.cache = PrefixCache(num_pages, size, pool=self.pool)
        self.device = np.full((num_pages, size, DIGEST_BYTES), JUNK, np.uint8)
        self.host = np.full((num_slots, self.contents.page_bytes), JUNK, np.uint8)
        self.disk = self.make_disk() if has_disk else None
        self.tiers = Tiers(
            self.namer, self.host, self.cache.public_prefixes, Costs(size), self.disk
        )
        self.cache.tree.demoter = self.tiers

    def make_disk(self) -> Any:
        return SlowDisk(self.host, self.files)

    def name_public(self, prefixes: list[Tokens]) -> None:
        self.cache.set_public([as_array(prefix) for prefix in prefixes])
        self.known += prefixes
        self.public.name(prefixes)

    def attempt(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except OutOfPagesError:
            return None
        finally:
            self.pool.fails = False

    # Requests

    def admit_prompt(self, namespace: Namespace, prompt: Tokens) -> None:
        if len(self.running) == 5:
            return
        array = as_array(prompt)
        chain = self.tiers.chain(namespace, array)
        first = self.cache.match(namespace, array) // self.page_size
        held = self.tiers.held(chain, first, len(prompt) // self.page_size)
        lease = self.attempt(
            lambda: self.cache.acquire(namespace, array, whole_pages_only=held.num_pages > 0)
        )
        if lease is None:
            return
        request = Running(
            namespace, list(prompt), lease, lease.num_cached_tokens, lease.num_cached_tokens
        )
        if held.num_pages:
            assert lease.num_cached_tokens == first * self.page_size
            request.loading = self.tiers.begin(chain, first, held.num_pages)
        self.running.append(request)

    def launch(
        self,
        picks: set[int],
        num_tokens: int,
        max_loads: int,
        max_backups: int,
        *,
        is_eager: bool,
    ) -> None:
        """Plan a step and launch it."""
        if len(self.in_flight) == 3:
            self.land(count=1, ok=True)
        plan = Plan(Moves(), [], [], [], [])
        if self.running:
            for index in sorted({pick % len(self.running) for pick in picks}):
                request = self.running[index]
                if request.loading is not None and not request.loading.is_over:
                    self.plan_load(plan, request, max_loads)
                else:
                    self.plan_row(plan, request, num_tokens)
        self.tiers.plan_backups(self.cache.tree, max_backups)
        loads = tuple(load for load, _, _ in plan.load_pages)
        plan.moves = Moves(self.tiers.take_stores(), loads)
        targets = [store.slot for store in plan.moves.stores]
        assert len(targets) == len({*targets, *(load.slot for load in loads)}) - len(
            {load.slot for load in loads}
        )
        self.in_flight.append(plan)
        if is_eager:
            self.perform_all()

    def plan_load(self, plan: Plan, request: Running, max_pages: int) -> None:
        loading, size = request.loading, self.page_size
        assert loading is not None
        first = loading.next_page
        assert first * size == request.num_launched
        num_pages = min(max_pages, loading.end_page - first)
        self.attempt(lambda: self.cache.reserve(request.lease, (first + num_pages) * size))
        if request.lease.num_reserved_tokens < (first + num_pages) * size:
            loading.close()
            return
        slots = loading.take(num_pages)
        assert loading.next_page == first + len(slots)
        for page, slot in enumerate(slots, start=first):
            target = PageId(int(request.lease.page_table[page]))
            prefix = tuple(request.tokens[: (page + 1) * size])
            plan.load_pages.append((Load(slot, target), request.namespace, prefix))
        if slots:
            end = loading.next_page * size
            plan.loads.append(Span(request, request.generation, first * size, end))
            request.num_launched = end

    def plan_row(self, plan: Plan, request: Running, num_tokens: int) -> None:
        start, size = request.num_launched, self.page_size
        if start == len(request.tokens):
            if request.num_computed < start:
                return
            request.tokens.extend([num_tokens % 2] * (1 + num_tokens % 3))
        end = min(len(request.tokens), start + num_tokens)
        self.attempt(lambda: self.cache.reserve(request.lease, end))
        if request.lease.num_reserved_tokens < end:
            return
        is_first = request.num_launched == request.num_computed
        copy = request.lease.pending_copy if is_first else None
        plan.rows.append(Span(request, request.generation, start, end, copy))
        for position in range(start, end):
            page = int(request.lease.page_table[position // size])
            content = self.contents.computed(
                request.namespace, tuple(request.tokens[: position + 1])
            )
            plan.writes.append((page, position % size, content))
        request.num_launched = end

    # What the device does

    def perform_all(self) -> None:
        for plan in self.in_flight:
            if not plan.is_performed:
                self.perform(plan)

    def perform(self, plan: Plan) -> None:
        plan.is_performed = True
        for store in plan.moves.stores:
            self.host[store.slot] = self.device[store.page].reshape(-1)
        for load, namespace, prefix in plan.load_pages:
            self.device[load.page] = self.host[load.slot].reshape(self.page_size, -1)
            self.check_places(self.device[load.page], namespace, prefix)
        for row in plan.rows:
            if row.copy is not None:
                self.device[row.copy.target] = self.device[row.copy.source]
        for page, offset, content in plan.writes:
            self.device[page, offset] = content

    def spoil(self, plan: Plan) -> None:
        """The step fails, and leaves junk wherever it was to write."""
        plan.is_performed = True
        for store in plan.moves.stores:
            self.host[store.slot] = JUNK
        for load in plan.moves.loads:
            self.device[load.page] = JUNK
        for row in plan.rows:
            if row.copy is not None:
                self.device[row.copy.target] = JUNK
        for page, offset, _ in plan.writes:
            self.device[page, offset] = JUNK

    def check_places(self, places: Bytes, namespace: Namespace, prefix: Tokens) -> None:
        """That ``places`` hold the last ones of ``prefix``, which the namespace may see."""
        for offset, place in enumerate(places):
            wanted = prefix[: len(prefix) - len(places) + offset + 1]
            origin = self.contents.origin(place)
            assert origin is not None, f"junk in the place of {wanted}"
            assert origin.tokens == wanted, f"{origin.tokens} in the place of {wanted}"
            assert origin.namespace == namespace or wanted in self.public.ever, "another's tokens"

    def land(self, count: int, *, ok: bool) -> None:
        """The oldest steps have run, or failed."""
        for _ in range(min(count, len(self.in_flight))):
            plan = self.in_flight[0]
            if not plan.is_performed:
                (self.perform if ok else self.spoil)(plan)
            self.in_flight.pop(0)
            if ok:
                self.landed(plan)
            else:
                self.failed(plan)

    def landed(self, plan: Plan) -> None:
        self.tiers.landed(plan.moves)
        for span in plan.loads + plan.rows:
            if span.is_stale:
                continue
            span.request.num_computed = span.end
            if span.copy is not None:
                self.cache.finish_copy(span.request.lease)
        for load in plan.loads:
            if not load.is_stale:
                self.commit_one(load.request)

    def failed(self, plan: Plan) -> None:
        self.tiers.failed(plan.moves)
        for span in plan.loads:
            if not span.is_stale:
                self.stop_loading(span.request)
        for span in plan.rows:
            if not span.is_stale:
                self.end(span.request, span.request.lease.num_committed_tokens)

    def stop_loading(self, request: Running) -> None:
        assert request.loading is not None
        request.loading.close()
        request.num_launched = request.num_computed
        request.generation += 1

    def end(self, request: Running, num_kept: int) -> None:
        request.generation += 1
        if request.loading is not None:
            request.loading.close()
        kept = as_array(request.tokens[:num_kept])
        self.contents.expect(request.namespace, tuple(kept.tolist()))
        self.cache.release(request.lease, kept)
        self.running.remove(request)
        self.known.append(tuple(request.tokens))
        if num_kept:
            self.ended.append((request.namespace, tuple(request.tokens)))
        self.tiers.note_computed(request.namespace, kept)

    def commit_one(self, request: Running) -> None:
        computed = tuple(request.tokens[: request.num_computed])
        self.contents.expect(request.namespace, computed)
        self.cache.commit(request.lease, as_array(computed))

    # What must be true

    def check(self) -> None:
        """All of it."""
        self.everything_adds_up()
        self.slots_hold_what_their_names_say()
        self.computed_tokens_are_there()
        self.who_waits_has_a_reason()

    def everything_adds_up(self) -> None:
        self.cache.check_invariants([request.lease for request in self.running])
        self.tiers.check_invariants()
        info = self.tiers.info()
        counts = (info.host_free_pages, info.host_cached_pages, info.host_in_use_pages)
        assert min(counts) >= 0
        assert sum(counts) == info.host_total_pages == len(self.host)

    def slots_hold_what_their_names_say(self) -> None:
        slots = self.tiers._slots
        for slot in range(len(self.host)):
            key = slots.key(SlotId(slot))
            if key is not None:
                self.contents.check_page(self.host[slot], key.identity)

    def computed_tokens_are_there(self) -> None:
        for request in self.running:
            end = request.num_computed
            if request.lease.pending_copy is not None:
                end -= end % self.page_size
            for page in range(-(-end // self.page_size)):
                first = page * self.page_size
                number = int(request.lease.page_table[page])
                places = self.device[number, : min(end - first, self.page_size)]
                prefix = tuple(request.tokens[: min(end, first + self.page_size)])
                self.check_places(places, request.namespace, prefix)

    def who_waits_has_a_reason(self) -> None:
        """A read of its own, or no room; whoever has the room will let go of it."""
        for request in self.running:
            loading = request.loading
            if loading is None or not loading.is_waiting:
                continue
            assert self.disk is not None, "without files there is nothing to wait for"
            if not loading.pins():
                assert not self.tiers._slots.available_slots, f"{loading} waits for nothing"

    def settle_disk(self) -> None:
        """All jobs end, and well."""
        while self.disk is not None and self.disk.end_one():
            pass
