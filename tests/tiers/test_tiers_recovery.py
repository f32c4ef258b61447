"""After an interrupt, and when something is wrong: what is counted on is counted again."""

from collections.abc import Callable

import pytest

from radixserve.tiers.moves import Moves, SlotId
from radixserve.tiers.page_names import PageKey
from tests.tiers.tiered_cache import TOKENS, A, B, in_files, in_host, moves_of


def test_after_an_interrupt_only_known_plans_count() -> None:
    world = in_files()
    loading = world.begin(A, TOKENS)
    for _ in range(4):
        world.disk.end_one()
    world.tiers.collect()
    launched = moves_of(loading.take(2))
    loading.take(1)
    world.run(B, TOKENS[:12])
    world.cache.evict(1)
    world.tiers.take_stores()
    world.cache.evict(1)
    planned = world.tiers.info().host_in_use_pages
    world.tiers.recover([launched])
    world.tiers.check_invariants()
    assert world.tiers.info().host_in_use_pages < planned
    # The store that no plan had taken is still planned, the loading goes on where it can.
    assert len(world.tiers.take_stores()) == 1
    assert (loading.next_page, loading.end_page) == (3, 4)
    loading.close()
    world.settle()
    world.tiers.landed(launched)
    assert world.held(A, TOKENS).num_host_pages == 4


def test_what_was_taken_in_when_an_interrupt_came_is_taken_in_once() -> None:
    """The list of what is done is cut behind what was dealt with, so that none is lost."""
    world = in_files()
    loading = world.begin(A, TOKENS[:8])
    world.run(B, TOKENS[:4])
    world.evict()
    while world.disk.end_one():
        pass
    done = world.disk.take_done()
    assert {one.kind for one in done} == {"read", "write"}
    world.tiers._done.extend(done)
    assert world.has_news()
    world.tiers.collect()
    world.tiers._done.extend(done)
    world.tiers.collect()
    world.tiers.check_invariants()
    assert repr(loading) == "Loading([0, 2), 2 pages ahead)"
    assert len(loading.take(99)) == 2


@pytest.mark.parametrize("kind", ["read", "write"])
def test_what_an_interrupt_kept_from_being_handed_in_is_not_waited_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(slot: SlotId, key: PageKey) -> None:
        raise KeyboardInterrupt

    world = in_files()
    other = tuple(range(100, 112))
    world.run(A, other)
    world.cache.evict(3)
    stores = Moves(world.tiers.take_stores())
    hand_in: dict[str, Callable[[], object]] = {
        "read": lambda: world.begin(A, TOKENS),
        "write": lambda: world.tiers.landed(stores),
    }
    with monkeypatch.context() as patch:
        patch.setattr(world.disk, kind, interrupt)
        with pytest.raises(KeyboardInterrupt):
            hand_in[kind]()
    world.tiers.recover([])
    world.tiers.check_invariants()
    assert not world.tiers.is_busy
    assert world.tiers.info().host_in_use_pages == 0
    # It works as before.
    num_written = world.disk.num_written
    world.run(A, other)
    world.evict()
    world.settle()
    assert world.disk.num_written > num_written
    loading = world.begin(A, TOKENS)
    world.settle()
    assert len(loading.take(99)) == 10


def test_check_invariants_finds_a_pin_that_nobody_explains() -> None:
    world = in_host()
    world.tiers._slots.pin(SlotId(3))
    with pytest.raises(AssertionError, match="slot 3 has 1 pins, 0 are explained"):
        world.tiers.check_invariants()
