"""Reads: pages on their way from files into host slots.

Whoever wants a page that is being read already shares that read. Knows slots and the disk; no
device, no requests.

Invariants: each read has one slot, pinned for it until it has ended, and a name that no other read
has.

Costs: O(1) a page, and what ``HostSlots`` and the disk tier cost; ``clear`` O(reads).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from radixserve.tiers.disk import Disk
from radixserve.tiers.disk_tier import Done
from radixserve.tiers.host_slots import HostSlots
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_names import PageKey


@dataclass(slots=True, eq=False)
class Read:
    """One page's way up. Mutable; ``Reads`` alone changes it."""

    key: PageKey
    slot: SlotId
    rank: int
    has_ended: bool = False
    is_lost: bool = False
    """It has ended, and the slot does not hold the page."""
    is_wanted: bool = True
    """The page is to be found by others when it is there."""


class Reads:
    """See the module. Mutable. Without a ``disk`` it finds nothing."""

    __slots__ = ("_by_name", "_by_slot", "_disk", "_slots", "num_lost")

    def __init__(self, slots: HostSlots, disk: Disk | None) -> None:
        self._slots = slots
        self._disk = disk
        self._by_slot: dict[SlotId, Read] = {}
        self._by_name: dict[bytes, Read] = {}
        self.num_lost = 0
        """Reads that have brought nothing, since start."""

    def __len__(self) -> int:
        return len(self._by_slot)

    def can_find(self, key: PageKey) -> bool:
        """Whether there seems to be a file of the page."""
        return self.has_file(key.owner, key.name)

    def has_file(self, owner: str, name: bytes) -> bool:
        """The same, for whom it is not worth making an identity."""
        return self._disk is not None and self._disk.contains(owner, name)

    def touch(self, keys: Sequence[PageKey]) -> None:
        """These pages of one prefix, first page first, are in files and have been of use."""
        assert self._disk is not None
        self._disk.touch(keys)

    def under_way(self, name: bytes) -> Read | None:
        """The read of a page of this name that has not ended."""
        return self._by_name.get(name)

    def begin(self, key: PageKey, rank: int) -> Read | None:
        """Read a page that is not being read yet; None if there is no slot for it."""
        assert self._disk is not None
        slot = self._slots.allocate()
        if slot is None:
            return None
        read = Read(key, slot, rank)
        self._by_slot[slot] = self._by_name[key.name] = read
        self._disk.read(slot, key)
        return read

    def take_in(self, done: Done) -> None:
        """A read has ended. If it was of use its slot holds the page, for whoever looks for it."""
        read = self._by_slot.pop(done.slot, None)
        if read is None:
            # An interrupt came when this had been taken in all but wholly (``Tiers.recover``).
            return
        del self._by_name[read.key.name]
        read.has_ended = True
        read.is_lost = not (done.ok and read.is_wanted)
        self.num_lost += read.is_lost
        # The page may have been evicted from the device and stored meanwhile.
        if not read.is_lost and self._slots.find(read.key.name) is None:
            self._slots.put(read.slot, read.key, read.rank)
        self._slots.unpin(read.slot)

    def clear(self, owner: str | None) -> None:
        """The pages of one owner, or all, are not wanted any more."""
        for read in self._by_slot.values():
            if owner is None or read.key.owner == owner:
                read.is_wanted = False

    def keep(self, handed_in: Collection[SlotId]) -> None:
        """After an interrupt: only reads into these slots will end. None is wanted any more. Leaves
        the slots' pins as they are."""
        self.clear(None)
        self._by_slot = {slot: read for slot, read in self._by_slot.items() if slot in handed_in}
        self._by_name = {read.key.name: read for read in self._by_slot.values()}

    def pins(self) -> list[SlotId]:
        """The slots that are pinned for reads."""
        return list(self._by_slot)

    def check_invariants(self) -> None:
        """*Raises* ``AssertionError``. *Cost*: O(reads)."""
        assert {read.key.name: read for read in self._by_slot.values()} == self._by_name
        for slot, read in self._by_slot.items():
            assert read.slot == slot, f"{read} is listed under slot {slot}"
            assert not read.has_ended, f"{read} has ended and is under way"
            assert self._slots.key(slot) is None, f"slot {slot} holds a page before it was read"
