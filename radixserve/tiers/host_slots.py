"""The host tier's slots: which are free, which hold what page, and which must not be touched.

    free      holds nothing                 may be taken
    cached    holds a page, no pin          may be loaded from, or given up for another
    in use    pinned                        a transfer reads or writes it, or is about to

A slot is pinned once by everybody who counts on it. A page is found by its name; whose and which it
is says the whole key (``page_names.py``). A pinned slot need not hold a page (one is on its way
into it), or not any more (it was dropped); such a slot is free when its last pin goes.

Which cached slot is given up first says its rank: of pages used together the deepest, because a
prefix is of no use without its beginning; else what was used longest ago. Ranks, and not the order
of calls, because of one prefix many things happen in some other order: it is demoted from its end,
loaded from its beginning, and unpinned as steps land.

Knows no memory, no transfers, no tree.

Invariants, after every call: ``free + cached + in_use == num_slots``; no two slots hold pages of
one name.

Costs: every method O(1), but ``allocate``, ``touch`` and what makes a slot cached, amortised
O(log n): about 1 µs; ``clear`` and ``check_invariants`` O(n). Some 100 bytes a slot.
"""

import heapq
from collections.abc import Sequence

from radixserve.errors import ConfigError
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_names import PageKey

_DEPTHS = 1 << 32


def rank(use: int, page: int) -> int:
    """The rank of page index ``page`` of a prefix, used at time ``use``: greater is kept longer."""
    return use * _DEPTHS - page


