"""The facade: exact hits, running out of pages, forks, pending copies, misuse."""

import numpy as np
import pytest

from radixserve.cache.eviction import LRU
from radixserve.cache.page_pool import PagePool
from radixserve.cache.prefix_cache import Lease, PrefixCache
from radixserve.errors import OutOfPagesError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, TokenArray
from radixserve.types import CacheInfo

PAGE_SIZES = [1, 2, 4, 16]


def numbers(start: int, end: int) -> TokenArray:
    return np.arange(start, end, dtype=np.int32)


def start(cache: PrefixCache, tokens: TokenArray) -> Lease:
    lease = cache.acquire(DEFAULT_NAMESPACE, tokens)
    if lease.pending_copy is not None:
        cache.finish_copy(lease)
    return lease


def compute(cache: PrefixCache, lease: Lease, tokens: TokenArray) -> None:
    cache.reserve(lease, len(tokens))
    cache.commit(lease, tokens)


def run(cache: PrefixCache, tokens: TokenArray) -> None:
    lease = start(cache, tokens)
    compute(cache, lease, tokens)
    cache.release(lease, tokens)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_hits_are_exact_to_the_token(page_size: int) -> None:
    cached = numbers(0, 3 * page_size + 5)
    for shared in range(3 * page_size + 1):
        for tail in (0, 1, page_size + 1):
            cache = PrefixCache(64, page_size)
            run(cache, cached)
            prompt = np.concatenate([cached[:shared], numbers(1000, 1000 + tail)])
            if not len(prompt):
                continue
            expected = min(shared, len(prompt) - 1)
            assert cache.match(DEFAULT_NAMESPACE, prompt[:-1]) == expected
            lease = cache.acquire(DEFAULT_NAMESPACE, prompt[:-1])
            assert lease.num_cached_tokens == lease.num_committed_tokens == expected
            assert len(lease.page_table) == -(-expected // page_size)
            assert (lease.pending_copy is not None) == (expected % page_size != 0)
            cache.check_invariants([lease])


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_whole_pages_only_cuts_at_the_page_border(page_size: int) -> None:
    cached = numbers(0, 3 * page_size + 5)
    for shared in range(3 * page_size + 1):
        cache = PrefixCache(64, page_size)
        run(cache, cached)
        lease = cache.acquire(DEFAULT_NAMESPACE, cached[:shared], whole_pages_only=True)
        assert lease.num_cached_tokens == shared - shared % page_size
        assert lease.pending_copy is None
        cache.check_invariants([lease])
        cache.release(lease, cached[:shared][: lease.num_committed_tokens])
        cache.check_invariants()


def test_three_turns_of_a_chat_compute_each_token_once() -> None:
    cache = PrefixCache(64, 16)
    computed = numbers(0, 0)
    for turn in range(3):
        # The last sampled token of an answer was never run, so the next turn brings it too.
        prompt = np.concatenate([computed, numbers(1000 * turn, 1000 * turn + 21)])
        lease = start(cache, prompt[:-1])
        assert lease.num_cached_tokens == len(computed)
        answer = np.concatenate([prompt, numbers(5000 * turn, 5000 * turn + 37)])
        for end in range(len(prompt), len(answer)):
            compute(cache, lease, answer[:end])
        computed = answer[:-1]
        cache.release(lease, computed)
        cache.check_invariants()
        assert cache.cached_pages == -(-len(computed) // 16)


def test_namespaces_share_nothing() -> None:
    cache = PrefixCache(8, 4)
    run(cache, numbers(0, 8))
    assert cache.match(Namespace("tenant"), numbers(0, 8)) == 0
    assert cache.match(DEFAULT_NAMESPACE, numbers(0, 8)) == 8


def test_a_lease_without_tokens_keeps_its_namespace_alive() -> None:
    cache = PrefixCache(8, 4)
    lease = cache.acquire(Namespace("salt"), numbers(0, 4))
    assert list(cache.tree.roots) == ["salt"]
    cache.check_invariants([lease])
    cache.release(lease, numbers(0, 0))
    assert not cache.tree.roots, "a salt is hostile input: nothing of it stays"


def test_info_and_counters() -> None:
    policy = LRU()
    cache = PrefixCache(8, 4, policy)
    assert cache.policy is policy
    run(cache, numbers(0, 9))
    lease = start(cache, numbers(0, 4))
    assert cache.info() == CacheInfo(
        free_pages=5, cached_pages=2, in_use_pages=1, total_pages=8, page_size=4
    )
    cache.reserve(lease, 4 * 7)
    assert cache.evicted_pages == 1
    assert cache.info() == CacheInfo(
        free_pages=0, cached_pages=1, in_use_pages=7, total_pages=8, page_size=4
    )
    assert cache.match(DEFAULT_NAMESPACE, numbers(0, 9)) == 8


def test_the_least_recently_used_prefix_goes_first() -> None:
    cache = PrefixCache(3, 4)
    for first in (0, 100, 200):
        run(cache, numbers(first, first + 4))
    run(cache, numbers(0, 4))
    run(cache, numbers(300, 304))
    held = [cache.match(DEFAULT_NAMESPACE, numbers(n, n + 4)) for n in (0, 100, 200, 300)]
    assert held == [4, 0, 4, 4]


def test_reserve_that_cannot_be_had_evicts_nothing() -> None:
    cache = PrefixCache(4, 4)
    run(cache, numbers(0, 8))
    lease = start(cache, numbers(100, 104))
    cache.reserve(lease, 4)
    table = lease.page_table.copy()
    with pytest.raises(OutOfPagesError, match="4 pages are needed"):
        cache.reserve(lease, 20)
    assert np.array_equal(lease.page_table, table)
    assert (cache.cached_pages, cache.evicted_pages) == (2, 0)
    cache.reserve(lease, 16)
    assert (cache.cached_pages, cache.evicted_pages) == (0, 2)
    cache.check_invariants([lease])


def test_acquire_without_a_page_for_the_border_leaves_all_as_it_was() -> None:
    cache = PrefixCache(2, 4)
    run(cache, numbers(0, 6))
    before = cache.info()
    # The only pages are those of the match itself, which must not be evicted for the copy.
    with pytest.raises(OutOfPagesError):
        cache.acquire(DEFAULT_NAMESPACE, numbers(0, 5))
    run_of_six = cache.match(DEFAULT_NAMESPACE, numbers(0, 6))
    assert (run_of_six, cache.info()) == (6, before)
    cache.check_invariants()
    lease = cache.acquire(DEFAULT_NAMESPACE, numbers(0, 6), whole_pages_only=True)
    assert lease.num_cached_tokens == 4


def test_fork_shares_full_pages_and_copies_the_partial_one() -> None:
    cache = PrefixCache(8, 4)
    tokens = numbers(0, 10)
    lease = start(cache, tokens)
    cache.reserve(lease, 10)
    fork = cache.fork(lease, tokens)
    assert lease.num_committed_tokens == fork.num_committed_tokens == 8
    assert fork.page_table.tolist()[:2] == lease.page_table.tolist()[:2]
    assert fork.pending_copy is not None
    assert fork.pending_copy.source == lease.page_table[2]
    assert fork.pending_copy.target == fork.page_table[2] != lease.page_table[2]
    cache.check_invariants([lease, fork])
    # The parent ends before the copy has run: the source stays, as part of the tree.
    cache.release(lease, tokens)
    cache.check_invariants([fork])
    assert cache.pool.use_count(fork.pending_copy.source) == 1
    cache.finish_copy(fork)
    cache.release(fork, tokens)
    cache.check_invariants()
    assert cache.cached_pages == 3


def test_a_fork_of_a_lease_that_waits_for_its_copy_has_the_same_source() -> None:
    cache = PrefixCache(8, 4)
    run(cache, numbers(0, 6))
    lease = cache.acquire(DEFAULT_NAMESPACE, numbers(0, 6))
    fork = cache.fork(lease, numbers(0, 6))
    assert lease.pending_copy is not None
    assert fork.pending_copy is not None
    assert fork.pending_copy.source == lease.pending_copy.source
    assert fork.pending_copy.target != lease.pending_copy.target
    cache.check_invariants([lease, fork])


def test_fork_without_a_page_makes_no_fork() -> None:
    cache = PrefixCache(2, 4)
    lease = start(cache, numbers(0, 6))
    cache.reserve(lease, 6)
    with pytest.raises(OutOfPagesError):
        cache.fork(lease, numbers(0, 6))
    assert lease.num_committed_tokens == 4
    cache.check_invariants([lease])


def test_fork_needs_all_computed_tokens() -> None:
    cache = PrefixCache(8, 4)
    lease = start(cache, numbers(0, 8))
    compute(cache, lease, numbers(0, 8))
    with pytest.raises(ValueError, match="forking at 6 tokens, of which 8 are committed"):
        cache.fork(lease, numbers(0, 6))
    with pytest.raises(ValueError, match="9 computed tokens in pages for 8"):
        cache.fork(lease, numbers(0, 9))


def test_release_before_the_copy_ran_inserts_nothing() -> None:
    cache = PrefixCache(8, 4)
    run(cache, numbers(0, 6))
    lease = cache.acquire(DEFAULT_NAMESPACE, numbers(0, 5))
    assert cache.in_use_pages == 3
    cache.release(lease, numbers(0, 5))
    assert cache.info().in_use_pages == 0
    assert cache.cached_pages == 2
    cache.check_invariants()


def test_computing_behind_a_pending_copy_is_caught() -> None:
    cache = PrefixCache(8, 4)
    run(cache, numbers(0, 6))
    lease = cache.acquire(DEFAULT_NAMESPACE, numbers(0, 5))
    cache.reserve(lease, 8)
    with pytest.raises(AssertionError, match="behind a pending copy"):
        cache.commit(lease, numbers(0, 8))


def test_more_tokens_than_reserved_are_refused() -> None:
    cache = PrefixCache(8, 4)
    lease = start(cache, numbers(0, 8))
    with pytest.raises(ValueError, match="8 computed tokens in pages for 0; reserve"):
        cache.commit(lease, numbers(0, 8))
    with pytest.raises(ValueError, match="3 computed tokens in pages for 0"):
        cache.release(lease, numbers(0, 3))
    cache.check_invariants([lease])


def test_a_released_lease_is_dead() -> None:
    cache = PrefixCache(8, 4)
    lease = start(cache, numbers(0, 8))
    compute(cache, lease, numbers(0, 8))
    assert repr(lease) == "Lease(8 tokens committed, 2 pages shared, 0 own, None)"
    cache.release(lease, numbers(0, 8))
    assert repr(lease) == "Lease(released)"
    assert lease.page_table.tolist() == []
    for call in (cache.release, cache.commit, cache.fork):
        with pytest.raises(RuntimeError, match="has been released"):
            call(lease, numbers(0, 8))
    with pytest.raises(RuntimeError, match="has been released"):
        cache.reserve(lease, 12)
    with pytest.raises(RuntimeError, match="no copy pending"):
        cache.finish_copy(lease)
    cache.check_invariants()


def test_the_table_is_not_copied_and_grows_without_losing_entries() -> None:
    cache = PrefixCache(64, 4)
    lease = start(cache, numbers(0, 4))
    seen: list[int] = []
    for end in range(4, 200, 4):
        cache.reserve(lease, end)
        assert lease.page_table.tolist()[:-1] == seen
        assert np.shares_memory(lease.page_table, lease.page_table)
        seen = lease.page_table.tolist()
    assert lease.num_reserved_tokens == 196
    cache.release(lease, numbers(0, 0))
    assert cache.free_pages == 64


def test_the_pool_may_be_injected() -> None:
    pool = PagePool(5)
    assert PrefixCache(5, 4, pool=pool).pool is pool


def test_check_invariants_wants_every_lease_and_no_other() -> None:
    cache = PrefixCache(8, 4)
    lease = start(cache, numbers(0, 6))
    compute(cache, lease, numbers(0, 6))
    with pytest.raises(AssertionError, match=r"page 1 has 0 users, the pool says 1\nnamespace"):
        cache.check_invariants()
    cache.release(lease, numbers(0, 6))
    lease = start(cache, numbers(0, 4))
    with pytest.raises(AssertionError, match="is locked by 0 leases, and 0 times below"):
        cache.check_invariants()
    cache.check_invariants([lease])


def test_broken_leases_are_named() -> None:
    def broken() -> tuple[PrefixCache, Lease]:
        cache = PrefixCache(8, 4)
        lease = start(cache, numbers(0, 8))
        compute(cache, lease, numbers(0, 8))
        cache.reserve(lease, 16)
        cache.check_invariants([lease])
        return cache, lease

    cache, lease = broken()
    lease.page_table[3] = lease.page_table[2]
    with pytest.raises(AssertionError, match="lists a page twice"):
        cache.check_invariants([lease])
    cache, lease = broken()
    lease.page_table[:2] = lease.page_table[1::-1].copy()
    with pytest.raises(AssertionError, match="as shared, the tree"):
        cache.check_invariants([lease])
    cache, lease = broken()
    lease.num_shared_pages = 1
    with pytest.raises(AssertionError, match="shares 1 pages of 8 tokens"):
        cache.check_invariants([lease])
    cache, lease = broken()
    fork = cache.fork(lease, numbers(0, 8))
    fork.append_pages(lease.page_table[2:3])
    with pytest.raises(AssertionError, match="page 2 has 2 users, the pool says 1"):
        cache.check_invariants([lease, fork])
    cache, lease = broken()
    cache.pool.attach(lease.own_pages[:1])
    with pytest.raises(AssertionError, match="page 2 lies in 0 nodes, the pool says 1"):
        cache.check_invariants([lease])
    cache, lease = broken()
    run(cache, numbers(100, 104))
    lease.page_table[2] = 4
    with pytest.raises(AssertionError, match="owns page 4 of the tree"):
        cache.check_invariants([lease])


def test_a_lease_given_back_counts_as_no_use() -> None:
    """Regression: a request that found no room, step after step, made what it matched look hot."""
    cache = PrefixCache(8, 2)
    first, second = numbers(1, 5), numbers(5, 9)
    for tokens in (first, second):
        lease = cache.acquire(DEFAULT_NAMESPACE, tokens)
        cache.reserve(lease, 4)
        cache.release(lease, tokens)
    for _ in range(3):
        cache.give_back(cache.acquire(DEFAULT_NAMESPACE, first))
        cache.give_back(cache.acquire(DEFAULT_NAMESPACE, first[:3]))
        cache.check_invariants()
    cache.evict(2)
    assert cache.match(DEFAULT_NAMESPACE, first) == 0
    assert cache.match(DEFAULT_NAMESPACE, second) == 4
    assert cache.in_use_pages == 0
