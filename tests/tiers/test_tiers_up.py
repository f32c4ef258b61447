"""Up: what is held below is loaded in order, and nothing that is not the page meant."""

import numpy as np
import pytest

from radixserve.tiers.loading import Loading
from radixserve.tiers.moves import Moves, SlotId
from radixserve.tiers.tiers import Held
from tests.tiers.contents import WeakNamer
from tests.tiers.tiered_cache import TOKENS, A, B, TieredCache, in_files, in_host, moves_of


def is_waiting(loading: Loading) -> bool:
    """Asked anew each time, which mypy does not expect of an attribute."""
    return loading.is_waiting


def test_a_loading_hands_out_its_pages_in_order_and_pins_them_until_they_have_landed() -> None:
    world = in_host()
    loading = world.begin(A, TOKENS)
    assert (loading.next_page, loading.end_page) == (0, 10)
    assert not is_waiting(loading)
    first, second = loading.take(4), loading.take(99)
    assert (len(first), len(second)) == (4, 6)
    assert loading.is_over
    assert not is_waiting(loading)
    assert loading.take(5) == []
    assert (loading.num_host_pages, loading.num_disk_pages) == (10, 0)
    world.check_slots(first + second, TOKENS)
    assert world.tiers.info().host_in_use_pages == 10
    world.tiers.landed(moves_of(first))
    world.tiers.failed(moves_of(second))
    info = world.tiers.info()
    assert (info.host_in_use_pages, info.host_cached_pages) == (0, 10)
    assert (info.host_loaded_pages, info.disk_loaded_pages) == (4, 0)


def test_a_loading_may_begin_behind_what_the_tree_has() -> None:
    world = in_host()
    loading = world.begin(A, TOKENS, first_page=7)
    slots = loading.take(99)
    assert len(slots) == 3
    world.check_slots(slots, TOKENS, first_page=7)
    world.tiers.landed(moves_of(slots))


def test_a_loading_ends_where_a_page_has_gone_meanwhile() -> None:
    world = in_host(num_slots=12)
    loading = world.begin(A, TOKENS)
    taken = loading.take(2)
    assert loading.pins() == world.begin(A, TOKENS, first_page=2).pins()
    world.tiers.clear(A)
    # What it had pinned ahead is there still, but for nobody else.
    assert world.begin(A, TOKENS).is_over
    taken += loading.take(9)
    assert loading.is_over
    assert loading.end_page == 5
    world.check_slots(taken, TOKENS)
    assert len(taken) == 5
    world.tiers.landed(moves_of(taken))
    assert world.tiers.info().host_free_pages == 9


def test_two_loadings_take_the_same_pages() -> None:
    world = in_host()
    one, other = world.begin(A, TOKENS), world.begin(A, TOKENS)
    first = one.take(99)
    assert other.take(99) == first
    world.tiers.landed(moves_of(first))
    assert world.tiers.info().host_in_use_pages == 10
    world.tiers.landed(moves_of(first))
    assert world.tiers.info().host_in_use_pages == 0


def test_a_closed_loading_takes_nothing_and_holds_what_it_took() -> None:
    world = in_files(num_slots=8)
    loading = world.begin(A, TOKENS)
    world.settle()
    taken = loading.take(1)
    for _ in range(2):
        loading.close()
        assert loading.is_over
        assert loading.take(5) == []
    world.tiers.check_invariants()
    world.settle()
    assert world.tiers.info().host_in_use_pages == 1
    world.tiers.landed(moves_of(taken))
    assert world.tiers.info().host_in_use_pages == 0


def test_names_find_and_identities_prove() -> None:
    """Two prefixes whose pages have the same names: neither is ever loaded as the other's."""

    class OneName(WeakNamer):
        num_names = 1

    world = TieredCache(has_disk=True, namer=OneName)
    world.run(A, (1, 2, 3, 4))
    world.evict()
    for _ in range(2):
        assert world.held(A, (5, 6, 7, 8)).num_pages == 1, "the name says so"
        loading = world.begin(A, (5, 6, 7, 8))
        assert loading.take(1) == []
        assert loading.is_over
        world.settle()
    assert len(world.begin(A, (1, 2, 3, 4)).take(1)) == 1
    # The same of a page that is being read for somebody else.
    other = TieredCache(has_disk=True, namer=OneName)
    other.disk.files.update(world.disk.files)
    right, wrong = other.begin(A, (1, 2, 3, 4)), other.begin(A, (5, 6, 7, 8))
    assert wrong.is_over
    assert right.is_waiting
    other.settle()
    assert len(right.take(1)) == 1


