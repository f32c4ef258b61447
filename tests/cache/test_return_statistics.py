"""What the return-time policy is made of, each part against a slow and plain account of it."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.cache import index_order
from radixserve.cache.ghosts import Ghost, Ghosts
from radixserve.cache.index_order import IndexOrder
from radixserve.cache.lru_duel import LRUDuel
from radixserve.cache.node import Root
from radixserve.cache.prefix_hash import HashState, PrefixHasher
from radixserve.cache.return_class import (
    MAX_HITS,
    NUM_CLASSES,
    NUM_SIZES,
    Trait,
    class_index,
    size_bucket,
)
from radixserve.cache.return_habits import Habit
from radixserve.cache.return_statistics import AGE_EDGES_S, NUM_AGES, ReturnStatistics
from radixserve.cache.touch_log import TouchLog
from radixserve.ids import Namespace


def test_classes_are_numbered_without_gap() -> None:
    numbers = [
        class_index(habit, trait, hits, size)
        for habit in Habit
        for trait in Trait
        for hits in range(MAX_HITS + 1)
        for size in range(NUM_SIZES)
    ]
    assert numbers == list(range(NUM_CLASSES))
    assert [size_bucket(n) for n in (0, 15, 16, 31, 32, 512, 32767, 32768, 10**7)] == [
        0, 0, 1, 1, 2, 6, 11, 12, 12,
    ]  # fmt: skip


# Hashes


@given(
    st.lists(st.integers(-5, 2**31 - 1), max_size=60),
    st.lists(st.integers(0, 60), max_size=4),
    st.sampled_from([1, 4, 7]),
)
def test_a_prefix_hashes_alike_however_it_is_cut(
    tokens: list[int], cuts: list[int], stride: int
) -> None:
    hasher = PrefixHasher(stride)
    array = np.array(tokens, dtype=np.int32)
    root = HashState(7, 0)
    whole_state, whole_hashes = hasher.advance(root, 0, array)
    assert len(whole_hashes) == len(tokens) // stride
    state, hashes, depth = root, [], 0
    for cut in [*sorted(min(cut, len(tokens)) for cut in cuts), len(tokens)]:
        state, found = hasher.advance(state, depth, array[depth:cut])
        hashes += found
        depth = cut
    assert (state, hashes) == (whole_state, whole_hashes)


def test_other_prefixes_hash_otherwise() -> None:
    hasher = PrefixHasher(4)
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 3, 8, dtype=np.int32) for _ in range(500)]
    different = {array.tobytes() for array in arrays}
    root = HashState(7, 0)
    assert len({hasher.advance(root, 0, array)[1][1] for array in arrays}) == len(different)
    other = HashState(8, 0)
    assert hasher.advance(other, 0, arrays[0])[1] != hasher.advance(root, 0, arrays[0])[1]


# The log


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), max_size=80))
def test_the_recent_part_of_the_log_is_an_lru_cache(touches: list[tuple[int, int]]) -> None:
    capacity = 60
    log = TouchLog(1000, capacity)
    sizes: dict[int, int] = {}
    positions: dict[int, int] = {}
    order: list[int] = []
    for step, (item, size) in enumerate(touches):
        if item in positions:
            log.leave(positions[item], sizes[item])
            order.remove(item)
        sizes.setdefault(item, size)
        positions[item] = log.append(float(step), 0, sizes[item])
        order.insert(0, item)
        held, room = set(), capacity
        for one in order:
            room -= sizes[one]
            if room < 0:
                break
            held.add(one)
        assert {one for one in order if positions[one] >= log.recent} == held


def test_the_log_forgets_what_falls_off_its_ring() -> None:
    log = TouchLog(4, 100)
    positions = [log.append(float(step), step, 10) for step in range(6)]
    assert (log.oldest, log.head, log.recent) == (2, 6, 2)
    log.leave(positions[0], 10)
    assert sorted(log.weights.tolist()) == [10, 10, 10, 10]
    log.leave(positions[3], 4)
    assert log.weights[3] == 6


def test_no_entry_of_the_log_weighs_less_than_nothing() -> None:
    log = TouchLog(8, 100)
    first = log.append(0.0, 0, 10)
    log.append(1.0, 0, 10)
    # A run may stand for a few tokens more than it had.
    log.leave(first, 14)
    assert log.weights[:2].tolist() == [0, 10]
    # The rest is what an LRU cache holds, to the token: 90 more fit beside the 10.
    last = log.append(2.0, 0, 90)
    assert log.recent == first
    log.append(3.0, 0, 1)
    assert log.recent == last


# Counting


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 40), st.booleans()), min_size=1, max_size=60)
)
def test_counts_are_those_of_a_plain_account(steps: list[tuple[int, float, bool]]) -> None:
    """Items of 5 tokens are touched again and again; lives by age are counted the slow way."""
    log = TouchLog(1000, 50)
    statistics = ReturnStatistics(log)
    now_s = 0.0
    alive: dict[int, tuple[int, float]] = {}
    returned = np.zeros((NUM_CLASSES, NUM_AGES))
    at_risk = np.zeros((NUM_CLASSES, NUM_AGES))

    def live(class_: int, age_s: float) -> int:
        bucket = max(index for index, edge in enumerate(AGE_EDGES_S) if edge <= age_s)
        at_risk[class_, : bucket + 1] += 5
        return bucket

    for item, pause_s, counts in steps:
        now_s += pause_s
        if item in alive:
            position, touched_s = alive[item]
            statistics.record(item, now_s - touched_s, position, 5)
            log.leave(position, 5)
            returned[item, live(item, now_s - touched_s)] += 5
        alive[item] = (log.append(now_s, item, 5), now_s)
        if counts:
            statistics.count(now_s)
    for item, (_, touched_s) in alive.items():
        live(item, now_s - touched_s)
    statistics.count(now_s)
    np.testing.assert_allclose(statistics.returned, returned)
    np.testing.assert_allclose(statistics.at_risk, at_risk)


def life(
    statistics: ReturnStatistics, class_: int, *, returns_at: int | None, share: float
) -> None:
    """Give a class 10,000 tokens of which a share returns in one bucket of age."""
    row = np.full(NUM_AGES, 10_000.0)
    if returns_at is not None:
        row[returns_at + 1 :] *= 1 - share
        statistics.returned[class_, returns_at] = 10_000.0 * share
    statistics.at_risk[class_] = row


def test_the_index_looks_ahead_to_a_return_and_not_beyond() -> None:
    statistics = ReturnStatistics(TouchLog(16, 100))
    late, never, rare = (class_index(Habit.USUAL, Trait.PLAIN, hits, 5) for hits in (1, 2, 3))
    life(statistics, late, returns_at=10, share=0.5)
    life(statistics, never, returns_at=None, share=0)
    life(statistics, rare, returns_at=10, share=0.1)
    index = statistics.index(1.0)
    # Neighbouring ages are blurred into one another, so the return spreads over three buckets.
    assert (np.diff(index[late, :11]) > 0).all(), "worth more and more until it returns"
    assert index[late, 12] < index[late, 10] / 100, "and little once it should have"
    assert (index[late, :11] > 3 * index[rare, :11]).all()
    assert (index[rare, :11] > 100 * index[never, :11]).all()
    assert (statistics.index(1.0)[class_index(Habit.USUAL, Trait.PLAIN, 0, 0)] == 0).all(), (
        "never seen"
    )


def test_the_index_is_hits_per_second_of_residence() -> None:
    statistics = ReturnStatistics(TouchLog(16, 100))
    class_ = class_index(Habit.USUAL, Trait.PLAIN, 1, 5)
    life(statistics, class_, returns_at=10, share=0.5)
    hazard = statistics.hazards(1.0)[class_]
    best = 0.0
    survival, residence_s = 1.0, 0.0
    for age in range(10, NUM_AGES - 1):
        after = survival * (1 - hazard[age])
        residence_s += (survival + after) / 2 * (AGE_EDGES_S[age + 1] - AGE_EDGES_S[age])
        survival = after
        best = max(best, (1 - survival) / residence_s)
    assert statistics.index(1.0)[class_, 10] == pytest.approx(best)
    assert hazard[10] == pytest.approx(5000 / 17_500, rel=1e-3)


def test_few_counts_lean_on_more() -> None:
    statistics = ReturnStatistics(TouchLog(16, 100))
    plain, fork = (class_index(Habit.USUAL, trait, 1, 5) for trait in (Trait.PLAIN, Trait.FORK))
    life(statistics, plain, returns_at=4, share=0.5)
    statistics.at_risk[fork, :5] = 10.0
    hazard = statistics.hazards(1000.0)
    assert 0.2 < hazard[fork, 4] < hazard[plain, 4] < 0.3
    statistics.at_risk[fork, :5] = 1e6
    assert statistics.hazards(1000.0)[fork, 4] < 0.01


def test_the_past_fades() -> None:
    statistics = ReturnStatistics(TouchLog(16, 100))
    life(statistics, 0, returns_at=4, share=0.5)
    statistics.fade(512)
    assert statistics.returned[0, 4] == pytest.approx(5000 * 0.99**2)
    assert statistics.at_risk[0, 0] == pytest.approx(10_000 * 0.99**2)


# The order


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2), st.floats(0, 9)), max_size=60))
def test_the_first_is_of_the_least_index(calls: list[tuple[int, int, float]]) -> None:
    with patch.object(index_order, "_PATIENCE", 0.0):
        check_order(calls)


def check_order(calls: list[tuple[int, int, float]]) -> None:
    index = np.random.default_rng(0).permutation(NUM_CLASSES * NUM_AGES).astype(float)
    order = IndexOrder()
    order.set_index(index.tolist())
    nodes = [Root(Namespace(str(number))) for number in range(8)]
    inside: dict[Root, tuple[int, float]] = {}
    now_s = 0.0
    for number, class_, pause_s in calls:
        now_s += pause_s
        node = nodes[number]
        if node in inside:
            order.leave(node)
            del inside[node]
        else:
            order.enter(node, class_, now_s, now_s)
            inside[node] = (class_, now_s)
        assert len(order) == len(inside)
        assert all((node in order) == (node in inside) for node in nodes)
        first = order.first(now_s)

        worth = {}
        for node, (kind, touched_s) in inside.items():
            age = int(np.searchsorted(AGE_EDGES_S, now_s - touched_s, side="right")) - 1
            worth[node] = (index[kind * NUM_AGES + age], touched_s)
        assert (first is None) == (not inside)
        if first is not None:
            assert isinstance(first, Root)
            assert worth[first] == min(worth.values())


@given(st.floats(0, 1e6), st.integers(0, NUM_AGES - 2))
def test_an_age_at_the_very_edge_does_not_go_round_for_ever(touched_s: float, age: int) -> None:
    order = IndexOrder()
    node = Root(Namespace(""))
    order.enter(node, 0, touched_s, touched_s)
    edge_s = touched_s + AGE_EDGES_S[age + 1]
    for now_s in (np.nextafter(edge_s, 0), edge_s, np.nextafter(edge_s, np.inf)):
        assert order.first(float(now_s)) is node


def test_a_node_is_late_by_no_more_than_the_cells_patience() -> None:
    order = IndexOrder()
    first, second, other = (Root(Namespace(str(number))) for number in range(3))
    order.enter(first, 0, 0.0, 0.0)
    order.enter(second, 0, 0.1, 0.1)
    order.enter(other, 1, 0.0, 0.0)
    # Worth nothing once they are a second old; the other is worth more, always.
    order.set_index([1.0, *[0.0] * (NUM_AGES - 1), *[0.5] * (NUM_CLASSES - 1) * NUM_AGES])
    assert order.first(1.0) is first
    order.leave(first)
    assert order.first(1.1) is second


def test_an_old_node_that_enters_late_still_ages_in_time() -> None:
    order = IndexOrder()
    old, young = Root(Namespace("old")), Root(Namespace("young"))
    order.enter(young, 0, 19.0, 30.0)
    order.enter(old, 0, 16.0, 30.0)
    index = [float(age) for _ in range(NUM_CLASSES) for age in range(NUM_AGES)]
    order.set_index([-worth for worth in index])
    order.leave(young)
    order.enter(young, 0, 31.0, 31.0)
    assert order.first(33.0) is old


def test_a_new_index_reorders_what_is_there() -> None:
    order = IndexOrder()
    one, two = Root(Namespace("one")), Root(Namespace("two"))
    order.enter(one, 0, 0.0, 0.0)
    order.enter(two, 1, 0.0, 0.0)
    for least in (0, 1):
        index = [1.0] * (NUM_CLASSES * NUM_AGES)
        index[least * NUM_AGES] = 0.5
        order.set_index(index)
        assert order.first(0.5) is (one, two)[least]
    with pytest.raises(KeyError):
        order.leave(Root(Namespace("three")))


# Ghosts and the duel


def test_ghosts_are_recalled_once_and_forgotten_in_order() -> None:
    ghosts = Ghosts(8)
    made = [Ghost(0, index, index, 0.0) for index in range(20)]
    for index, ghost in enumerate(made):
        ghosts.remember([index], ghost)
        assert len(ghosts) <= 8
        assert all(
            ghosts._young.get(i) or ghosts._old.get(i)
            for i in range(index - 3, index + 1)
            if i >= 0
        )
    assert ghosts.recall([19]) == [(made[19], 1)]
    assert ghosts.recall([19]) == []
    assert ghosts.recall([0]) == []
    ghosts.remember(range(100, 200), made[0])
    assert len(ghosts) <= 8


def test_ghosts_come_back_in_rows_up_to_the_first_that_is_not_known() -> None:
    ghosts = Ghosts(100)
    one, two = (Ghost(0, index, index, 0.0) for index in range(2))
    ghosts.remember([1, 2, 3, 9], one)
    ghosts.remember([4, 5, 7], two)
    assert ghosts.recall([1, 2, 3, 4, 5, 6, 7]) == [(one, 3), (two, 2)]
    assert ghosts.recall([]) == []
    assert ghosts.recall([7, 9]) == [(two, 1), (one, 1)]
    assert len(ghosts) == 0


def test_the_younger_of_two_histories_of_the_same_tokens_counts() -> None:
    ghosts = Ghosts(4)
    one, two = (Ghost(0, index, index, 0.0) for index in range(2))
    ghosts.remember([1], one)
    ghosts.remember([2, 3], one)
    ghosts.remember([1], two)
    assert ghosts.recall([1]) == [(two, 1)]
    assert ghosts.recall([1]) == [], "the older one is no return any more"


def play(duel: LRUDuel, number: int, lead: int) -> int:
    """Requests of 100 tokens, found ``lead`` more than LRU; returns how many LRU ruled."""
    num_lru = 0
    for _ in range(number):
        num_lru += duel.follows_lru
        duel.observe(asked=100, found=50, lru_found=50 - lead)
    return num_lru


def test_the_index_keeps_its_seat_while_it_does_no_worse() -> None:
    duel = LRUDuel()
    assert play(duel, 5000, 5) == 0
    assert play(duel, 5000, 0) == 0
    assert duel.num_defeats == 0


def test_the_index_loses_its_seat_for_longer_and_longer() -> None:
    duel = LRUDuel()
    # Of 20,000 requests on which the index would lose, most follow LRU.
    num_lru = play(duel, 20_000, -5)
    assert duel.num_defeats > 2
    assert num_lru > 10_000


def test_requests_for_nothing_prove_nothing() -> None:
    duel = LRUDuel()
    duel.observe(asked=0, found=0, lru_found=0)
    assert not duel.follows_lru
