"""Slots and their pins: against a plain model, and the order in which pages are given up."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from radixserve.errors import ConfigError
from radixserve.tiers.host_slots import HostSlots, rank
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_names import PageKey


def key(number: int, owner: str = "a") -> PageKey:
    return PageKey(owner, number.to_bytes(16, "little"), b"identity of %d" % number)


def fill(slots: HostSlots, number: int, value: int, owner: str = "a") -> SlotId:
    """A cached page."""
    slot = slots.allocate()
    assert slot is not None
    slots.put(slot, key(number, owner), value)
    slots.unpin(slot)
    return slot


@dataclass
class Held:
    pins: int
    key: PageKey | None = None
    rank: int = 0


@dataclass
class Model:
    slots: dict[SlotId, Held] = field(default_factory=dict)
    """But free ones."""

    def cached(self) -> dict[SlotId, Held]:
        return {slot: one for slot, one in self.slots.items() if not one.pins}

    def pinned(self) -> list[SlotId]:
        return sorted(slot for slot, one in self.slots.items() if one.pins)


class SlotsMachine(RuleBasedStateMachine):
    """Every call in any order; which slot is given up is the one choice, and it is checked."""

    @initialize(num_slots=st.integers(1, 6))
    def start(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.slots = HostSlots(num_slots)
        self.model = Model()

    @rule()
    def allocate(self) -> None:
        cached = self.model.cached()
        num_free = self.num_slots - len(self.model.slots)
        slot = self.slots.allocate()
        if slot is None:
            assert not num_free
            assert not cached
            return
        if num_free:
            assert slot not in self.model.slots
        else:
            assert cached[slot].rank == min(one.rank for one in cached.values())
        self.model.slots[slot] = Held(pins=1)

    @precondition(lambda self: self.model.pinned())
    @rule(
        pick=st.integers(0, 5),
        number=st.integers(0, 12),
        value=st.integers(-3, 3),
        owner=st.sampled_from("ab"),
    )
    def put(self, pick: int, number: int, value: int, owner: str) -> None:
        pinned = self.model.pinned()
        slot = pinned[pick % len(pinned)]
        names = [one.key.name for one in self.model.slots.values() if one.key]
        if self.model.slots[slot].key is None and key(number).name not in names:
            self.slots.put(slot, key(number, owner), value)
            self.model.slots[slot].key = key(number, owner)
            self.model.slots[slot].rank = value

    @precondition(lambda self: self.model.slots)
    @rule(pick=st.integers(0, 5))
    def pin(self, pick: int) -> None:
        slot = sorted(self.model.slots)[pick % len(self.model.slots)]
        self.slots.pin(slot)
        self.model.slots[slot].pins += 1

    @precondition(lambda self: self.model.pinned())
    @rule(pick=st.integers(0, 5))
    def unpin(self, pick: int) -> None:
        pinned = self.model.pinned()
        slot = pinned[pick % len(pinned)]
        self.slots.unpin(slot)
        held = self.model.slots[slot]
        held.pins -= 1
        if not held.pins and held.key is None:
            del self.model.slots[slot]

    @precondition(lambda self: any(one.key for one in self.model.slots.values()))
    @rule(pick=st.integers(0, 5), value=st.integers(-3, 3), times=st.sampled_from([1, 1, 60]))
    def touch(self, pick: int, value: int, times: int) -> None:
        held = [slot for slot, one in self.model.slots.items() if one.key]
        slot = held[pick % len(held)]
        for time in range(times):
            self.slots.touch(slot, value + time)
        self.model.slots[slot].rank = value + times - 1

    @rule(owner=st.sampled_from([None, "a", "b"]))
    def clear(self, owner: str | None) -> None:
        self.slots.clear(owner)
        for slot, one in list(self.model.slots.items()):
            if one.key is not None and owner in (None, one.key.owner):
                one.key = None
                if not one.pins:
                    del self.model.slots[slot]

    @rule()
    def repair(self) -> None:
        """As after an interrupt that has left nothing but keys and pins in order."""
        if self.model.pinned():
            self.slots._num_pins[self.model.pinned()[0]] += 7
        self.slots._index.clear()
        self.slots._heap.clear()
        self.slots._free.clear()
        self.slots.cached_slots = 99
        pins = [Held(0)] * self.num_slots
        for slot, one in self.model.slots.items():
            pins[slot] = one
        self.slots.repair([one.pins for one in pins])

    @invariant()
    def is_as_in_the_model(self) -> None:
        slots, model = self.slots, self.model
        slots.check_invariants()
        assert slots.cached_slots == len(model.cached())
        assert slots.in_use_slots == len(model.pinned())
        assert slots.free_slots == self.num_slots - len(model.slots)
        assert slots.available_slots == self.num_slots - len(model.pinned())
        assert slots.free_slots + slots.cached_slots + slots.in_use_slots == slots.num_slots
        for number in range(self.num_slots):
            slot = SlotId(number)
            held = model.slots.get(slot, Held(0))
            assert slots.num_pins(slot) == held.pins
            assert slots.key(slot) == held.key
        names = {one.key.name: slot for slot, one in model.slots.items() if one.key}
        for number in range(13):
            assert slots.find(key(number).name) == names.get(key(number).name)


TestHostSlots = SlotsMachine.TestCase
TestHostSlots.settings = settings(max_examples=50, stateful_step_count=40)


def test_the_deepest_page_of_the_prefix_used_longest_ago_goes_first() -> None:
    slots = HostSlots(6)
    for page in range(3):
        fill(slots, page, rank(1, page))
    for page in (2, 0, 1):
        fill(slots, 10 + page, rank(2, page))
    # The first prefix is used once more: its first two pages, in whatever order.
    for page in (0, 1):
        slot = slots.find(key(page).name)
        assert slot is not None
        slots.touch(slot, rank(3, page))
    order = []
    for number in range(100, 106):
        before = [n for n in (0, 1, 2, 10, 11, 12) if slots.find(key(n).name) is not None]
        fill(slots, number, rank(4, 0))
        order += [n for n in before if slots.find(key(n).name) is None]
    assert order == [2, 12, 11, 10, 1, 0]


def test_a_later_use_counts_more_than_any_depth() -> None:
    assert rank(2, 2**31) > rank(1, 0)
    assert rank(1, 3) > rank(1, 4)
    slots = HostSlots(1)
    assert [slots.next_use(), slots.next_use()] == [1, 2]


def test_pinned_slots_are_not_given_up() -> None:
    slots = HostSlots(2)
    first, second = fill(slots, 1, 1), fill(slots, 2, 2)
    slots.pin(first)
    assert slots.allocate() == second
    assert slots.allocate() is None
    assert slots.find(key(1).name) == first
    slots.unpin(first)
    assert slots.allocate() == first
    assert slots.find(key(1).name) is None


def test_a_page_dropped_while_pinned_frees_its_slot_later() -> None:
    slots = HostSlots(1)
    slot = fill(slots, 1, 1)
    slots.pin(slot)
    slots.clear("a")
    assert (slots.free_slots, slots.in_use_slots) == (0, 1)
    slots.unpin(slot)
    assert slots.free_slots == 1


def test_repair_lets_only_one_slot_have_a_page() -> None:
    """An interrupt came between the key's two places."""
    slots = HostSlots(3)
    fill(slots, 1, 1)
    slots._keys[2] = key(1)
    slots.repair([0, 1, 0])
    slots.check_invariants()
    assert (slots.free_slots, slots.cached_slots, slots.in_use_slots) == (1, 1, 1)
    assert slots.find(key(1).name) is not None


def test_no_slots_are_no_tier() -> None:
    with pytest.raises(ConfigError, match="0 slots"):
        HostSlots(0)


def test_touching_without_end_costs_no_memory_without_end() -> None:
    slots = HostSlots(4)
    slot = fill(slots, 1, 0)
    for value in range(1000):
        slots.touch(slot, value)
    assert len(slots._heap) <= 2 * 4 + 17
    slots.check_invariants()


def test_check_invariants_finds_what_is_wrong() -> None:
    def broken() -> HostSlots:
        slots = HostSlots(3)
        fill(slots, 1, 1)
        slots.allocate()
        slots.check_invariants()
        return slots

    slots = broken()
    slots._index.clear()
    with pytest.raises(AssertionError, match="the index says"):
        slots.check_invariants()
    slots = broken()
    slots.cached_slots = 2
    with pytest.raises(AssertionError, match="2 cached, not 1"):
        slots.check_invariants()
    slots = broken()
    slots._free.append(SlotId(1))
    with pytest.raises(AssertionError, match="listed as free"):
        slots.check_invariants()
    slots = broken()
    slots._heap.clear()
    with pytest.raises(AssertionError, match="may be given up"):
        slots.check_invariants()
