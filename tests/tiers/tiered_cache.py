"""A cache with tiers over simulated memories, one request and one step at a time."""

import numpy as np

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import Namespace, PageId, TokenArray
from radixserve.tiers.costs import Costs
from radixserve.tiers.loading import Loading
from radixserve.tiers.moves import Load, Moves, SlotId
from radixserve.tiers.page_names import PageNamer
from radixserve.tiers.tiers import Held, Tiers
from tests.cache.public_model import Tokens
from tests.support.slow_disk import SlowDisk
from tests.tiers.contents import DIGEST_BYTES, Contents

A, B = Namespace("a"), Namespace("b")
PAGE_SIZE = 4


def tokens_of(*parts: int | range) -> Tokens:
    """Token ids: numbers, and ranges of them."""
    return tuple(
        token for part in parts for token in (part if isinstance(part, range) else (part,))
    )


class CountingNamer(PageNamer):
    """Counts the tokens that it names."""

    num_tokens = 0

    def names_after(self, name: bytes, tokens: TokenArray) -> list[bytes]:
        type(self).num_tokens += len(tokens)
        return super().names_after(name, tokens)


class TieredCache:
    """Everything happens at once, but for files: these wait for ``settle``."""

    def __init__(
        self,
        num_pages: int = 40,
        num_slots: int = 40,
        *,
        has_disk: bool = False,
        namer: type[PageNamer] = PageNamer,
    ) -> None:
        self.namer = namer(b"f" * 32, PAGE_SIZE)
        self.cache = PrefixCache(num_pages, PAGE_SIZE)
        self.contents = Contents(PAGE_SIZE, self.namer)
        self.device = np.zeros((num_pages, PAGE_SIZE, DIGEST_BYTES), np.uint8)
        self.host = np.zeros((num_slots, self.contents.page_bytes), np.uint8)
        self.disk = SlowDisk(self.host)
        self.costs = Costs(PAGE_SIZE)
        self.tiers = Tiers(
            self.namer,
            self.host,
            self.cache.public_prefixes,
            self.costs,
            self.disk if has_disk else None,
        )
        self.cache.tree.demoter = self.tiers

    def run(self, namespace: Namespace, tokens: Tokens) -> None:
        """One request from beginning to end, all of it computed but what the tree holds."""
        array = np.array(tokens, dtype=np.int32)
        lease = self.cache.acquire(namespace, array)
        self.cache.reserve(lease, len(tokens))
        if lease.pending_copy is not None:
            self.device[lease.pending_copy.target] = self.device[lease.pending_copy.source]
            self.cache.finish_copy(lease)
        self.perform(Moves(self.tiers.take_stores()))
        for position in range(lease.num_cached_tokens, len(tokens)):
            page = lease.page_table[position // PAGE_SIZE]
            content = self.contents.computed(namespace, tokens[: position + 1])
            self.device[page, position % PAGE_SIZE] = content
        self.cache.release(lease, array)
        self.tiers.check_invariants()

    def perform(self, moves: Moves) -> None:
        """A step with these stores lands."""
        for store in moves.stores:
            self.host[store.slot] = self.device[store.page].reshape(-1)
        self.tiers.landed(moves)
        self.tiers.check_invariants()

    def evict(self, num_pages: int = 1000, *, lands: bool = True) -> None:
        """Evict, and store what goes."""
        self.cache.evict(num_pages)
        if lands:
            self.perform(Moves(self.tiers.take_stores()))
        self.tiers.check_invariants()

    def settle(self) -> None:
        """All that is under way in files ends, and is taken in."""
        while self.tiers.is_busy:
            self.disk.end_one()
            self.tiers.collect()
            self.tiers.check_invariants()

    def back_up(self, max_pages: int = 1000) -> int:
        """Plan backups once, and let them land."""
        num_pages = self.tiers.plan_backups(self.cache.tree, max_pages)
        self.perform(Moves(self.tiers.take_stores()))
        return num_pages

    def has_chores(self) -> bool:
        """As ``Tiers.has_chores``; a call, because mypy expects attributes to stay as they are."""
        return self.tiers.has_chores

    def has_news(self) -> bool:
        """As ``Tiers.has_news``."""
        return self.tiers.has_news

    def held(self, namespace: Namespace, tokens: Tokens, first_page: int = 0) -> Held:
        """What the tiers hold of a prefix."""
        chain = self.tiers.chain(namespace, np.array(tokens, dtype=np.int32))
        return self.tiers.held(chain, first_page, chain.num_pages)

    def begin(self, namespace: Namespace, tokens: Tokens, first_page: int = 0) -> Loading:
        """Begin to load all of a prefix, whether or not it is held."""
        chain = self.tiers.chain(namespace, np.array(tokens, dtype=np.int32))
        loading = self.tiers.begin(chain, first_page, chain.num_pages - first_page)
        self.tiers.check_invariants()
        return loading

    def check_slots(self, slots: list[SlotId], tokens: Tokens, first_page: int = 0) -> None:
        """That the slots hold the pages of ``tokens`` from ``first_page`` on."""
        for page, slot in enumerate(slots, start=first_page):
            places = self.host[slot].reshape(PAGE_SIZE, DIGEST_BYTES)
            for offset, place in enumerate(places):
                origin = self.contents.origin(place)
                assert origin is not None
                assert origin.tokens == tokens[: page * PAGE_SIZE + offset + 1]

    def page_of(self, tokens: Tokens, page: int, namespace: Namespace = A) -> PageId:
        """The device page that the tree has for a prefix's page."""
        array = np.array(tokens, dtype=np.int32)
        lease = self.cache.acquire(namespace, array, whole_pages_only=True)
        found = PageId(int(lease.page_table[page]))
        self.cache.give_back(lease)
        return found


TOKENS = tuple(range(40))
"""Ten pages."""


def in_host(num_slots: int = 40) -> TieredCache:
    """``TOKENS`` are in host memory, and nowhere else."""
    world = TieredCache(num_slots=num_slots)
    world.run(A, TOKENS)
    world.evict()
    return world


def in_files(num_slots: int = 40) -> TieredCache:
    """``TOKENS`` are in files, and nowhere else."""
    world = TieredCache(num_slots=40, has_disk=True)
    world.run(A, TOKENS)
    world.evict()
    world.settle()
    other = TieredCache(num_slots=num_slots, has_disk=True)
    other.disk.files.update(world.disk.files)
    other.contents = world.contents
    return other


def moves_of(slots: list[SlotId]) -> Moves:
    return Moves((), tuple(Load(slot, PageId(page)) for page, slot in enumerate(slots)))
