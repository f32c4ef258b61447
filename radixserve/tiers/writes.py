"""Writes: pages on their way from host slots into files, so that they outlive the process.

A slot is pinned while its page is being written, so what may be given up has been written, or is
not worth it, or waits: at most half of the slots are being written at any time, lest loads find no
room behind a slow disk, and whoever comes after that waits. What waits is not pinned: where it is
given up before its turn, the page is in no file, and counted.

A page that could not be written is not tried again until somebody offers it again.

Knows slots and the disk; no device, no requests.

Costs: O(1) a page, and what ``HostSlots`` and the disk tier cost; ``clear`` O(pages that wait).
"""

from collections import OrderedDict
from collections.abc import Collection

from radixserve.tiers.disk import Disk
from radixserve.tiers.disk_tier import Done
from radixserve.tiers.host_slots import HostSlots
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_names import PageKey


class Writes:
    """See the module. Mutable."""

    __slots__ = ("_disk", "_slots", "_under_way", "_waiting", "limit", "num_missed")

    def __init__(self, slots: HostSlots, disk: Disk) -> None:
        self._slots = slots
        self._disk = disk
        self.limit = max(1, slots.num_slots // 2)
        """Pages that are written at a time."""
        self.num_missed = 0
        """Pages that were given up before their turn to be written came."""
        self._under_way: dict[SlotId, PageKey] = {}
        self._waiting: OrderedDict[bytes, PageKey] = OrderedDict()

    def __len__(self) -> int:
        """Pages that are being written or wait for it."""
        return len(self._under_way) + len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether a page offered now would be written at once."""
        return len(self._under_way) < self.limit

    def offer(self, slot: SlotId) -> None:
        """The slot holds a page: keep it in a file, if there is none of it yet."""
        key = self._slots.key(slot)
        assert key is not None
        if slot in self._under_way or key.name in self._waiting:
            return
        if self._disk.contains(key.owner, key.name):
            return
        if self.has_room:
            self._begin(slot)
            return
        self._waiting[key.name] = key
        if len(self._waiting) > self._slots.num_slots:
            # There are more than slots, so some have been given up: it may be the oldest.
            self._waiting.popitem(last=False)
            self.num_missed += 1

    def take_in(self, done: Done) -> None:
        """A write has ended, well or not; the next ones begin."""
        if self._under_way.pop(done.slot, None) is None:
            # An interrupt came when this had been taken in all but wholly (``Tiers.recover``).
            return
        self._slots.unpin(done.slot)
        while self._waiting and self.has_room:
            name, key = self._waiting.popitem(last=False)
            slot = self._slots.find(name)
            if slot is None:
                self.num_missed += 1
            elif not self._disk.contains(key.owner, name):
                self._begin(slot)

    def _begin(self, slot: SlotId) -> None:
        key = self._slots.key(slot)
        assert key is not None
        self._slots.pin(slot)
        self._under_way[slot] = key
        self._disk.write(slot, key)

    def clear(self, owner: str | None) -> None:
        """The pages of one owner, or all, are not to be written any more."""
        for name, key in list(self._waiting.items()):
            if owner is None or key.owner == owner:
                del self._waiting[name]

    def keep(self, handed_in: Collection[SlotId]) -> None:
        """After an interrupt: only writes of these slots will end; if one will not, what waits is
        given up. Leaves the slots' pins as they are."""
        kept = {slot: key for slot, key in self._under_way.items() if slot in handed_in}
        self._under_way = kept
        if self.has_room:
            self._waiting.clear()

    def pins(self) -> list[SlotId]:
        """The slots that are pinned for writes."""
        return list(self._under_way)

    def check_invariants(self) -> None:
        """*Raises* ``AssertionError``. *Cost*: O(pages)."""
        assert len(self._under_way) <= self.limit, f"{len(self._under_way)} pages are written"
        assert len(self._waiting) <= self._slots.num_slots
        assert self.has_room <= (not self._waiting), "pages wait though one could be written"
        for slot, key in self._under_way.items():
            held = self._slots.key(slot)
            assert held in (key, None), f"slot {slot} is written as {key} and holds {held}"