def test_a_file_of_another_prefix_is_not_loaded() -> None:
    class OneName(WeakNamer):
        num_names = 1

    world = TieredCache(has_disk=True, namer=OneName)
    world.run(A, (1, 2, 3, 4))
    world.evict()
    world.settle()
    world.tiers._slots.clear(None)
    loading = world.begin(A, (5, 6, 7, 8))
    assert is_waiting(loading)
    world.settle()
    assert loading.is_over
    assert loading.take(1) == []


def test_held_counts_pages_in_a_row() -> None:
    world = in_files()
    assert world.held(A, TOKENS) == Held(0, 10)
    assert world.held(B, TOKENS).num_pages == 0
    assert world.held(A, TOKENS[:22]).num_pages == 5
    assert world.held(A, TOKENS, first_page=8).num_pages == 2
    loading = world.begin(A, TOKENS[:8])
    world.settle()
    assert world.held(A, TOKENS) == Held(2, 8)
    loading.close()
    key = world.tiers.chain(A, np.array(TOKENS, dtype=np.int32)).key(5)
    del world.disk.files[key]
    assert world.held(A, TOKENS) == Held(2, 3)


def test_what_is_not_worth_it_does_not_count_as_held() -> None:
    world = in_files()
    world.begin(A, TOKENS[:8]).close()
    world.settle()
    world.costs.observe_prefill(4, 1.0)
    world.costs.observe_moves(1, 0.4)
    assert world.held(A, TOKENS) == Held(2, 8)
    for _ in range(10):
        world.costs.observe_read(1000, 1000 * 0.7, 0.1)
    assert world.held(A, TOKENS) == Held(2, 0)
    for _ in range(10):
        world.costs.observe_moves(1000, 1000 * 2.0)
    assert world.held(A, TOKENS) == Held(0, 0)


def test_pages_are_read_ahead_in_order_and_within_bounds() -> None:
    world = in_files(num_slots=12)
    loading = world.begin(A, TOKENS)
    assert is_waiting(loading)
    assert world.tiers.is_busy
    # A quarter of the slots.
    assert [job.slot for job in world.disk.under_way] == loading.pins()
    assert len(loading.pins()) == 3
    # The second page is there, but not the first.
    world.disk.end_one(1)
    assert world.has_news()
    world.tiers.collect()
    assert is_waiting(loading)
    assert loading.take(99) == []
    world.disk.end_one(0)
    world.tiers.collect()
    assert not is_waiting(loading)
    slots = loading.take(99)
    assert len(slots) == 2
    assert loading.num_disk_pages == 2
    world.check_slots(slots, TOKENS)
    assert world.disk.num_under_way == 3
    world.tiers.landed(moves_of(slots))
    assert world.tiers.info().disk_loaded_pages == 2
    assert world.costs.page_read_s == pytest.approx(0.001)


def test_never_more_than_32_pages_are_read_ahead() -> None:
    world = TieredCache(num_pages=60, num_slots=200, has_disk=True)
    tokens = tuple(range(4 * 50))
    world.run(A, tokens)
    world.evict()
    world.settle()
    world.tiers._slots.clear(None)
    loading = world.begin(A, tokens)
    assert world.disk.num_under_way == 32
    world.disk.end_one()
    world.tiers.collect()
    assert world.disk.num_under_way == 31
    assert len(loading.take(50)) == 1
    assert world.disk.num_under_way == 32


def test_beside_streams_fewer_pages_are_read_ahead() -> None:
    world = TieredCache(num_pages=60, num_slots=200, has_disk=True)
    tokens = tuple(range(4 * 50))
    world.run(A, tokens)
    world.evict()
    world.settle()
    world.tiers._slots.clear(None)
    chain = world.tiers.chain(A, np.array(tokens, np.int32))
    loading = world.tiers.begin(chain, 0, 49, max_ahead=1)
    assert world.disk.num_under_way == 1
    loading.max_ahead = 3
    loading.look_ahead()
    assert world.disk.num_under_way == 3


def finish(world: TieredCache, loading: Loading, max_pages: int = 99) -> list[SlotId]:
    """Load all that can be had, each step landing at once; returns how many pages each had."""
    slots: list[SlotId] = []
    for _ in range(100):
        if loading.is_over:
            return slots
        taken = loading.take(max_pages)
        world.check_slots(taken, TOKENS, loading.next_page - len(taken))
        slots += taken
        world.tiers.landed(moves_of(taken))
        world.disk.end_one()
        world.tiers.collect()
        world.tiers.check_invariants()
    raise AssertionError(f"{loading} does not end")


