"""One request's pages on their way up: out of files into host slots, out of slots to the device.

    pages    first      next_page              end_page
               | taken .. | ahead: held, reading | not looked at yet |
                            pinned for this Loading

``take`` hands out the next pages' slots, in order, as far as they are in host memory; each stays
pinned until its load has landed or failed (``Taken``). Ahead of that, a bounded number of pages is
pinned where they are or read from files. A page that is nowhere, could not be read, or turns out to
be another one (names can collide, so what is in host memory is compared by identity, too) ends the
loading there: the request computes the rest.

Waiting cannot last: a Loading waits for reads of its own, or for room; and whoever has the room
moves pages (that ends), or holds pages that it can take.

Knows slots and reads; no requests, no tree.

Costs (measured): ``take`` 2 µs a page out of host memory.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from radixserve.tiers.host_slots import HostSlots, rank
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_names import PageChain
from radixserve.tiers.reads import Read, Reads

MAX_AHEAD: Final = 32


@dataclass(frozen=True, slots=True)
class Held:
    """Pages in a row that are below and worth loading."""

    num_host_pages: int = 0
    num_disk_pages: int = 0
    """In files, and not in host memory."""

    @property
    def num_pages(self) -> int:
        """All of them."""
        return self.num_host_pages + self.num_disk_pages


class Taken:
    """Slots that have been taken for loads that have not ended. Mutable.

    Invariant: such a slot is pinned once for each time that it was taken.
    """

    __slots__ = ("_slots", "_sources")

    def __init__(self, slots: HostSlots) -> None:
        self._slots = slots
        self._sources: dict[SlotId, list[bool]] = {}
        """For each taking, whether the page came from a file."""

    def add(self, slot: SlotId, *, is_from_disk: bool) -> None:
        """The slot's pin is handed over."""
        self._sources.setdefault(slot, []).append(is_from_disk)

    def end(self, slot: SlotId) -> bool:
        """One load of it has landed or failed; returns whether its page came from a file."""
        sources = self._sources[slot]
        is_from_disk = sources.pop(0)
        if not sources:
            del self._sources[slot]
        self._slots.unpin(slot)
        return is_from_disk

    def keep(self, launched: Iterable[SlotId]) -> None:
        """After an interrupt: only loads out of ``launched`` slots, each as often as it is named,
        will land or fail. Leaves the slots' pins as they are."""
        sources: dict[SlotId, list[bool]] = {}
        for slot in launched:
            # Whence a page came is of no interest but to statistics.
            sources.setdefault(slot, []).append(self._sources.get(slot, [False])[0])
        self._sources = sources

    def pins(self) -> list[SlotId]:
        """The slots, each as often as it was taken."""
        return [slot for slot, sources in self._sources.items() for _ in sources]


@dataclass(slots=True)
class _Ahead:
    """The next page but some, pinned; with the read that brings it, if one had to be waited for."""

    slot: SlotId
    read: Read | None

    @property
    def is_here(self) -> bool:
        return self.read is None or (self.read.has_ended and not self.read.is_lost)

    @property
    def is_lost(self) -> bool:
        return self.read is not None and self.read.is_lost


