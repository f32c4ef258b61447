"""LRU against a sorted list."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.cache.eviction import LRU, EvictionPolicy
from radixserve.cache.node import Root
from radixserve.ids import Namespace


def handles(number: int) -> list[Root]:
    return [Root(Namespace(str(index))) for index in range(number)]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["touch", "toggle", "toggle", "evict"]), st.integers(0, 7)))
)
def test_the_victim_is_always_the_one_touched_longest_ago(calls: list[tuple[str, int]]) -> None:
    policy: EvictionPolicy = LRU()
    nodes = handles(8)
    for node in nodes:
        policy.touch(node)
    evictable: set[Root] = set()
    for verb, index in calls:
        node = nodes[index]
        if verb == "evict":
            victim = policy.victim()
            if victim is not None:
                policy.remove(victim)
                evictable -= {victim}
        elif verb == "touch" and node not in evictable:
            policy.touch(node)
        elif verb == "toggle" and node in evictable:
            policy.remove(node)
            evictable.remove(node)
        elif verb == "toggle":
            policy.add(node)
            evictable.add(node)
        assert len(policy) == len(evictable)
        assert all((node in policy) == (node in evictable) for node in nodes)
        assert policy.victim() is min(evictable, key=lambda node: node.last_access, default=None)


def test_a_node_exposed_late_keeps_its_age() -> None:
    policy = LRU()
    parent, young, younger = handles(3)
    for node in (parent, young, younger):
        policy.touch(node)
    policy.add(young)
    policy.add(younger)
    policy.add(parent)
    order = []
    while (victim := policy.victim()) is not None:
        order.append(victim)
        policy.remove(victim)
    assert order == [parent, young, younger]


def test_dead_heap_entries_are_swept() -> None:
    policy = LRU()
    nodes = handles(2)
    for node in nodes:
        policy.touch(node)
    policy.add(nodes[1])
    for _ in range(1000):
        policy.add(nodes[0])
        policy.remove(nodes[0])
    assert len(policy._heap) <= 17
    assert policy.victim() is nodes[1]


def test_removing_what_is_not_there_is_an_error() -> None:
    (node,) = handles(1)
    with pytest.raises(KeyError):
        LRU().remove(node)
