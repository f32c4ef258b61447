"""Down: what eviction gives up is stored under the right name, and kept in files."""

import numpy as np
import pytest

from radixserve.ids import PageId
from radixserve.tiers.moves import Load, Moves
from tests.tiers.tiered_cache import PAGE_SIZE, A, B, CountingNamer, TieredCache, tokens_of


def test_what_is_evicted_is_held_below_and_is_what_it_was() -> None:
    world = TieredCache()
    tokens = tokens_of(range(20))
    world.run(A, tokens)
    assert world.held(A, tokens).num_pages == 0
    world.evict()
    assert world.held(A, tokens).num_host_pages == 5
    assert world.held(B, tokens).num_pages == 0
    assert world.held(A, tokens_of(1, range(1, 20))).num_pages == 0
    world.check_slots(world.begin(A, tokens).take(99), tokens)


def test_what_is_dropped_by_order_is_not_stored() -> None:
    world = TieredCache()
    for drop in (
        lambda: world.cache.forget(A),
        world.cache.clear,
        lambda: world.cache.set_public([np.arange(8, dtype=np.int32)]),
    ):
        world.run(A, tokens_of(range(20)))
        drop()
        assert world.cache.free_pages == 40
        assert world.tiers.take_stores() == ()
        assert world.tiers.info().host_free_pages == 40


def test_a_partial_page_is_not_stored() -> None:
    world = TieredCache()
    world.run(A, tokens_of(range(11)))
    world.evict()
    assert world.held(A, tokens_of(range(12))).num_pages == 2
    assert world.tiers.info().host_cached_pages == 2


def test_the_first_page_of_an_edge_that_starts_inside_it_is_stored() -> None:
    """Both branches' pages begin with the same tokens, and each is found under its own name."""
    world = TieredCache()
    one, other = tokens_of(range(22)), tokens_of(range(14), range(90, 98))
    world.run(A, one)
    world.run(A, other)
    world.evict()
    for tokens in (one, other):
        assert world.held(A, tokens).num_pages == 5
        world.check_slots(world.begin(A, tokens).take(99), tokens)
    # Three pages in common, two of each.
    assert world.tiers.info().host_total_pages - world.tiers.info().host_free_pages == 7


@pytest.mark.parametrize("num_at_once", [1, 2, 3, 1000])
def test_a_leaf_trimmed_bit_by_bit_is_named_once(num_at_once: int) -> None:
    world = TieredCache(namer=CountingNamer)
    world.run(A, tokens_of(range(40)))
    CountingNamer.num_tokens = 0
    while world.cache.cached_pages:
        world.evict(num_at_once)
    assert CountingNamer.num_tokens == 40
    assert world.held(A, tokens_of(range(40))).num_pages == 10


def test_siblings_share_what_is_named_of_the_way() -> None:
    world = TieredCache(num_pages=60, namer=CountingNamer)
    for last in (50, 60, 70):
        world.run(A, tokens_of(range(40), range(last, last + 8)))
    CountingNamer.num_tokens = 0
    world.evict(4)
    assert CountingNamer.num_tokens == 40 + 2 * 8


def test_siblings_share_what_is_named_of_a_way_that_was_trimmed_and_has_grown() -> None:
    world = TieredCache(num_pages=60, namer=CountingNamer)
    way = tokens_of(range(80))
    world.run(A, way)
    # What it is called is kept on it, up to where it is cut.
    world.evict(15)
    world.run(A, way)
    # While somebody else has it, it does not grow, but gets children.
    lease = world.cache.acquire(A, np.array(way, dtype=np.int32))
    for first in (100, 120, 140):
        world.run(A, (*way, *range(first, first + 8)))
    CountingNamer.num_tokens = 0
    world.evict(6)
    assert CountingNamer.num_tokens == (80 - 20) + 3 * 8
    world.cache.give_back(lease)