class Loading:
    """See the module. Made by ``Tiers.begin``; whoever has it closes it. Mutable."""

    __slots__ = (
        "_ahead",
        "_chain",
        "_max_pinned",
        "_num_lost_reads",
        "_on_close",
        "_reads",
        "_slots",
        "_taken",
        "_use",
        "end_page",
        "max_ahead",
        "next_page",
        "num_disk_pages",
        "num_host_pages",
    )

    def __init__(
        self,
        slots: HostSlots,
        reads: Reads,
        taken: Taken,
        chain: PageChain,
        first_page: int,
        end_page: int,
        use: int,
        max_ahead: int,
        on_close: Callable[["Loading"], None],
    ) -> None:
        self._slots = slots
        self._reads = reads
        self._taken = taken
        self._chain = chain
        self._use = use
        self._on_close = on_close
        self._max_pinned = max(1, min(MAX_AHEAD, slots.num_slots // 4))
        self.max_ahead = max_ahead
        """How far ahead to read at most, in pages: reading takes the cores' time, too."""
        self._ahead: deque[_Ahead] = deque()
        self._num_lost_reads = reads.num_lost
        """Anybody's, when it was last seen to that none of them is ahead."""
        self.next_page = first_page
        """The page index to be taken next."""
        self.end_page = end_page
        """The page index behind the last one that is to be taken, as far as is known."""
        self.num_host_pages = 0
        """Taken so far, of those that were in host memory."""
        self.num_disk_pages = 0
        """Taken so far, of those that were read from files."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to take."""
        return self.next_page >= self.end_page

    @property
    def is_waiting(self) -> bool:
        """Whether there is more to take, and nothing just now: wait for the tiers' news."""
        return not self.is_over and not (self._ahead and self._ahead[0].is_here)

    def take(self, max_pages: int) -> list[SlotId]:
        """The slots of the next pages, in order, as many as can be had and are wanted.

        Each is pinned until ``Tiers.landed`` or ``failed`` hears of its load. *Mutates* slots,
        reads. *Cost*: see the module.
        """
        slots: list[SlotId] = []
        while len(slots) < max_pages and (self._ahead or self._look_further()):
            page = self._ahead[0]
            if not page.is_here:
                break
            self._ahead.popleft()
            self.next_page += 1
            is_from_disk = page.read is not None
            self.num_disk_pages += is_from_disk
            self.num_host_pages += not is_from_disk
            self._taken.add(page.slot, is_from_disk=is_from_disk)
            slots.append(page.slot)
        self.look_ahead()
        return slots

    def look_ahead(self) -> None:
        """Pin pages, and begin to read them, as far ahead as is allowed. To be called whenever a
        read has ended or a slot may have become available; ``is_waiting`` and ``is_over`` are right
        after it."""
        if self._num_lost_reads != self._reads.num_lost:
            for place, page in enumerate(self._ahead):
                if page.is_lost:
                    self._end_at(self.next_page + place)
                    break
            self._num_lost_reads = self._reads.num_lost
        max_ahead = min(self.max_ahead, self._max_pinned)
        while len(self._ahead) < max_ahead and self._look_further():
            pass

    def _look_further(self) -> bool:
        """Pin one more page, or begin to read it; False if there is none, or no room."""
        page = self.next_page + len(self._ahead)
        if page >= self.end_page:
            return False
        key = self._chain.key(page)
        slot = self._slots.find(key.name)
        read = None if slot is not None else self._reads.under_way(key.name)
        if slot is not None:
            is_right = self._slots.key(slot) == key
        elif read is not None:
            is_right = read.key == key and read.is_wanted
        else:
            is_right = self._reads.can_find(key)
        if not is_right:
            self._end_at(page)
            return False
        value = rank(self._use, page)
        if slot is not None:
            self._slots.touch(slot, value)
        elif read is None:
            read = self._reads.begin(key, value)
            if read is None:
                return False
        if read is not None:
            slot = read.slot
        assert slot is not None
        self._slots.pin(slot)
        self._ahead.append(_Ahead(slot, read))
        return True

    def _end_at(self, page: int) -> None:
        """Page ``page`` cannot be had."""
        self.end_page = page
        while len(self._ahead) > page - self.next_page:
            self._slots.unpin(self._ahead.pop().slot)

    def close(self) -> None:
        """Take nothing more. What was taken goes on; reads under way end for others' sake.
        Idempotent."""
        self._end_at(self.next_page)
        self._on_close(self)

    def recover(self) -> None:
        """After an interrupt: look ahead anew. Leaves the slots' pins as they are."""
        self._ahead.clear()

    def pins(self) -> list[SlotId]:
        """The slots that are pinned for what is ahead."""
        return [page.slot for page in self._ahead]

    def check_invariants(self) -> None:
        """*Raises* ``AssertionError``. *Cost*: O(pages ahead)."""
        assert len(self._ahead) <= max(self.end_page - self.next_page, 0)
        for place, page in enumerate(self._ahead):
            assert not page.is_lost, f"page {self.next_page + place} was lost, and nobody looked"
            key, page_key = self._slots.key(page.slot), self._chain.key(self.next_page + place)
            assert key in (page_key, None), f"{key} is ahead in the place of {page_key}"

    def __repr__(self) -> str:
        return f"Loading([{self.next_page}, {self.end_page}), {len(self._ahead)} pages ahead)"
