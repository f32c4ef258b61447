"""The tiers below the device pool, as scheduler and tree see them.

    device page --Store--> host slot --write--> file      demote, plan_backups; landed
    device page <--Load--- host slot <--read--- file      held, begin, Loading.take; landed

They hold whole pages, each under the name of the prefix that ends with it (``page_names.py``). The
tree stays what it is: a page that is loaded enters it as one that was computed. What is planned
here is performed by whoever runs the steps (``moves.py``), and files are read and written by the
disk tier's threads; both report back, and only then is anything counted as there.

Which page stands for which border: the one that the tree lists on the edge on which the border lies
(``events.py``). Only full pages are stored. It does not matter who else holds such a page, then or
later, nor that nothing is held for the store: nobody writes into a page while the tree lists it,
all its P tokens' keys and values were there when it entered the tree, and whoever is given it
afterwards writes into it in a step that comes later than the store, or behind it in the same one.

Owners: pages on public edges are named in the public chain, those on a namespace's edges in the
namespace's, over all tokens from the first one on. Where what is public has changed while requests
were running, an edge may lie where nobody looks for it any more. Its pages are named as its owner's
all the same: the owner has computed them, and finds them if they are ever in its chain again.

Knows tokens, page ids and slots; no tensors, no requests, no clock but in ``close``.

Invariants, after every call: host slots are free, cached or in use, each counted once; a slot is
pinned exactly once for every store, read, write, page ahead and taken load that counts on it.

Costs (measured on one core at 16 tokens a page): a cut 5 µs and 2.3 µs for each page demoted, its
name and identity included; a page asked for by ``held`` 0.4 µs, 0.9 µs if it is in a file; one
loaded 3.7 µs from ``begin`` to ``landed``; a noted page 2 µs if it is in a file, else 4.5 µs.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain

import numpy as np
import numpy.typing as npt

from radixserve.cache.node import Node
from radixserve.cache.public_prefixes import PublicPrefixes
from radixserve.cache.radix_tree import RadixTree
from radixserve.ids import Namespace, PageId, TokenArray
from radixserve.tiers.backups import Backups
from radixserve.tiers.costs import Costs
from radixserve.tiers.disk import Disk
from radixserve.tiers.disk_tier import Done
from radixserve.tiers.host_slots import HostSlots, rank
from radixserve.tiers.loading import MAX_AHEAD, Held, Loading, Taken
from radixserve.tiers.moves import Moves, SlotId, Store
from radixserve.tiers.page_names import PageChain, PageKey, PageNamer
from radixserve.tiers.reads import Reads
from radixserve.tiers.stores import Stores
from radixserve.tiers.tree_names import TreeNames
from radixserve.tiers.writes import Writes
from radixserve.types import TierInfo

__all__ = ["Held", "Tiers"]


class Tiers:
    """See the module. Mutable, and the engine's thread's alone, but for ``on_news``."""

    __slots__ = (
        "_backups",
        "_disk",
        "_disk_loaded_pages",
        "_done",
        "_host_loaded_pages",
        "_loadings",
        "_lost_pages",
        "_namer",
        "_public",
        "_reads",
        "_slots",
        "_stores",
        "_taken",
        "_tree_names",
        "_writes",
        "costs",
    )

    def __init__(
        self,
        namer: PageNamer,
        buffer: npt.NDArray[np.uint8],
        public: PublicPrefixes,
        costs: Costs,
        disk: Disk | None = None,
    ) -> None:
        """``buffer``: uint8[num_slots, page_bytes], the host tier's memory, which only the disk
        tier looks at. ``public``: the cache's own, as it changes."""
        self.costs = costs
        """What scheduler and core measure and ask; reads are measured here."""
        self._namer = namer
        self._public = public
        self._disk = disk
        self._slots = HostSlots(len(buffer))
        self._stores = Stores(self._slots)
        self._reads = Reads(self._slots, disk)
        self._writes = None if disk is None else Writes(self._slots, disk)
        self._taken = Taken(self._slots)
        self._backups = None
        if self._writes is not None:
            self._backups = Backups(
                self.chain, namer.page_size, self._slots, self._stores, self._reads, self._writes
            )
        self._tree_names = TreeNames(namer)
        self._loadings: dict[Loading, None] = {}
        self._done: deque[Done] = deque()
        """Taken from the disk tier, to be taken in."""
        self._lost_pages = 0
        self._host_loaded_pages = 0
        self._disk_loaded_pages = 0

    # Down

    def demote(self, leaf: Node, end: int) -> None:
        """The full pages of ``leaf`` behind depth ``end`` are about to go: see ``Demoter``.

        Plans a store for each that is not below already, nor on its way; else it counts as used.
        *Mutates* the tiers, and what nodes know of names. *Cost*: see the module.
        """
        keys = self._tree_names.cut(leaf, end)
        if not keys:
            return
        use = self._slots.next_use()
        first = end // self._namer.page_size
        pages = leaf.pages[first - leaf.start // self._namer.page_size :].tolist()
        in_files: list[PageKey] = []
        # From the first page on: if there is too little room, the last ones are the least loss.
        for place, key in enumerate(keys):
            value = rank(use, first + place)
            slot = self._slots.find(key.name)
            if slot is not None:
                self._slots.touch(slot, value)
            elif self._stores.is_arriving(key.name):
                self._stores.touch(key.name, value)
            elif self._reads.can_find(key):
                in_files.append(key)
            elif not self._stores.plan(PageId(pages[place]), key, value):
                self._lost_pages += 1
        if in_files:
            self._reads.touch(in_files)

    def note_computed(self, namespace: Namespace, tokens: TokenArray) -> None:
        """A request has ended: the full pages of ``tokens`` (int32[n], which must not change any
        more) are in the tree, and to be kept on disk. Without a disk nothing happens.

        *Cost*: O(1).
        """
        if self._backups is not None:
            self._backups.note(namespace, tokens)

    @property
    def has_chores(self) -> bool:
        """Whether a plan is wanted though no request wants one: stores are planned that none has
        taken, or ``plan_backups`` would get on with what was noted. *Cost*: O(1)."""
        if not self._stores.is_empty:
            return True
        return self._backups is not None and self._backups.can_go_on

    @property
    def is_busy(self) -> bool:
        """Whether files are being read or written, or wait for it: there will be news."""
        return bool(self._reads) or bool(self._writes)

    def plan_backups(self, tree: RadixTree, max_pages: int) -> int:
        """Plan stores of at most ``max_pages`` noted pages that are in no file and not on their way
        there, as far as ``tree`` still holds them; returns of how many. *Cost*: ``backups.py``."""
        return 0 if self._backups is None else self._backups.plan(tree, max_pages)

    def take_stores(self) -> tuple[Store, ...]:
        """The stores that have been planned: to be in the very next plan that is launched, and in
        no other. A plan that is not launched takes none."""
        return self._stores.take()

    # Up

    def chain(self, namespace: Namespace, tokens: TokenArray) -> PageChain:
        """What the whole pages of ``tokens`` (int32[n], which must not change) are called."""
        return self._namer.chain(namespace, tokens, self._public.length(tokens))

    def held(self, chain: PageChain, first: int, end: int, *, loads: bool = True) -> Held:
        """How many pages in a row, from page ``first`` on, are below and worth loading.

        Says nothing for certain: what is asked for later may be gone. A page on its way down does
        not count. *Mutates* the costs' count of noes if it ``loads``. *Cost*: see the module.
        """
        num_host = num_disk = 0
        is_worth_host = is_worth_disk = None
        judge_host, judge_disk = self.costs.judges(loads=loads)
        for page in range(first, min(end, chain.num_pages)):
            if self._slots.find(chain.name(page)) is not None:
                is_worth_host = judge_host() if is_worth_host is None else is_worth_host
                if not is_worth_host:
                    break
                num_host += 1
            elif self._reads.has_file(chain.folder(page), chain.name(page)):
                is_worth_disk = judge_disk() if is_worth_disk is None else is_worth_disk
                if not is_worth_disk:
                    break
                num_disk += 1
            else:
                break
        return Held(num_host, num_disk)

    def begin(
        self, chain: PageChain, first_page: int, num_pages: int, max_ahead: int = MAX_AHEAD
    ) -> Loading:
        """Bring ``num_pages`` of a prefix up, from ``first_page`` on. *Cost*: 0.7 µs a page.

        Those in host memory count as used at once, so that what is demoted to make room for them
        does not take their place; reads of the first others, up to ``max_ahead``, begin."""
        use = self._slots.next_use()
        end_page = min(first_page + num_pages, chain.num_pages)
        for page in range(first_page, end_page):
            slot = self._slots.find(chain.name(page))
            if slot is not None:
                self._slots.touch(slot, rank(use, page))
        below = (self._slots, self._reads, self._taken)
        loading = Loading(*below, chain, first_page, end_page, use, max_ahead, self._forget_loading)
        loading.look_ahead()
        # Last, lest an interrupt leave one here that nobody has.
        self._loadings[loading] = None
        return loading

    def _forget_loading(self, loading: Loading) -> None:
        self._loadings.pop(loading, None)
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Reads have ended, or there is room that others wait for."""
        for loading in self._loadings:
            loading.look_ahead()

    # What has happened

    def landed(self, moves: Moves) -> None:
        """The moves of a plan have been performed. *Cost*: about 1 µs each."""
        for store in moves.stores:
            slot = self._stores.landed(store)
            if slot is not None:
                if self._writes is not None:
                    self._writes.offer(slot)
                self._slots.unpin(slot)
        for load in moves.loads:
            if self._taken.end(load.slot):
                self._disk_loaded_pages += 1
            else:
                self._host_loaded_pages += 1
        self._look_ahead()

    def failed(self, moves: Moves) -> None:
        """The moves of a plan will never be performed: its stores' pages are lost."""
        for store in moves.stores:
            self._stores.failed(store)
        for load in moves.loads:
            self._taken.end(load.slot)
        self._look_ahead()

    def collect(self) -> None:
        """Take in what the disk's threads have done. *Cost*: about 3 µs for each page."""
        if self._disk is None:
            return
        assert self._writes is not None
        self._done.extend(self._disk.take_done())
        while self._done:
            done = self._done[0]
            if done.kind == "write":
                self._writes.take_in(done)
            else:
                self._reads.take_in(done)
                if done.ok:
                    self.costs.observe_read(1, done.seconds, done.cpu_seconds)
            # Last, lest an interrupt lose it.
            self._done.popleft()
        self._look_ahead()

    def recover(self, known: Iterable[Moves]) -> None:
        """Get over an interrupt that came anywhere, in here too: of the moves that were planned
        only those in ``known`` will land or fail, and stores that no plan has taken stay planned.

        What is being read, or was kept from being handed in, is not waited for. *Cost*: O(slots).
        """
        plans = list(known)
        self._stores.keep([store.slot for moves in plans for store in moves.stores])
        self._taken.keep(load.slot for moves in plans for load in moves.loads)
        if self._disk is not None and self._writes is not None:
            handed_in = self._disk.slots() | {done.slot for done in self._done}
            self._reads.keep(handed_in)
            self._writes.keep(handed_in)
        for loading in self._loadings:
            loading.recover()
        self._slots.repair(self._explained_pins())
        self.collect()
        self._look_ahead()

    @property
    def has_news(self) -> bool:
        """Whether ``collect`` has something to take in. Any thread may ask."""
        return self._disk is not None and (bool(self._done) or self._disk.has_done)

    @property
    def on_news(self) -> Callable[[], None] | None:
        """Called by a thread, each time that there is news: it must be quick and not call back."""
        return None if self._disk is None else self._disk.on_done

    @on_news.setter
    def on_news(self, call: Callable[[], None]) -> None:
        if self._disk is not None:
            self._disk.on_done = call

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until there is news; returns whether there is. Returns at once if nothing is under
        way in files."""
        return self._disk is not None and self._disk.wait(timeout_s)

    # The whole

    def clear(self, namespace: Namespace | None = None) -> None:
        """Drop what is held, on its way or noted, of one namespace, or all of them and what is
        public. What is public is no namespace's. *Cost*: O(slots that hold pages + noted requests)
        and what the directory takes.

        What a transfer works on is dropped when that ends; pages that a Loading has pinned already
        may still be loaded.
        """
        owner = None if namespace is None else self._namer.owner_name(namespace)
        self._stores.clear(owner)
        self._reads.clear(owner)
        self._slots.clear(owner)
        if self._disk is not None and self._writes is not None and self._backups is not None:
            self._backups.clear(namespace)
            self._writes.clear(owner)
            self._disk.clear(owner)
        self._look_ahead()

    def info(self) -> TierInfo:
        """Gauges and counters. *Cost*: O(1)."""
        slots = self._slots
        info = TierInfo(
            host_free_pages=slots.free_slots,
            host_cached_pages=slots.cached_slots,
            host_in_use_pages=slots.in_use_slots,
            host_total_pages=slots.num_slots,
            host_loaded_pages=self._host_loaded_pages,
            disk_loaded_pages=self._disk_loaded_pages,
            lost_pages=self._lost_pages,
        )
        if self._disk is None:
            return info
        directory = self._disk.directory
        return replace(
            info,
            disk_pages=directory.num_pages,
            disk_bytes=directory.used_bytes,
            disk_limit_bytes=directory.limit_bytes,
            disk_stored_pages=directory.num_stored,
            rejected_files=directory.num_rejected,
        )

    def close(self, timeout_s: float = 2.0) -> None:
        """Give up what is on its way up, write what is to be written for so long, and let go of the
        directory. Nothing is to be asked of the tiers afterwards but ``info``."""
        for loading in list(self._loadings):
            loading.close()
        if self._disk is None or self._writes is None:
            return
        until_s = time.monotonic() + timeout_s
        while len(self._writes) and (left_s := until_s - time.monotonic()) > 0:
            self._disk.wait(left_s)
            self.collect()
        self._disk.close(max(0.0, until_s - time.monotonic()))
        self.collect()

    def _explained_pins(self) -> list[int]:
        """How often each slot is counted on."""
        pins = [self._stores.pins(), self._reads.pins(), self._taken.pins()]
        pins += [loading.pins() for loading in self._loadings]
        if self._writes is not None:
            pins.append(self._writes.pins())
        counted = Counter(chain.from_iterable(pins))
        return [counted[SlotId(slot)] for slot in range(self._slots.num_slots)]

    def check_invariants(self) -> None:
        """Recount every slot, and check that stores, reads, writes, loadings and loads explain each
        pin. *Raises* ``AssertionError``. *Cost*: O(slots)."""
        self._slots.check_invariants()
        for slot, explained in enumerate(self._explained_pins()):
            has = self._slots.num_pins(SlotId(slot))
            assert has == explained, f"slot {slot} has {has} pins, {explained} are explained"
        self._stores.check_invariants()
        self._reads.check_invariants()
        if self._writes is not None:
            self._writes.check_invariants()
        for loading in self._loadings:
            loading.check_invariants()