def test_names_follow_an_edge_that_is_cut_and_grows_elsewhere() -> None:
    world = TieredCache()
    world.run(A, tokens_of(range(24)))
    world.evict(3)
    other = tokens_of(range(12), range(70, 86))
    world.run(A, other)
    world.evict(2)
    longer = (*other[:20], *range(100, 108))
    world.run(A, longer)
    world.evict()
    for tokens in (tokens_of(range(24)), other, longer):
        assert world.held(A, tokens).num_pages == len(tokens) // PAGE_SIZE
        world.check_slots(world.begin(A, tokens).take(99), tokens)


def test_public_pages_are_everybodys_and_the_rest_is_the_namespaces() -> None:
    world = TieredCache()
    public = tokens_of(range(10))
    world.cache.set_public([np.array(public, dtype=np.int32)])
    tokens = (*public, *range(50, 60))
    world.run(A, tokens)
    world.evict()
    assert world.held(A, tokens).num_pages == 5
    assert world.held(B, tokens).num_pages == 2
    world.check_slots(world.begin(B, tokens).take(99), tokens)
    # What is public no more was nobody's in particular.
    world.cache.set_public([])
    assert world.held(A, tokens).num_pages == 0
    assert world.held(A, tokens, 2).num_pages == 3


def test_names_of_two_owners_on_one_path_are_not_mixed_up() -> None:
    """Public edges part where a namespace's go on; whichever is cut first, each has its own."""
    for cuts_namespace_first in (True, False):
        world = TieredCache(num_pages=60)
        one, other = (*range(10), *range(20, 30)), (*range(10), *range(30, 40))
        world.cache.set_public([np.array(public, dtype=np.int32) for public in (one, other)])
        own = (*range(10), *range(50, 60))
        longer = (*one, *range(60, 68))
        requests = [own, one, other, longer]
        if not cuts_namespace_first:
            requests = [one, other, longer, own]
        for tokens in requests:
            world.run(A, tokens)
        # The last page of each leaf, so that it is the others' names that are kept.
        for _ in range(12):
            world.evict(1)
        world.run(A, own)
        world.evict()
        for tokens in requests:
            assert world.held(A, tokens).num_pages == len(tokens) // PAGE_SIZE
            world.check_slots(world.begin(A, tokens).take(99), tokens)
        assert [world.held(B, tokens).num_pages for tokens in (own, one, other)] == [2, 5, 5]


def test_a_namespaces_names_do_not_go_on_from_public_ones() -> None:
    world = TieredCache()
    world.cache.set_public([np.arange(16, dtype=np.int32)])
    tokens = (*range(16), *range(50, 58))
    world.run(A, tokens)
    # All of the namespace's, and one public page: the public edge is named.
    world.evict(3)
    world.run(A, tokens)
    world.evict(2)
    assert world.held(A, tokens, 3).num_pages == 3
    slots = world.tiers.info()
    assert slots.host_cached_pages == 3, "the same names as before"


def test_a_page_is_stored_as_the_plan_found_it_whoever_has_it_by_then() -> None:
    world = TieredCache(num_pages=5)
    tokens = tokens_of(range(20))
    world.run(A, tokens)
    # Every page is given to another request, which writes into it after the stores.
    world.run(B, tokens_of(range(100, 120)))
    assert world.held(A, tokens).num_pages == 5
    world.check_slots(world.begin(A, tokens).take(99), tokens)


def test_a_page_on_its_way_is_not_held_and_not_stored_twice() -> None:
    world = TieredCache()
    tokens = tokens_of(range(8))
    world.run(A, tokens)
    world.cache.evict(1000)
    first = world.tiers.take_stores()
    assert len(first) == 2
    assert world.held(A, tokens).num_pages == 0
    world.run(A, tokens)
    world.cache.evict(1000)
    assert world.tiers.take_stores() == ()
    world.perform(Moves(first))
    assert world.held(A, tokens).num_pages == 2
    world.run(A, tokens)
    world.cache.evict(1000)
    assert world.tiers.take_stores() == ()
    assert world.tiers.info().host_cached_pages == 2


