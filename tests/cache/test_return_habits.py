"""What a namespace's habit is told by, and what the return-time policy makes of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.cache import return_habits, return_time
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cache.return_class import NUM_CLASSES, Trait, class_index
from radixserve.cache.return_habits import Habit, Habits
from radixserve.cache.return_statistics import NUM_AGES, ReturnStatistics
from radixserve.cache.return_time import ReturnTime
from radixserve.cache.touch_log import TouchLog
from radixserve.ids import Namespace

ONE, TWO, THREE = (Namespace(name) for name in ("one", "two", "three"))


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), max_size=60))
def test_a_lone_namespace_is_as_usual_as_can_be(requests: list[tuple[int, int]]) -> None:
    habits = Habits()
    for known, more in requests:
        assert habits.observe(ONE, known=known, asked=known + more) is Habit.USUAL


def test_namespaces_are_told_apart_by_what_comes_again() -> None:
    habits = Habits()
    for _ in range(100):
        often = habits.observe(ONE, known=80, asked=100)
        seldom = habits.observe(TWO, known=20, asked=100)
        usual = habits.observe(THREE, known=50, asked=100)
    assert (often, usual, seldom) == (Habit.OFTEN, Habit.USUAL, Habit.SELDOM)
    # Nothing asked for tells nothing, and harms nothing.
    assert habits.observe(ONE, known=0, asked=0) is Habit.OFTEN
    assert habits.observe(Namespace("new"), known=0, asked=0) is Habit.USUAL


def test_a_few_requests_tell_little_and_old_ones_less_and_less() -> None:
    habits = Habits()
    for _ in range(1000):
        habits.observe(ONE, known=50, asked=100)
    told = [habits.observe(TWO, known=0, asked=100) for _ in range(20)]
    assert told[0] is Habit.USUAL
    assert told[-1] is Habit.SELDOM
    assert told == sorted(told, reverse=True)
    for _ in range(10_000):
        habits.observe(ONE, known=50, asked=100)
    assert habits.observe(TWO, known=50, asked=100) is Habit.USUAL


def test_where_nothing_or_everything_comes_again_all_are_alike() -> None:
    for known in (0, 100):
        habits = Habits()
        for number in range(50):
            name = Namespace(str(number % 3))
            assert habits.observe(name, known=known, asked=100) is Habit.USUAL


def test_only_so_many_namespaces_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(return_habits, "_MAX_NAMESPACES", 10)
    habits = Habits()
    for number in range(50):
        habits.observe(ONE, known=90, asked=100)
        habits.observe(Namespace(str(number)), known=10, asked=100)
    assert len(habits) == 10
    # The busy one is not the one that is forgotten.
    assert habits.observe(ONE, known=90, asked=100) is Habit.OFTEN


def life(statistics: ReturnStatistics, habit: Habit, *, share: float, tokens: float) -> int:
    """Give a class tokens of which a share returns in the fourth bucket of age."""
    class_ = class_index(habit, Trait.PLAIN, 1, 5)
    row = np.full(NUM_AGES, tokens)
    row[5:] *= 1 - share
    statistics.returned[class_, 4] = tokens * share
    statistics.at_risk[class_] = row
    return class_


def test_habits_are_judged_apart_once_there_are_two() -> None:
    alone = ReturnStatistics(TouchLog(16, 100))
    usual = life(alone, Habit.USUAL, share=0.5, tokens=1e4)
    seldom = class_index(Habit.SELDOM, Trait.PLAIN, 1, 5)
    hazards = alone.hazards(1e3)
    assert hazards.shape == (NUM_CLASSES, NUM_AGES)
    assert (hazards[usual] == hazards[seldom]).all(), "the rest lends what it has"
    both = ReturnStatistics(TouchLog(16, 100))
    life(both, Habit.USUAL, share=0.5, tokens=1e4)
    life(both, Habit.SELDOM, share=0.0, tokens=1e4)
    told = both.hazards(1e3)[:, 4]
    assert told[seldom] < 0.05
    assert told[usual] > 0.2
    # Few of them lean on all.
    few = ReturnStatistics(TouchLog(16, 100))
    life(few, Habit.USUAL, share=0.5, tokens=1e4)
    life(few, Habit.SELDOM, share=0.0, tokens=100.0)
    told = few.hazards(1e3)[:, 4]
    assert 0.15 < told[seldom] < told[usual]


def test_who_returns_is_kept_before_one_who_looks_alike_and_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(return_time, "_REFRESH_REQUESTS", 4)
    monkeypatch.setattr(return_time, "_REFRESH_PAGES", 1)
    now_s = 0.0
    cache = PrefixCache(128, 16, ReturnTime(lambda: now_s, 128, 16))
    found = asked = 0
    # Both send as much that is new, in turn; one asks again, sixteen of its requests later.
    for turn in range(600):
        for name, number in ((ONE, turn // 32 * 16 + turn % 16), (TWO, turn + 5000)):
            now_s += 1.0
            tokens = (np.arange(128) + 1000 * number).astype(np.int32)
            lease = cache.acquire(name, tokens)
            if name == ONE and turn > 200 and turn % 32 >= 16:
                found, asked = found + lease.num_cached_tokens, asked + 128
            if lease.pending_copy is not None:
                cache.finish_copy(lease)
            cache.reserve(lease, 128)
            cache.release(lease, tokens)
    # Sixteen of its prompts fill the cache. LRU finds none; whoever thinks both alike, an eighth.
    assert found > 0.8 * asked > 0
