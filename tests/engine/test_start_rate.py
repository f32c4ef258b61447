"""How long a new request would wait, estimated from steps by a clock of the test's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.config import QueueLimits
from radixserve.engine.start_rate import MIN_STARTS, WINDOW_S, WINDOW_STARTS, StartRate
from tests.engine.busy_engine import BusyEngine


def test_the_wait_is_what_is_ahead_over_the_rate() -> None:
    engine = BusyEngine()
    engine.run(4)
    assert engine.gate.expected_wait_s == 0
    for number in range(1, 21):
        engine.enter()
        assert engine.gate.expected_wait_s == pytest.approx(number / 4)


def test_long_prompts_wait_by_their_tokens_and_short_ones_by_their_number() -> None:
    engine = BusyEngine()
    engine.run(4)
    engine.enter(1000)
    assert engine.gate.expected_wait_s == pytest.approx(2.5)
    for _ in range(9):
        engine.enter(1)
    assert engine.gate.expected_wait_s == pytest.approx(2.5225)
    for _ in range(10):
        engine.enter(1)
    assert engine.gate.expected_wait_s == pytest.approx(5.0)


def test_what_is_cached_takes_no_time() -> None:
    """As much of the prompts is taken to be cached as was of the last few."""
    engine = BusyEngine()
    engine.run(4, tokens=100, cached=90)
    engine.enter(1000)
    # 100 of them to be computed, at 40 a second.
    assert engine.gate.expected_wait_s == pytest.approx(2.5)


def test_where_all_is_cached_only_their_number_counts() -> None:
    engine = BusyEngine()
    engine.run(4, tokens=100, cached=100)
    engine.enter(10**6)
    assert engine.gate.expected_wait_s == pytest.approx(0.25)


def test_time_without_a_queue_tells_nothing_of_the_engine() -> None:
    """One request a minute is what came, not what could be done."""
    engine = BusyEngine()
    for _ in range(50):
        engine.step(0.5, 2, waiting=1)
    engine.step(0.5, 2, waiting=0)
    for _ in range(100):
        engine.step(60.0, 1, waiting=0)
    engine.enter()
    assert engine.gate.expected_wait_s == pytest.approx(0.25)


def test_who_waits_for_a_prefix_does_not_wait_for_room() -> None:
    engine = BusyEngine()
    for _ in range(50):
        engine.step(0.5, 2, waiting=1)
    for _ in range(20):
        engine.step(1.0, 0, waiting=7, deferred=7)
    engine.enter()
    # The first of them ends the last step that counted.
    assert engine.gate.expected_wait_s == pytest.approx(0.25, rel=0.15)


def test_nothing_is_told_of_an_engine_that_has_not_been_seen_at_work() -> None:
    engine = BusyEngine(QueueLimits(max_queue_s=0.5))
    for _ in range(MIN_STARTS):
        engine.step(10.0, 1)
        engine.enter()
        assert engine.gate.expected_wait_s == 0
    engine.step(10.0, 1)
    assert engine.gate.expected_wait_s > 30
    engine.refused()


def test_a_stall_shows_while_it_lasts() -> None:
    engine = BusyEngine()
    engine.run(4)
    for _ in range(8):
        engine.enter()
    before = engine.gate.expected_wait_s
    engine.now_s += WINDOW_S
    during = engine.gate.expected_wait_s
    assert during > 1.5 * before
    # And it is forgotten when it is over.
    engine.run(4)
    assert engine.gate.expected_wait_s == pytest.approx(before, rel=0.01)


@given(rates=st.lists(st.integers(1, 50), min_size=2, max_size=2, unique=True))
def test_a_new_pace_is_learnt(rates: list[int]) -> None:
    engine = BusyEngine()
    for rate in (rates[0], rates[1], rates[1], rates[1]):
        engine.run(rate)
    engine.enter()
    assert engine.gate.expected_wait_s == pytest.approx(1 / rates[1], rel=0.05)


def test_a_slow_engines_few_starts_are_not_forgotten() -> None:
    """One start in ten seconds: a window of time alone would hold none of them."""
    engine = BusyEngine()
    for number in range(1000):
        engine.step(1.0, int(number % 10 == 0))
    engine.enter()
    assert engine.gate.expected_wait_s == pytest.approx(10.0, rel=10 / WINDOW_STARTS)


def test_another_life_of_the_engine_counts_from_nothing() -> None:
    """Its figures begin at 0; the time while there was none is no step's."""
    engine = BusyEngine()
    engine.run(4)
    engine.num_steps = engine.starts = engine.prompt_tokens = engine.cached_tokens = 0
    engine.step(300.0, 1)
    engine.enter()
    assert engine.gate.expected_wait_s == pytest.approx(0.25)


def test_another_life_that_dies_young_counts_from_nothing() -> None:
    """As many steps as before it, and fewer starts."""
    engine = BusyEngine()
    engine.run(4)
    before = engine.gate.expected_wait_s
    engine.starts = engine.prompt_tokens = engine.cached_tokens = 0
    engine.step(300.0, 0)
    assert engine.gate.expected_wait_s == before
    engine.enter()
    assert engine.gate.expected_wait_s == pytest.approx(0.25)


def test_a_rate_that_has_seen_nothing_says_nothing() -> None:
    assert StartRate().wait_s(10, 1000, 0.0) == 0.0