class HostSlots:
    """See the module. Mutable. *Raises* ``ConfigError`` for less than one slot."""

    __slots__ = (
        "_free",
        "_heap",
        "_index",
        "_keys",
        "_num_pins",
        "_ranks",
        "_use",
        "cached_slots",
        "num_slots",
    )

    def __init__(self, num_slots: int) -> None:
        if num_slots < 1:
            raise ConfigError(f"the host tier has {num_slots} slots; it needs at least one")
        self.num_slots = num_slots
        self.cached_slots = 0
        """Slots that hold a page and no pin."""
        # A stack, so that the first slots are the first to be taken.
        self._free = [SlotId(slot) for slot in range(num_slots - 1, -1, -1)]
        self._keys: list[PageKey | None] = [None] * num_slots
        self._num_pins = [0] * num_slots
        self._ranks = [0] * num_slots
        self._index: dict[bytes, SlotId] = {}
        self._heap: list[tuple[int, SlotId]] = []
        """Cached slots by rank. An entry whose slot is not cached, or has another rank, is dead."""
        self._use = 0

    @property
    def free_slots(self) -> int:
        """Slots that hold nothing and no pin."""
        return len(self._free)

    @property
    def in_use_slots(self) -> int:
        """Slots with at least one pin."""
        return self.num_slots - len(self._free) - self.cached_slots

    @property
    def available_slots(self) -> int:
        """Slots that ``allocate`` could return."""
        return len(self._free) + self.cached_slots

    def find(self, name: bytes) -> SlotId | None:
        """The slot that holds the page of this name."""
        return self._index.get(name)

    def key(self, slot: SlotId) -> PageKey | None:
        """What the slot holds."""
        return self._keys[slot]

    def next_use(self) -> int:
        """The time of a use of pages, later than all before: a logical clock, for ``rank``."""
        self._use += 1
        return self._use

    def num_pins(self, slot: SlotId) -> int:
        """How many count on the slot."""
        return self._num_pins[slot]

    # Slots that change hands

    def allocate(self) -> SlotId | None:
        """A slot that holds nothing, pinned once; None if all are pinned.

        Gives up the cached page of the lowest rank if no slot is free.
        """
        if self._free:
            slot = self._free.pop()
        elif self.cached_slots:
            slot = self._victim()
            self._forget(slot)
            self.cached_slots -= 1
        else:
            return None
        self._num_pins[slot] = 1
        return slot

    def _victim(self) -> SlotId:
        while True:
            value, slot = heapq.heappop(self._heap)
            if self._is_alive(value, slot):
                return slot

    def _is_alive(self, value: int, slot: SlotId) -> bool:
        is_cached = self._keys[slot] is not None and not self._num_pins[slot]
        return is_cached and self._ranks[slot] == value

    def put(self, slot: SlotId, key: PageKey, value: int) -> None:
        """The page of ``key``, of rank ``value``, is in the slot now, which is pinned and held
        nothing. No other slot holds one of this name."""
        assert self._num_pins[slot], f"slot {slot} is filled without a pin"
        assert self._keys[slot] is None, f"slot {slot} holds a page already"
        assert key.name not in self._index, f"slot {self._index[key.name]} holds that page"
        self._keys[slot] = key
        self._ranks[slot] = value
        self._index[key.name] = slot

    def pin(self, slot: SlotId) -> None:
        """One more counts on the slot, which is not free."""
        if not self._num_pins[slot]:
            assert self._keys[slot] is not None, f"pinning slot {slot}, which is free"
            self.cached_slots -= 1
        self._num_pins[slot] += 1

    def unpin(self, slot: SlotId) -> None:
        """One less does. At the last one the slot becomes cached, or free if it holds nothing."""
        assert self._num_pins[slot], f"slot {slot} has no pin to be taken off"
        self._num_pins[slot] -= 1
        if not self._num_pins[slot]:
            if self._keys[slot] is None:
                self._free.append(slot)
            else:
                self.cached_slots += 1
                self._push(slot)

    def touch(self, slot: SlotId, value: int) -> None:
        """The page in the slot has been used: its rank is ``value`` now."""
        if self._ranks[slot] != value:
            self._ranks[slot] = value
            if not self._num_pins[slot]:
                self._push(slot)

    def clear(self, owner: str | None) -> None:
        """Drop the pages of one owner, or all. *Cost*: O(slots that hold pages)."""
        for slot in list(self._index.values()):
            key = self._keys[slot]
            assert key is not None
            if owner is None or key.owner == owner:
                self._forget(slot)
                if not self._num_pins[slot]:
                    self.cached_slots -= 1
                    self._free.append(slot)

    def repair(self, num_pins: Sequence[int]) -> None:
        """Go on from nothing but what each slot holds and how many count on it, after a call was
        interrupted anywhere. *Cost*: O(n log n)."""
        slots = [SlotId(slot) for slot in range(self.num_slots)]
        self._num_pins = [int(number) for number in num_pins]
        self._index = {key.name: slot for slot in slots if (key := self._keys[slot]) is not None}
        for slot in slots:
            key = self._keys[slot]
            if key is not None and self._index[key.name] != slot:
                self._keys[slot] = None
        idle = [slot for slot in reversed(slots) if not self._num_pins[slot]]
        self._free = [slot for slot in idle if self._keys[slot] is None]
        self._heap = sorted((self._ranks[slot], slot) for slot in idle if self._keys[slot])
        self.cached_slots = len(self._heap)

    def _forget(self, slot: SlotId) -> None:
        key = self._keys[slot]
        assert key is not None
        del self._index[key.name]
        self._keys[slot] = None

    def _push(self, slot: SlotId) -> None:
        heapq.heappush(self._heap, (self._ranks[slot], slot))
        if len(self._heap) > 2 * self.num_slots + 16:
            self._heap = sorted({entry for entry in self._heap if self._is_alive(*entry)})

    def check_invariants(self) -> None:
        """Recount everything. *Raises* ``AssertionError``. *Cost*: O(n log n)."""
        slots = [SlotId(slot) for slot in range(self.num_slots)]
        idle = [slot for slot in slots if not self._num_pins[slot]]
        assert min(self._num_pins) >= 0, f"negative pins: {self._num_pins}"
        free = [slot for slot in idle if self._keys[slot] is None]
        cached = [slot for slot in idle if self._keys[slot] is not None]
        assert sorted(self._free) == free, f"listed as free: {self._free}, but it is {free}"
        assert self.cached_slots == len(cached), f"{self.cached_slots} cached, not {len(cached)}"
        held = {key.name: slot for slot in slots if (key := self._keys[slot]) is not None}
        assert held == self._index, f"the index says {self._index}, the slots hold {held}"
        alive = {slot for value, slot in self._heap if self._is_alive(value, slot)}
        assert alive == set(cached), f"may be given up: {alive}, cached: {cached}"