@pytest.mark.parametrize("num_slots", [1, 2, 5, 12, 40])
def test_all_pages_come_up_however_few_the_slots(num_slots: int) -> None:
    world = in_files(num_slots=num_slots)
    assert len(finish(world, world.begin(A, TOKENS))) == 10


def test_two_loadings_of_the_same_pages_share_each_read() -> None:
    world = in_files()
    one, other = world.begin(A, TOKENS), world.begin(A, TOKENS)
    assert world.disk.num_under_way == 10
    world.settle()
    assert world.disk.num_read == 10
    assert one.take(99) == other.take(99)
    assert one.num_disk_pages == other.num_disk_pages == 10


def test_a_read_that_fails_ends_the_loading_there() -> None:
    world = in_files()
    loading, other = world.begin(A, TOKENS), world.begin(A, TOKENS)
    for number in range(10):
        world.disk.num_failures = int(number == 4)
        world.disk.end_one()
    world.tiers.collect()
    world.tiers.check_invariants()
    assert loading.end_page == other.end_page == 4
    slots = loading.take(99)
    assert len(slots) == 4
    assert loading.is_over
    world.check_slots(slots, TOKENS)
    # What was read behind it is in host memory, for whoever computes the page again.
    assert world.held(A, TOKENS, first_page=5).num_host_pages == 5
    assert world.held(A, TOKENS, first_page=4).num_pages == 0


def test_who_finds_no_room_waits_until_somebody_leaves() -> None:
    world = in_files(num_slots=1)
    first = world.begin(A, TOKENS)
    second = world.begin(A, TOKENS[:4] + (99,) * 0)
    blocked = world.begin(A, TOKENS, first_page=3)
    assert is_waiting(blocked)
    assert blocked.pins() == []
    world.settle()
    first.close()
    second.close()
    assert len(blocked.pins()) == 1
    world.settle()
    assert not is_waiting(blocked)
    world.check_slots(blocked.take(1), TOKENS, 3)


def test_reads_that_are_cleared_bring_nothing() -> None:
    world = in_files()
    loading = world.begin(A, TOKENS)
    world.tiers.clear(A)
    late = world.begin(A, TOKENS)
    assert late.is_over
    world.settle()
    assert loading.is_over
    assert world.held(A, TOKENS).num_pages == 0
    assert world.tiers.info().host_free_pages == 40


def test_a_page_that_was_stored_while_it_was_read_is_there_once() -> None:
    world = in_files()
    loading = world.begin(A, TOKENS[:4])
    world.disk.files.clear()
    world.run(A, TOKENS[:4])
    world.evict()
    assert world.held(A, TOKENS[:4]).num_host_pages == 1
    world.disk.files.update(in_files().disk.files)
    world.settle()
    slots = loading.take(1)
    world.check_slots(slots, TOKENS)
    world.tiers.landed(moves_of(slots))
    assert world.tiers.info().host_cached_pages == 1


def test_a_page_that_was_read_while_it_was_stored_is_there_once() -> None:
    world = in_files()
    loading = world.begin(A, TOKENS[:4])
    world.disk.files.clear()
    world.run(A, TOKENS[:4])
    world.evict(lands=False)
    stores = world.tiers.take_stores()
    assert len(stores) == 1
    world.disk.files.update(in_files().disk.files)
    world.disk.end_one()
    world.tiers.collect()
    world.perform(Moves(stores))
    slots = loading.take(1)
    world.check_slots(slots, TOKENS)
    world.tiers.landed(moves_of(slots))
    assert world.tiers.info().host_cached_pages == 1


def test_a_thread_rings_when_there_is_news() -> None:
    world = in_files()
    rung: list[bool] = []
    world.tiers.on_news = lambda: rung.append(world.tiers.has_news)
    world.begin(A, TOKENS[:8])
    assert not world.has_news()
    world.disk.end_one()
    assert rung == [True]
    assert world.tiers.wait(0.0)
    world.tiers.collect()
    assert not world.has_news()
    world.settle()
    assert not world.tiers.wait(0.0)


def test_clearing_one_namespace_leaves_the_others_reads() -> None:
    world = in_files()
    loading = world.begin(A, TOKENS)
    world.tiers.clear(B)
    world.settle()
    assert len(loading.take(99)) == 10
