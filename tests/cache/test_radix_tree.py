"""Every way in which the tree splits, grows and merges, one named case each.

``sketch`` draws a cache (``letters.py``). What eviction does is in ``test_tree_eviction.py``.
"""

import numpy as np
import pytest

from radixserve.cache.lookup import page_table
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.errors import ConfigError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace
from tests.cache.letters import P, compute, run, sketch, start, tokens_of


@pytest.fixture
def cache() -> PrefixCache:
    return PrefixCache(32, P)


def test_a_first_request_makes_a_leaf(cache: PrefixCache) -> None:
    run(cache, "abcdef")
    assert sketch(cache) == ["abcdef 0 1"]
    cache.check_invariants()


def test_a_lock_splits_inside_a_page_and_copies_nothing(cache: PrefixCache) -> None:
    # abcdef 0 1   ->   abcde 0 1*     page 1 is listed by both halves
    #                     f 1
    run(cache, "abcdef")
    (leaf,) = cache.tree.roots[DEFAULT_NAMESPACE].children.values()
    lease = cache.acquire(DEFAULT_NAMESPACE, tokens_of("abcdeX"))
    assert sketch(cache) == ["abcde 0 1*", "  f 1"]
    assert list(cache.tree.nodes())[-1] is leaf, "the lower half keeps its identity"
    assert lease.pending_copy is not None
    assert (lease.pending_copy.source, lease.pending_copy.target) == (1, 2)
    assert lease.page_table.tolist() == [0, 2]
    assert (cache.pool.node_count(1), cache.pool.use_count(1)) == (2, 2)
    cache.check_invariants([lease])


def test_unlocking_merges_what_only_a_lock_kept_apart(cache: PrefixCache) -> None:
    run(cache, "abcdef")
    lease = start(cache, "abcdeX")
    cache.release(lease, tokens_of("abcde"))
    assert sketch(cache) == ["abcdef 0 1"]
    assert cache.free_pages == 30
    cache.check_invariants()


def test_a_split_of_a_locked_edge_leaves_both_halves_locked(cache: PrefixCache) -> None:
    # abcdefgh 0 1*   ->   abcdef 0 1**     the first lease still ends where it ended
    #                        gh 1*
    first = start(cache, "abcdefgh")
    compute(cache, first, "abcdefgh")
    second = start(cache, "abcdefX")
    assert sketch(cache) == ["abcdef 0 1**", "  gh 1*"]
    assert cache.pool.use_count(1) == 2
    assert first.num_committed_tokens == 8
    cache.check_invariants([first, second])
    cache.release(second, tokens_of("abcdef"))
    # Locked nodes do not merge; when the last lock goes they do.
    assert sketch(cache) == ["abcdef 0 1*", "  gh 1*"]
    cache.release(first, tokens_of("abcdefgh"))
    assert sketch(cache) == ["abcdefgh 0 1"]


def test_turning_away_inside_a_page_hangs_a_child_with_a_page_of_its_own(
    cache: PrefixCache,
) -> None:
    # abcdef 0 1   ->   abcde 0 1
    #                     X.. 2       page 2 begins with e, copied from page 1
    #                     f 1
    run(cache, "abcdef")
    run(cache, "abcdeXYZ")
    assert sketch(cache) == ["abcde 0 1", "  XYZ 2", "  f 1"]
    cache.check_invariants()


def test_turning_away_from_a_page_computed_meanwhile_shares_to_the_token(
    cache: PrefixCache,
) -> None:
    # Two requests miss together; the second to commit finds the first one's edge and splits it.
    first, second = start(cache, "abcdef"), start(cache, "abcdXY")
    compute(cache, first, "abcdefgh")
    compute(cache, second, "abcdefXY")
    assert sketch(cache) == ["abcdef 0 1**", "  XY 3*", "  gh 1*"]
    assert second.page_table.tolist() == [0, 3], "the equal page was swapped for the tree's"
    assert cache.pool.ref_count(2) == 0, "its own copy of it is free at once"
    cache.check_invariants([first, second])


def test_an_equal_request_descends_and_swaps_every_page(cache: PrefixCache) -> None:
    first, second = start(cache, "abcdefgh"), start(cache, "abcdefgh")
    compute(cache, first, "abcdefgh")
    compute(cache, second, "abcdefgh")
    assert sketch(cache) == ["abcdefgh 0 1**"]
    assert second.page_table.tolist() == first.page_table.tolist() == [0, 1]
    assert cache.free_pages == 30
    cache.check_invariants([first, second])


def test_a_longer_edge_is_split_where_the_commit_ends(cache: PrefixCache) -> None:
    first, second = start(cache, "abcdefgh"), start(cache, "abcdefgh")
    compute(cache, first, "abcdefgh")
    compute(cache, second, "abcde")
    assert sketch(cache) == ["abcd 0**", "  efgh 1*"]
    assert second.num_committed_tokens == 4
    cache.check_invariants([first, second])


