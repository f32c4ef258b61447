"""Down to files: what has landed is written, and what was computed is backed up."""

from pathlib import Path

import numpy as np

from radixserve.tiers.backups import MAX_LOOK_UPS, MAX_NOTED_PAGES
from radixserve.tiers.disk_tier import DiskTier
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_directory import PageDirectory
from radixserve.tiers.page_file import file_bytes
from radixserve.tiers.tiers import Tiers
from tests.tiers.tiered_cache import PAGE_SIZE, A, B, TieredCache, tokens_of


def test_what_has_landed_is_written_and_what_is_in_a_file_is_not_stored_again() -> None:
    world = TieredCache(num_slots=8, has_disk=True)
    tokens = tokens_of(range(12))
    world.run(A, tokens)
    world.evict()
    assert world.tiers.is_busy
    assert world.tiers.info().host_in_use_pages == 3
    world.settle()
    assert len(world.disk.files) == 3
    assert world.tiers.info().host_cached_pages == 3
    world.tiers._slots.clear(None)
    assert world.held(A, tokens).num_disk_pages == 3
    world.run(A, tokens)
    world.cache.evict(1000)
    assert world.tiers.take_stores() == ()
    assert world.tiers.info().lost_pages == 0


def test_half_of_the_slots_are_written_at_a_time_and_the_rest_waits() -> None:
    world = TieredCache(num_slots=6, has_disk=True)
    tokens = tokens_of(range(24))
    world.run(A, tokens)
    world.evict()
    assert (world.disk.num_under_way, world.tiers.info().host_cached_pages) == (3, 3)
    world.disk.end_one()
    world.tiers.collect()
    assert (world.disk.num_under_way, world.tiers.info().host_cached_pages) == (3, 3)
    # Another one's page takes the place of the deepest of those that wait.
    world.run(B, tokens_of(range(4)))
    world.evict()
    world.settle()
    assert len(world.disk.files) == 6
    assert world.tiers._writes is not None
    assert world.tiers._writes.num_missed == 1


def test_of_pages_that_wait_no_more_are_known_than_there_are_slots() -> None:
    world = TieredCache(num_slots=2, has_disk=True)
    writes = world.tiers._writes
    assert writes is not None
    for first in range(0, 32, 4):
        world.run(A, tuple(range(first, first + 4)))
        world.evict()
        assert len(writes) <= 3
    world.settle()
    # The one that was being written all the time, and the last one of those that were not.
    assert len(world.disk.files) == 2
    assert writes.num_missed == 6


def test_a_page_is_offered_as_often_as_one_likes_and_written_once() -> None:
    world = TieredCache(num_slots=4, has_disk=True)
    world.run(A, tuple(range(16)))
    world.evict()
    writes = world.tiers._writes
    assert writes is not None
    # Two are being written, and two wait.
    for slot in range(4):
        writes.offer(SlotId(slot))
    assert (world.disk.num_under_way, len(writes)) == (2, 4)
    # One that waits comes into a file by some other way.
    waiting = next(iter(writes._waiting.values()))
    world.disk.files[waiting] = world.host[0].copy()
    world.settle()
    assert world.disk.num_written == 3
    assert len(world.disk.files) == 4
    for slot in range(4):
        writes.offer(SlotId(slot))
    assert (world.disk.num_under_way, len(writes)) == (0, 0)


def test_what_waits_to_be_written_can_be_cleared() -> None:
    world = TieredCache(num_slots=6, has_disk=True)
    for namespace, first in ((A, 0), (A, 10), (A, 20), (B, 30), (A, 40)):
        world.run(namespace, tuple(range(first, first + 4)))
        world.evict()
    writes = world.tiers._writes
    assert writes is not None
    assert (world.disk.num_under_way, len(writes)) == (3, 5)
    world.tiers.clear(A)
    world.tiers.check_invariants()
    assert len(writes) == 4
    world.settle()
    assert {key.owner for key in world.disk.files} == {world.namer.owner_name(B)}


def test_nothing_is_planned_of_what_the_tree_does_not_know_at_all() -> None:
    world = TieredCache(has_disk=True)
    world.tiers.note_computed(A, np.arange(8, dtype=np.int32))
    assert world.has_chores()
    assert world.back_up() == 0
    assert not world.has_chores()


def test_a_write_that_fails_leaves_the_page_in_host_memory() -> None:
    world = TieredCache(has_disk=True)
    world.run(A, tokens_of(range(4)))
    world.evict()
    world.disk.num_failures = 1
    world.settle()
    assert world.disk.files == {}
    assert world.held(A, tokens_of(range(4))).num_host_pages == 1
    # The next request that leaves it there has it written from there.
    world.tiers.note_computed(A, np.arange(4, dtype=np.int32))
    assert world.back_up() == 0
    world.settle()
    assert len(world.disk.files) == 1


def test_what_has_been_computed_is_backed_up_while_the_tree_holds_it() -> None:
    world = TieredCache(has_disk=True)
    turn = tuple(range(18))
    world.run(A, turn)
    world.tiers.note_computed(A, np.array(turn, dtype=np.int32))
    assert world.has_chores()
    assert world.back_up(max_pages=3) == 3
    assert world.back_up(max_pages=3) == 1
    assert not world.has_chores()
    world.settle()
    assert len(world.disk.files) == 4
    # The next turn repeats the last one, of which only what is new is stored.
    longer = (*turn, *range(60, 70))
    world.run(A, longer)
    world.tiers.note_computed(A, np.array(longer, dtype=np.int32))
    assert world.back_up() == 3
    world.settle()
    assert len(world.disk.files) == 7
    assert {key.identity for key in world.disk.files} == {
        world.tiers.chain(A, np.array(longer, dtype=np.int32)).identity(page) for page in range(7)
    }
    for key, data in world.disk.files.items():
        world.contents.expect(A, longer)
        world.contents.check_page(data, key.identity)