def test_a_failed_store_leaves_nothing_behind() -> None:
    world = TieredCache()
    tokens = tokens_of(range(8))
    world.run(A, tokens)
    world.cache.evict(1000)
    world.tiers.failed(Moves(world.tiers.take_stores()))
    assert world.held(A, tokens).num_pages == 0
    assert world.tiers.info().host_free_pages == 40
    world.run(A, tokens)
    world.evict()
    assert world.held(A, tokens).num_pages == 2


def test_stores_planned_wait_for_a_plan_that_is_launched() -> None:
    world = TieredCache()
    world.run(A, tokens_of(range(8)))
    assert not world.has_chores()
    world.cache.evict(1000)
    assert world.has_chores()
    assert len(world.tiers.take_stores()) == 2
    assert not world.has_chores()


def test_without_room_the_deepest_pages_are_lost_and_counted() -> None:
    world = TieredCache(num_slots=3)
    tokens = tokens_of(range(20))
    world.run(A, tokens)
    world.evict()
    assert world.tiers.info().lost_pages == 2
    assert world.held(A, tokens).num_pages == 3


def test_of_what_is_held_the_deepest_pages_of_the_oldest_go_first() -> None:
    world = TieredCache(num_slots=8)
    old, new = tokens_of(range(16)), tokens_of(range(50, 66))
    world.run(A, old)
    # Deepest first, as eviction does.
    for _ in range(4):
        world.evict(1)
    world.run(A, new)
    world.evict()
    world.run(A, tokens_of(range(80, 88)))
    world.evict()
    assert world.held(A, new).num_pages == 4
    assert world.held(A, old).num_pages == 2
    # Being loaded is being used.
    slots = world.begin(A, old).take(99)
    world.tiers.failed(Moves((), tuple(Load(slot, PageId(0)) for slot in slots)))
    world.run(A, tokens_of(range(90, 98)))
    world.evict()
    assert world.held(A, old).num_pages == 2
    assert world.held(A, new).num_pages == 2


def test_clearing_a_namespace_drops_its_pages_wherever_they_are() -> None:
    world = TieredCache(has_disk=True)
    public = tuple(range(8))
    world.cache.set_public([np.array(public, dtype=np.int32)])
    held, arriving = (*public, *range(20, 28)), (*public, *range(30, 38))
    world.run(A, held)
    world.run(B, held)
    world.evict()
    world.settle()
    world.run(A, arriving)
    world.cache.evict(1000)
    world.tiers.note_computed(A, np.array(held, dtype=np.int32))
    world.tiers.clear(A)
    world.tiers.check_invariants()
    assert world.tiers.take_stores() == ()
    assert world.held(A, held).num_pages == 2, "what is public is no namespace's"
    assert world.held(B, held).num_pages == 4
    assert len(world.disk.files) == 4
    assert not world.has_chores()
    world.tiers.clear(None)
    assert world.held(B, held).num_pages == 0
    assert world.disk.files == {}
    assert world.tiers.info().host_free_pages == 40


def test_clearing_one_namespace_leaves_the_others_stores() -> None:
    world = TieredCache()
    for namespace in (A, B):
        world.run(namespace, tokens_of(range(8)))
    world.cache.evict(1000)
    world.tiers.clear(A)
    world.perform(Moves(world.tiers.take_stores()))
    assert world.held(A, tokens_of(range(8))).num_pages == 0
    assert world.held(B, tokens_of(range(8))).num_pages == 2


def test_a_store_cleared_under_way_is_dropped_when_it_lands() -> None:
    world = TieredCache()
    tokens = tokens_of(range(8))
    world.run(A, tokens)
    world.cache.evict(1000)
    stores = world.tiers.take_stores()
    world.tiers.clear(A)
    # The same pages are on their way once more, and these are wanted.
    world.run(A, tokens)
    world.cache.evict(1000)
    again = world.tiers.take_stores()
    assert len(again) == 2
    world.perform(Moves(stores))
    assert world.held(A, tokens).num_pages == 0
    world.perform(Moves(again))
    assert world.held(A, tokens).num_pages == 2