def test_a_leaf_grows_in_place(cache: PrefixCache) -> None:
    lease = start(cache, "abcd")
    compute(cache, lease, "abcd")
    node = lease.node
    for text in ("abcdefgh", "abcdefghijklmnop", "abcdefghijklmnopqrst"):
        compute(cache, lease, text)
        assert lease.node is node
    assert sketch(cache) == ["abcdefghijklmnopqrst 0 1 2 3 4*"]
    cache.check_invariants([lease])


def test_growing_in_place_drops_the_partial_page(cache: PrefixCache) -> None:
    # abcdef 0 1*   ->   abcdefgh 0 2*    the next turn of a chat; page 1 is free again
    run(cache, "abcdef")
    lease = start(cache, "abcdef")
    compute(cache, lease, "abcdefgh")
    assert sketch(cache) == ["abcdefgh 0 2*"]
    assert cache.pool.ref_count(1) == 0
    cache.check_invariants([lease])


def test_growing_in_place_replaces_the_page_in_the_parent_too(cache: PrefixCache) -> None:
    # a 0**         a 1**          all that lists page 0 lies on one path
    #   b 0*   ->     bcd 1*
    run(cache, "ab")
    above, lease = start(cache, "aX"), start(cache, "ab")
    compute(cache, lease, "abcd")
    new = lease.page_table[0]
    assert sketch(cache) == [f"a {new}**", f"  bcd {new}*"]
    assert cache.pool.ref_count(0) == 0
    cache.check_invariants([above, lease])


def test_a_leaf_that_a_fork_locks_too_does_not_grow(cache: PrefixCache) -> None:
    lease = start(cache, "abcd")
    compute(cache, lease, "abcd")
    fork = cache.fork(lease, tokens_of("abcd"))
    assert fork.pending_copy is None
    compute(cache, lease, "abcdefgh")
    assert sketch(cache) == ["abcd 0**", "  efgh 1*"]
    assert fork.page_table.tolist() == [0]
    assert fork.num_committed_tokens == 4
    # The lock that is left is the fork's alone, but a node with children never grows.
    compute(cache, fork, "abcdEFGH")
    assert sketch(cache) == ["abcd 0**", "  EFGH 2*", "  efgh 1*"]
    cache.check_invariants([lease, fork])


def test_a_new_child_replaces_the_partial_page_that_nobody_else_holds(cache: PrefixCache) -> None:
    # abcdef 0 1**   ->   abcdef 0 2**     both leases have copied page 1 by now
    #                       gh 2*
    run(cache, "abcdef")
    first, second = start(cache, "abcdef"), start(cache, "abcdef")
    compute(cache, first, "abcdefgh")
    assert sketch(cache) == ["abcdef 0 2**", "  gh 2*"]
    assert cache.pool.ref_count(1) == 0
    cache.check_invariants([first, second])


def test_a_partial_page_that_a_copy_waits_for_is_kept(cache: PrefixCache) -> None:
    run(cache, "abcdef")
    first = start(cache, "abcdef")
    waiting = cache.acquire(DEFAULT_NAMESPACE, tokens_of("abcdef"))
    assert waiting.pending_copy is not None
    compute(cache, first, "abcdefgh")
    assert sketch(cache) == ["abcdef 0 1**", "  gh 2*"]
    cache.check_invariants([first, waiting])
    cache.finish_copy(waiting)
    cache.release(waiting, tokens_of("abcdef"))
    cache.release(first, tokens_of("abcdefgh"))
    assert sketch(cache) == ["abcdefgh 0 2"]
    assert cache.free_pages == 30


def test_a_new_child_replaces_the_page_in_a_row_of_nodes(cache: PrefixCache) -> None:
    # a 0***         a 1***
    #   b 0**   ->     b 1**       (page numbers of the right side are examples)
    #                    cd 1*
    run(cache, "ab")
    above, first, second = start(cache, "aX"), start(cache, "ab"), start(cache, "ab")
    compute(cache, first, "abcd")
    new = first.page_table[0]
    assert sketch(cache) == [f"a {new}***", f"  b {new}**", f"    cd {new}*"]
    assert cache.pool.ref_count(0) == 0
    cache.check_invariants([above, first, second])


def test_replacing_stops_where_the_path_goes_over_to_another_page(cache: PrefixCache) -> None:
    # a 0            page 0 is still listed by x; page 1, of b alone, makes way for the new one
    #   b 1**
    #   x 0
    run(cache, "ax")
    run(cache, "ab")
    first, second = start(cache, "ab"), start(cache, "ab")
    assert sketch(cache) == ["a 0**", "  b 1**", "  x 0"]
    compute(cache, first, "abcd")
    new = first.page_table[0]
    assert sketch(cache) == ["a 0**", f"  b {new}**", f"    cd {new}*", "  x 0"]
    assert cache.pool.ref_count(1) == 0
    cache.check_invariants([first, second])