def test_backups_take_public_pages_too_and_pages_inside_which_edges_part() -> None:
    world = TieredCache(has_disk=True)
    world.cache.set_public([np.arange(6, dtype=np.int32)])
    tokens = {A: (*range(6), *range(20, 30)), B: (*range(6), *range(40, 50))}
    for namespace, own in tokens.items():
        world.run(namespace, own)
        world.tiers.note_computed(namespace, np.array(own, dtype=np.int32))
    assert world.back_up() == 1 + 3 + 3
    world.settle()
    for namespace, own in tokens.items():
        world.contents.expect(namespace, own)
    for key, data in world.disk.files.items():
        world.contents.check_page(data, key.identity)


def test_files_of_what_is_used_and_never_evicted_are_not_the_oldest(tmp_path: Path) -> None:
    world = TieredCache()
    page_bytes = world.contents.page_bytes
    directory = PageDirectory(tmp_path, b"f" * 32, page_bytes, 6 * file_bytes(page_bytes))
    disk = DiskTier(directory, world.host)
    public = world.cache.public_prefixes
    world.tiers = Tiers(world.namer, world.host, public, world.costs, disk)

    def use(first_token: int) -> None:
        tokens = tuple(range(first_token, first_token + 2 * PAGE_SIZE))
        world.run(A, tokens)
        world.tiers.note_computed(A, np.array(tokens, dtype=np.int32))
        while world.has_chores() or world.tiers.is_busy:
            world.back_up()
            disk.wait()
            world.tiers.collect()

    for time in range(1, 6):
        use(0)
        use(100 * time)
    world.tiers.close()
    # Two pages of each prefix, once.
    assert directory.num_stored == 2 * (1 + 5)


def test_what_was_evicted_is_not_backed_up_but_was_demoted() -> None:
    world = TieredCache(has_disk=True)
    tokens = tuple(range(20))
    world.run(A, tokens)
    world.tiers.note_computed(A, np.array(tokens, dtype=np.int32))
    world.evict(2)
    assert world.back_up() == 3
    world.settle()
    assert len(world.disk.files) == 5
    world.run(A, tokens[:10])
    world.tiers.note_computed(A, np.array((*tokens[:10], *range(90, 120)), dtype=np.int32))
    assert world.back_up() == 0
    assert not world.has_chores()


def test_backups_stop_where_files_do_not_keep_up() -> None:
    world = TieredCache(num_slots=8, has_disk=True)
    world.run(A, tuple(range(40)))
    world.tiers.note_computed(A, np.arange(40, dtype=np.int32))
    assert world.back_up() == 4
    assert not world.has_chores()
    assert world.back_up() == 0
    world.disk.end_one()
    world.tiers.collect()
    assert world.has_chores()
    assert world.back_up() == 1
    while world.has_chores() or world.tiers.is_busy:
        world.settle()
        world.back_up()
    assert len(world.disk.files) == 10


def test_the_queue_of_backups_is_bounded_by_pages_and_so_is_each_look_at_it() -> None:
    world = TieredCache(has_disk=True)
    backups = world.tiers._backups
    assert backups is not None
    tokens = np.zeros(PAGE_SIZE * (MAX_NOTED_PAGES // 3), dtype=np.int32)
    for count in (1, 2, 3, 3):
        world.tiers.note_computed(A, tokens)
        assert backups.num_pages <= MAX_NOTED_PAGES
        assert len(backups._queue) == count
    world.tiers.note_computed(A, np.zeros(PAGE_SIZE * (MAX_NOTED_PAGES + 1), dtype=np.int32))
    world.tiers.note_computed(A, np.zeros(PAGE_SIZE - 1, dtype=np.int32))
    assert len(backups._queue) == 3
    world.tiers.clear(A)
    assert backups.num_pages == 0
    # Pages that are in files already are passed over, so many at a time.
    world.run(A, tuple(range(8)))
    world.evict()
    world.settle()
    for _ in range(MAX_LOOK_UPS // 2 + 3):
        world.tiers.note_computed(A, np.arange(8, dtype=np.int32))
    assert world.back_up() == 0
    assert len(backups._queue) == 3


def test_without_a_disk_nothing_is_kept_in_files() -> None:
    world = TieredCache()
    world.run(A, tuple(range(8)))
    world.tiers.note_computed(A, np.arange(8, dtype=np.int32))
    world.tiers.on_news = lambda: None
    assert world.tiers.on_news is None
    assert not world.has_chores()
    assert world.back_up() == 0
    assert not world.tiers.wait(0.0)
    assert not world.tiers.has_news
    assert not world.tiers.is_busy
    world.tiers.collect()
    assert world.disk.under_way == []
    world.tiers.close()


def test_closing_writes_what_waits() -> None:
    world = TieredCache(num_slots=6, has_disk=True)
    world.run(A, tuple(range(24)))
    world.evict()
    loading = world.begin(A, tuple(range(24)))
    world.tiers.close(10.0)
    assert len(world.disk.files) == 6
    assert world.disk.is_closed
    assert loading.is_over
    assert world.tiers.info().host_in_use_pages == 0
