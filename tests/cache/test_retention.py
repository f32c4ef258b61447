"""Marks: what somebody asked to keep goes after all else, for a while, within a budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.cache.policies import POLICIES, make_policy
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cache.retention import Keep
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, TokenArray
from tests.cache.retention_check import check_retention

PAGE = 4


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def text(seed: int, length: int) -> TokenArray:
    return np.random.default_rng(seed).integers(0, 10**6, length, dtype=np.int32)


def ask(
    cache: PrefixCache,
    tokens: TokenArray,
    keep: Keep | None = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
) -> None:
    lease = cache.acquire(namespace, tokens)
    cache.reserve(lease, len(tokens))
    if lease.pending_copy is not None:
        cache.finish_copy(lease)
    cache.commit(lease, tokens)
    cache.release(lease, tokens, () if keep is None else (keep,))
    cache.check_invariants()
    check_retention(cache)


@pytest.fixture(params=POLICIES)
def cache(request: pytest.FixtureRequest) -> PrefixCache:
    """32 pages of 4 tokens: one namespace may keep 8 pages, all together 16."""
    clock = Clock()
    policy = make_policy(request.param, clock, 32, PAGE)
    return PrefixCache(32, PAGE, policy, clock=clock)


def advance(cache: PrefixCache, seconds: float) -> None:
    clock = cache.retention._clock
    assert isinstance(clock, Clock)
    clock.now_s += seconds


def flood(cache: PrefixCache, num_pages: int = 64, seed: int = 1000) -> None:
    for number in range(num_pages // 2):
        advance(cache, 1.0)
        ask(cache, text(seed + number, 2 * PAGE))


def held(cache: PrefixCache, tokens: TokenArray, namespace: Namespace = DEFAULT_NAMESPACE) -> int:
    return cache.match(namespace, tokens)


def test_a_marked_prefix_outlasts_a_flood_until_its_time_is_over(cache: PrefixCache) -> None:
    kept, other = text(1, 16), text(2, 16)
    ask(cache, kept, Keep(16, 100.0))
    ask(cache, other)
    flood(cache)
    assert (held(cache, kept), held(cache, other)) == (16, 0)
    advance(cache, 100.0)
    flood(cache, seed=2000)
    assert held(cache, kept) == 0
    assert cache.retention.num_marks(DEFAULT_NAMESPACE) == 0
    assert cache.retention.weight_pages == 0


def test_only_the_marked_part_of_a_path_is_kept(cache: PrefixCache) -> None:
    tokens = text(1, 30)
    ask(cache, tokens, Keep(9, 1000.0))
    flood(cache)
    # The page that holds the ninth token stays whole.
    assert held(cache, tokens) == 12


def test_a_mark_never_makes_an_allocation_fail(cache: PrefixCache) -> None:
    for number in range(8):
        ask(cache, text(number, 16), Keep(16, 1000.0), Namespace(str(number)))
    assert cache.retention.weight_pages == 16
    ask(cache, text(99, 32 * PAGE))
    assert cache.retention.weight_pages == 0


def test_the_mark_that_ends_first_is_given_up_first(cache: PrefixCache) -> None:
    for number, seconds in enumerate((300.0, 100.0, 200.0)):
        ask(cache, text(number, 16), Keep(16, seconds), Namespace(str(number)))
    # 20 pages free, 12 kept: four of them must go.
    ask(cache, text(99, 24 * PAGE))
    found = [held(cache, text(number, 16), Namespace(str(number))) for number in range(3)]
    assert found == [16, 0, 16]


def test_a_namespaces_oldest_marks_go_beyond_its_budget(cache: PrefixCache) -> None:
    for number in range(5):
        ask(cache, text(number, 12), Keep(12, 1000.0))
    assert cache.retention.num_marks(DEFAULT_NAMESPACE) == 2
    flood(cache)
    assert [held(cache, text(number, 12)) for number in range(5)] == [0, 0, 0, 12, 12]


def test_all_namespaces_together_have_a_budget(cache: PrefixCache) -> None:
    spaces = [Namespace(str(number)) for number in range(4)]
    for space in spaces:
        ask(cache, text(1, 24), Keep(24, 1000.0), space)
    assert [cache.retention.num_marks(space) for space in spaces] == [0, 0, 1, 1]
    assert cache.retention.weight_pages == 12


def test_beyond_the_common_budget_the_heaviest_namespace_gives_up_its_oldest(
    cache: PrefixCache,
) -> None:
    modest, *greedy = (Namespace(name) for name in ("modest", "one", "two", "three"))
    ask(cache, text(0, 12), Keep(12, 1000.0), modest)
    for turn in range(6):
        for space in greedy:
            ask(cache, text(turn, 8), Keep(8, 1000.0), space)
    assert cache.retention.num_marks(modest) == 1
    # Three pages, and what the others share of the 13 that are left, two at a time.
    assert sorted(cache.retention.num_marks(space) for space in greedy) == [2, 2, 2]
    flood(cache)
    assert held(cache, text(0, 12), modest) == 12


def test_a_new_namespace_takes_its_room_from_the_heaviest(cache: PrefixCache) -> None:
    modest, heavy, new = (Namespace(name) for name in ("modest", "heavy", "new"))
    ask(cache, text(0, 12), Keep(12, 1000.0), modest)
    for number in range(2):
        ask(cache, text(number, 16), Keep(16, 1000.0), heavy)
    ask(cache, text(0, 32), Keep(32, 1000.0), new)
    assert [cache.retention.num_marks(space) for space in (modest, heavy, new)] == [1, 1, 1]
    assert held(cache, text(1, 16), heavy) == 16


def test_who_asks_for_most_pays_with_what_it_has(cache: PrefixCache) -> None:
    greedy, *modest = (Namespace(name) for name in ("greedy", "one", "two"))
    for space in modest:
        for number in range(2):
            ask(cache, text(number, 10), Keep(10, 1000.0), space)
    ask(cache, text(0, 16), Keep(16, 1000.0), greedy)
    # All of the budget is used. Its second mark would make it as heavy as the others.
    ask(cache, text(1, 12), Keep(12, 1000.0), greedy)
    assert [cache.retention.num_marks(space) for space in modest] == [2, 2]
    assert cache.retention.num_marks(greedy) == 1
    assert held(cache, text(1, 12), greedy) == 12


def test_a_wish_beyond_the_budget_is_granted_in_part(cache: PrefixCache) -> None:
    tokens = text(1, 80)
    ask(cache, tokens, Keep(80, 1000.0))
    assert cache.retention.weight_pages == 8
    flood(cache)
    assert held(cache, tokens) == 32


def test_a_later_turn_takes_the_place_of_the_turns_before(cache: PrefixCache) -> None:
    tokens = text(1, 32)
    for end in (8, 16, 24, 32):
        ask(cache, tokens[:end], Keep(end, 100.0))
        assert cache.retention.num_marks(DEFAULT_NAMESPACE) == 1
        assert cache.retention.weight_pages == end // PAGE
        advance(cache, 1.0)
    # A shorter and earlier end adds nothing; a shorter path that lasts longer does.
    ask(cache, tokens[:32], Keep(30, 50.0))
    assert cache.retention.num_marks(DEFAULT_NAMESPACE) == 1


def test_what_cannot_be_kept_is_not_marked(cache: PrefixCache) -> None:
    for keep in (Keep(0, 100.0), Keep(16, 0.0), Keep(16, -5.0)):
        ask(cache, text(1, 16), keep)
    assert cache.retention.num_marks(DEFAULT_NAMESPACE) == 0
    tiny = PrefixCache(3, PAGE)
    ask(tiny, text(1, 8), Keep(8, 100.0))
    assert tiny.retention.num_marks(DEFAULT_NAMESPACE) == 0


def test_forgetting_forgets_marks(cache: PrefixCache) -> None:
    ask(cache, text(1, 16), Keep(16, 100.0))
    cache.forget(DEFAULT_NAMESPACE)
    assert cache.retention.weight_pages == 0
    assert cache.retention.num_marks(DEFAULT_NAMESPACE) == 0


def test_marks_follow_their_tokens_through_splits_and_merges(cache: PrefixCache) -> None:
    stem = text(1, 16)
    ask(cache, np.concatenate([stem, text(2, 8)]), Keep(20, 1000.0))
    ask(cache, np.concatenate([stem[:6], text(3, 6)]), Keep(8, 1000.0))
    ask(cache, np.concatenate([stem[:14], text(4, 4)]))
    flood(cache)
    assert held(cache, np.concatenate([stem, text(2, 8)])) == 20
    assert held(cache, np.concatenate([stem[:6], text(3, 6)])) == 8


def test_a_split_behind_a_mark_frees_the_lower_half(cache: PrefixCache) -> None:
    # The mark ends inside the last page, where another prompt turns away.
    ask(cache, text(1, 16), Keep(14, 1000.0))
    cache.release(cache.acquire(DEFAULT_NAMESPACE, text(1, 15)), text(1, 0))
    cache.check_invariants()
    check_retention(cache)
    flood(cache)
    assert held(cache, text(1, 16)) >= 14


def test_a_mark_lies_where_its_depth_is(cache: PrefixCache) -> None:
    stem = text(1, 16)
    ask(cache, np.concatenate([stem, text(2, 4)]))
    # Two ways lead on from the stem: only the stem is marked, then all of it for less long.
    ask(cache, np.concatenate([stem, text(3, 4)]), Keep(10, 1000.0))
    ask(cache, np.concatenate([stem, text(3, 4)]), Keep(20, 30.0))
    assert cache.retention.num_marks(DEFAULT_NAMESPACE) == 2
    advance(cache, 30.0)
    flood(cache)
    assert held(cache, stem) == 12


def test_memory_of_marks_is_bounded(cache: PrefixCache) -> None:
    for number in range(400):
        ask(cache, text(number, 6), Keep(6, 1e6 - number))
        cache.tree.unlock(cache.tree.lock(cache.tree.match(DEFAULT_NAMESPACE, text(number, 6)), 6))
    retention = cache.retention
    assert len(retention._marks) == 4
    assert len(retention._ends) <= 2 * 4 + 17
    assert len(retention._held_ends) <= 2 * 4 + 17


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-50, 50)), max_size=30))
def test_a_clock_that_goes_back_harms_nothing(steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    cache = PrefixCache(16, PAGE, clock=clock)
    for seed, pause_s in steps:
        clock.now_s += pause_s
        ask(cache, text(seed, 14), Keep(10, 20.0))
        flood(cache, 4)


def test_it_goes_by_its_policys_name(cache: PrefixCache) -> None:
    assert cache.tree.policy.name == cache.policy.name
    assert cache.policy.name in POLICIES