def test_a_page_table_skips_nodes_inside_a_page_that_a_deeper_one_supplies(
    cache: PrefixCache,
) -> None:
    # abcde 0 1*         page index 1 is covered by all three: the deepest supplies it
    #   f 1*
    #     gh.. 3 4*
    run(cache, "abcdef")
    holders = [start(cache, "abcde"), start(cache, "abcdef"), start(cache, "abcdef")]
    compute(cache, holders[2], "abcdefghijkl")
    own = holders[2].page_table.tolist()
    assert page_table(holders[2].node, P).tolist() == own
    assert page_table(holders[2].node, P, 1).tolist() == own[1:]
    assert len(sketch(cache)) == 3
    cache.check_invariants(holders)


def test_chat_turns_leave_one_node_and_no_dead_page(cache: PrefixCache) -> None:
    text = ""
    for turn in ("abcdef", "ghijk", "l", "mnopq", "rs"):
        lease = start(cache, text)
        assert lease.num_cached_tokens == len(text)
        text += turn
        compute(cache, lease, text)
        cache.release(lease, tokens_of(text))
        assert len(sketch(cache)) == 1
        assert cache.cached_pages == -(-len(text) // P)
    cache.check_invariants()


def test_merging_above_a_fork_keeps_the_lower_node(cache: PrefixCache) -> None:
    # ab 0                     abcd 0
    #   X.. 3           ->       E.. 2
    #   cd 0                     e.. 1
    #     E.. 2
    #     e.. 1
    run(cache, "abXYZ")
    run(cache, "abcdef")
    run(cache, "abcdEF")
    above = sketch(cache)
    assert [line.split()[0] for line in above] == ["ab", "XYZ", "cd", "EF", "ef"]
    # XYZ, the oldest leaf, has two pages of its own and shares the first with "ab".
    cache.evict(2)
    assert [line.split()[0] for line in sketch(cache)] == ["abcd", "EF", "ef"]
    cache.check_invariants()
    run(cache, "abcdEFG")
    assert [line.split()[0] for line in sketch(cache)] == ["abcd", "EFG", "ef"]
    cache.check_invariants()


def test_forget_drops_what_is_unlocked_and_only_that(cache: PrefixCache) -> None:
    run(cache, "abcdefgh")
    run(cache, "abcdEFGHIJKL")
    run(cache, "abcdEFGHijkl")
    other = Namespace("other")
    cache.release(cache.acquire(other, tokens_of("abcd")), tokens_of(""))
    assert list(cache.tree.roots) == [DEFAULT_NAMESPACE]
    lease = start(cache, "abcdefgh")
    assert cache.forget(other) == 0
    assert cache.forget(DEFAULT_NAMESPACE) == 3
    assert sketch(cache) == ["abcd 0*", "  efgh 1*"]
    cache.check_invariants([lease])
    cache.release(lease, tokens_of("abcdefgh"))
    assert sketch(cache) == ["abcdefgh 0 1"]
    assert cache.clear() == 2
    assert cache.free_pages == 32
    assert not cache.tree.roots


def test_a_path_of_a_thousand_nodes_needs_no_recursion() -> None:
    cache = PrefixCache(1200, 1)
    tokens = np.arange(1100, dtype=np.int32)
    lease = cache.acquire(DEFAULT_NAMESPACE, tokens)
    cache.reserve(lease, len(tokens))
    cache.release(lease, tokens)
    leases = [cache.acquire(DEFAULT_NAMESPACE, tokens[:end]) for end in range(1100, 0, -1)]
    assert sum(1 for _ in cache.tree.nodes()) == 1101
    assert len(cache.tree.format().splitlines()) == 1101
    cache.check_invariants(leases)
    for index, held in enumerate(leases):
        cache.release(held, tokens[: 1100 - index])
    assert sum(1 for _ in cache.tree.nodes()) == 2, "all merged again"
    cache.check_invariants()
    assert cache.clear() == 1100


def test_memory_shrinks_with_a_trimmed_leaf() -> None:
    cache = PrefixCache(100, P)
    tokens = np.arange(400, dtype=np.int32)
    lease = cache.acquire(DEFAULT_NAMESPACE, tokens)
    cache.reserve(lease, 400)
    cache.release(lease, tokens)
    cache.evict(90)
    (leaf,) = cache.tree.roots[DEFAULT_NAMESPACE].children.values()
    assert leaf.tokens.base is not None
    assert len(leaf.tokens.base) == 40
    assert np.array_equal(leaf.tokens, tokens[:40])


def test_pages_without_tokens_are_refused() -> None:
    with pytest.raises(ConfigError, match="page_size is 0"):
        PrefixCache(8, 0)
