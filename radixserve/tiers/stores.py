"""Stores: pages on their way from the device pool into host slots.

    planned --take--> launched --landed--> the slot holds the page
       |                 +-----failed----> nothing
       +-----------------------clear-----> nothing, when it has landed

A page that is on its way is not stored again, and not yet to be loaded. Nothing on the device is
held for it: see ``moves.py``. Knows slots; no tree, no files.

Invariants: each store has one slot, pinned for it from plan to landing, and a name that no other
store that is wanted has.

Costs: O(1) a page, and what ``HostSlots`` costs; ``clear`` O(stores).
"""

from collections.abc import Collection
from dataclasses import dataclass

from radixserve.ids import PageId
from radixserve.tiers.host_slots import HostSlots
from radixserve.tiers.moves import SlotId, Store
from radixserve.tiers.page_names import PageKey


@dataclass(slots=True)
class _Arrival:
    key: PageKey
    rank: int
    is_wanted: bool = True


class Stores:
    """See the module. Mutable."""

    __slots__ = ("_arrivals", "_by_name", "_planned", "_slots")

    def __init__(self, slots: HostSlots) -> None:
        self._slots = slots
        self._planned: list[Store] = []
        self._arrivals: dict[SlotId, _Arrival] = {}
        """Of all stores, planned and launched."""
        self._by_name: dict[bytes, _Arrival] = {}
        """Of those that are wanted."""

    def __len__(self) -> int:
        return len(self._arrivals)

    @property
    def is_empty(self) -> bool:
        """Whether none is planned that has not been taken."""
        return not self._planned

    def is_arriving(self, name: bytes) -> bool:
        """Whether a page of this name is on its way."""
        return name in self._by_name

    def touch(self, name: bytes, rank: int) -> None:
        """The page on its way has been used."""
        self._by_name[name].rank = rank

    def plan(self, page: PageId, key: PageKey, rank: int) -> bool:
        """Store what is in ``page`` now; False if there is no slot for it."""
        slot = self._slots.allocate()
        if slot is None:
            return False
        self._arrivals[slot] = self._by_name[key.name] = _Arrival(key, rank)
        self._planned.append(Store(page, slot))
        return True

    def take(self) -> tuple[Store, ...]:
        """What has been planned since the last call."""
        planned, self._planned = tuple(self._planned), []
        return planned

    def landed(self, store: Store) -> SlotId | None:
        """The store has been performed. Returns its slot, which holds the page now and is pinned
        for the caller; None if the page is not wanted any more, or another slot holds it."""
        arrival = self._end(store)
        if not arrival.is_wanted or self._slots.find(arrival.key.name) is not None:
            self._slots.unpin(store.slot)
            return None
        self._slots.put(store.slot, arrival.key, arrival.rank)
        return store.slot

    def failed(self, store: Store) -> None:
        """The store has not been performed, and will not be."""
        self._end(store)
        self._slots.unpin(store.slot)

    def _end(self, store: Store) -> _Arrival:
        arrival = self._arrivals.pop(store.slot)
        if arrival.is_wanted:
            del self._by_name[arrival.key.name]
        return arrival

    def clear(self, owner: str | None) -> None:
        """The pages of one owner, or all, are not wanted any more."""
        for name, arrival in list(self._by_name.items()):
            if owner is None or arrival.key.owner == owner:
                arrival.is_wanted = False
                del self._by_name[name]
        kept = []
        for store in self._planned:
            if self._arrivals[store.slot].is_wanted:
                kept.append(store)
            else:
                self.failed(store)
        self._planned = kept

    def keep(self, launched: Collection[SlotId]) -> None:
        """After an interrupt: of the stores that were taken only those into ``launched`` slots will
        land or fail. Leaves the slots' pins as they are."""
        expected = {*launched, *(store.slot for store in self._planned)}
        kept = {slot: one for slot, one in self._arrivals.items() if slot in expected}
        self._arrivals = kept
        self._by_name = {one.key.name: one for one in kept.values() if one.is_wanted}
        self._planned = [store for store in self._planned if store.slot in kept]

    def pins(self) -> list[SlotId]:
        """The slots that are pinned for stores."""
        return list(self._arrivals)

    def check_invariants(self) -> None:
        """*Raises* ``AssertionError``. *Cost*: O(stores)."""
        wanted = {one.key.name: one for one in self._arrivals.values() if one.is_wanted}
        assert wanted == self._by_name, f"arriving: {self._by_name}, wanted: {wanted}"
        for store in self._planned:
            assert store.slot in self._arrivals, f"{store} is planned and has no slot"
        for slot in self._arrivals:
            assert self._slots.key(slot) is None, f"slot {slot} holds a page before it has landed"
