"""What evicting does to the tree: leaves trimmed, nodes merged, locked pages that nobody reads."""

import pytest

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.errors import OutOfPagesError
from radixserve.ids import DEFAULT_NAMESPACE
from tests.cache.failing_pool import FailingPool
from tests.cache.letters import P, compute, run, sketch, start, tokens_of


@pytest.fixture
def cache() -> PrefixCache:
    return PrefixCache(32, P)


def test_eviction_trims_a_leaf_from_its_end(cache: PrefixCache) -> None:
    run(cache, "abcdefghijklmn")
    assert cache.evict(1) == 1
    assert sketch(cache) == ["abcdefghijkl 0 1 2"]
    assert cache.evict(2) == 2
    assert sketch(cache) == ["abcd 0"]
    assert cache.evict(5) == 1
    assert sketch(cache) == []
    assert cache.evict(1) == 0
    assert (cache.free_pages, cache.evicted_pages) == (32, 4)
    assert not cache.tree.roots
    cache.check_invariants()


def test_eviction_goes_on_when_a_page_was_the_parents_too(cache: PrefixCache) -> None:
    # abcdef 0 1*       dropping page 1 of the leaf frees nothing: the locked parent lists it
    #   gh... 1 2
    run(cache, "abcdefghij")
    lease = start(cache, "abcdef")
    assert sketch(cache) == ["abcdef 0 1*", "  ghij 1 2"]
    assert cache.cached_pages == 1
    assert cache.evict(2) == 1
    assert sketch(cache) == ["abcdef 0 1*"]
    cache.check_invariants([lease])


def test_eviction_merges_and_counts_the_page_that_this_frees(cache: PrefixCache) -> None:
    # abcdef 0 1          the older leaf goes, and with it page 1: the other supplies that index
    #   XY 2        ->    abcdefXY 0 2
    #   gh 1
    run(cache, "abcdefgh")
    run(cache, "abcdefXY")
    assert sketch(cache) == ["abcdef 0 1", "  XY 2", "  gh 1"]
    assert cache.evict(1) == 1
    assert sketch(cache) == ["abcdefXY 0 2"]
    assert cache.free_pages == 30
    cache.check_invariants()


def test_eviction_frees_a_locked_page_that_no_lease_reads(cache: PrefixCache) -> None:
    """The upper half of a split keeps the page for the lower half's sake, and for nobody else's."""
    run(cache, "abcdef")
    lease = start(cache, "abcde")
    compute(cache, lease, "abcdexyz")
    assert sketch(cache) == ["abcde 0 1*", "  f 1", "  xyz 2*"]
    free = cache.free_pages
    assert cache.cached_pages == 0
    assert cache.tree.num_superseded_pages() == 1
    assert cache.evict(1) == 1
    assert sketch(cache) == ["abcde 0 2*", "  xyz 2*"]
    assert cache.free_pages == free + 1
    assert cache.tree.num_superseded_pages() == 0
    cache.check_invariants([lease])


def test_reserve_reaches_the_superseded_page_too() -> None:
    cache = PrefixCache(4, 4)
    run(cache, "abcdef")
    lease = start(cache, "abcde")
    compute(cache, lease, "abcdexyz")
    cache.reserve(lease, 16)
    assert cache.in_use_pages == 4
    assert sorted(lease.page_table.tolist()) == [0, 1, 2, 3]
    cache.check_invariants([lease])


def test_eviction_frees_a_page_that_a_copy_was_waiting_for_when_it_was_superseded(
    cache: PrefixCache,
) -> None:
    run(cache, "abcdef")
    waiting = cache.acquire(DEFAULT_NAMESPACE, tokens_of("abcdef"))
    lease = start(cache, "abcdef")
    compute(cache, lease, "abcdefgh")
    assert sketch(cache) == ["abcdef 0 1**", "  gh 3*"]
    cache.finish_copy(waiting)
    assert cache.cached_pages == 0
    assert cache.evict(1) == 1
    assert sketch(cache) == ["abcdef 0 3**", "  gh 3*"]
    cache.check_invariants([waiting, lease])


def test_a_page_that_a_copy_waits_for_is_not_superseded(cache: PrefixCache) -> None:
    run(cache, "abcdef")
    waiting = cache.acquire(DEFAULT_NAMESPACE, tokens_of("abcdef"))
    lease = start(cache, "abcdef")
    compute(cache, lease, "abcdefgh")
    assert cache.tree.num_superseded_pages() == 0
    assert cache.evict(1) == 0
    cache.check_invariants([waiting, lease])


def test_what_a_failed_allocation_leaves_evicted_was_of_no_use_to_any_lease() -> None:
    """Eviction that came before it may have freed a page that was locked and superseded."""
    pool = FailingPool(4)
    cache = PrefixCache(4, P, pool=pool)
    run(cache, "abcdef")
    lease = start(cache, "abcde")
    compute(cache, lease, "abcdexyz")
    table = lease.page_table.tolist()
    assert (cache.free_pages, cache.cached_pages, cache.in_use_pages) == (1, 0, 3)
    pool.fails = True
    with pytest.raises(OutOfPagesError, match="injected"):
        cache.reserve(lease, 16)
    assert (cache.free_pages, cache.cached_pages, cache.in_use_pages) == (2, 0, 2)
    assert lease.page_table.tolist() == table
    cache.check_invariants([lease])
    cache.reserve(lease, 16)


def test_an_allocation_that_cannot_succeed_evicts_nothing() -> None:
    cache = PrefixCache(4, P)
    lease = start(cache, "abcde")
    compute(cache, lease, "abcde")
    run(cache, "xyz")
    before = (sketch(cache), cache.info())
    with pytest.raises(OutOfPagesError, match="3 pages are needed and 1 of 4 are free"):
        cache.reserve(lease, 20)
    assert (sketch(cache), cache.info()) == before
