"""Where room or attention runs out: nobody is lost, and everybody gets there in the end."""

import pytest

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import RequestId
from radixserve.scheduler.policy import MAX_PROBES
from radixserve.scheduler.scheduler import Scheduler
from tests.scheduler.test_scheduler import STOP, counts, names
from tests.support.simulation import Simulation, oracle


def test_budget_below_one_token_each_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_batch_tokens \(3\).*max_running \(4\)"):
        Scheduler(PrefixCache(8, 4), max_batch_tokens=3, max_running=4)


def test_step_without_room_for_chunks_runs_the_streams(depth: int) -> None:
    sim = Simulation(max_in_flight=depth, max_batch_tokens=8, page_size=4)
    sim.add("stream", [1, 2, 3], max_tokens=9)
    sim.add("long", list(range(10, 40)), max_tokens=2)
    assert counts(sim.step()) == {"stream": 3, "long": 5}
    assert counts(sim.step(max_chunk_tokens=0)) == {"stream": 1}
    assert counts(sim.step(max_chunk_tokens=1)) == {"stream": 1, "long": 1}
    sim.run()
    assert sim.answers["long", 0] == oracle(list(range(10, 40)), 2, stop=STOP)


def test_fork_without_a_page_for_the_copy_lets_the_choice_wait() -> None:
    sim = Simulation(num_pages=2, page_size=4)
    prompt = [1, 2, 3, 4, 5, 6]
    sim.add("a", prompt, max_tokens=2, n=2)
    sim.step()
    assert [request.index for request in sim.scheduler.running] == [0]
    assert sim.scheduler.stats().num_waiting == 1
    sim.run()
    for index in range(2):
        assert sim.answers["a", index] == oracle(prompt, 2, seed=index, stop=STOP)
    sim.assert_no_leaks()


def test_choices_that_end_with_their_first_token_never_need_room() -> None:
    sim = Simulation(max_running=1)
    sim.add("a", [1, 2, 3, 4, 5], max_tokens=1, n=3)
    sim.step()
    assert not sim.scheduler.has_work
    for index in range(3):
        assert sim.answers["a", index] == oracle([1, 2, 3, 4, 5], 1, seed=index, stop=STOP)
        assert sim.ends["a", index].finish_reason == "length"
    sim.assert_no_leaks()


def test_no_more_than_so_many_are_looked_at_in_a_step(depth: int) -> None:
    """One starts and all others are to wait for it; the rest is looked at in the next step."""
    sim = Simulation(max_in_flight=depth, num_pages=512, max_running=64, max_batch_tokens=64)
    stem = list(range(1, 41))
    for index in range(MAX_PROBES + 8):
        sim.add(f"r{index}", [*stem, 41, 1 + index], max_tokens=1)
    sim.step()
    assert sim.admitted == ["r0"]
    sim.run()
    assert len(sim.ends) == MAX_PROBES + 8
    # All but the last token once, the partial page that the first left behind included.
    assert sim.runner.num_computed_tokens == 41 + MAX_PROBES + 8
    sim.assert_no_leaks()


def test_prefix_evicted_since_it_was_estimated_is_estimated_anew(depth: int) -> None:
    """The older request takes the very pages that the younger was ranked for."""
    sim = Simulation(
        max_in_flight=depth, num_pages=8, page_size=4, max_overtakes=0, max_batch_tokens=64
    )
    warm = list(range(1, 25))
    sim.add("warm", warm, max_tokens=1)
    sim.run()
    sim.add("cold", list(range(25, 45)), max_tokens=3)
    sim.add("hot", [*warm[:20], 30], max_tokens=3)
    sim.step()
    assert sim.admitted[1] == "cold"
    sim.run()
    assert sim.ends["hot", 0].num_cached_tokens < 20
    assert sim.answers["hot", 0] == oracle([*warm[:20], 30], 3, stop=STOP)
    assert sim.answers["cold", 0] == oracle(list(range(25, 45)), 3, stop=STOP)
    sim.assert_no_leaks()


def test_match_that_locks_the_last_pages_waits_for_one_to_copy_into(depth: int) -> None:
    """What it matches can be evicted until it is matched: then nothing is left for the copy."""
    sim = Simulation(max_in_flight=depth, num_pages=8, page_size=4)
    warm = list(range(1, 13))
    sim.add("warm", warm, max_tokens=1)
    sim.run()
    busy = list(range(20, 37))
    sim.add("busy", busy, max_tokens=4)
    sim.step()
    assert sim.cache.info().free_pages == 0
    before = sim.cache.info()
    sim.add("late", [*warm[:10], 40, 41], max_tokens=3)
    assert names(sim.step()) == ["busy"]
    assert sim.cache.info() == before
    sim.run()
    # Nobody was preempted for it, and its match was still there.
    assert sim.scheduler.stats().preemptions == 0
    assert sim.ends["late", 0].num_cached_tokens == 10
    assert sim.answers["late", 0] == oracle([*warm[:10], 40, 41], 3, stop=STOP)
    sim.assert_no_leaks()


@pytest.mark.parametrize("how", ["abort", "fail", "broken_logits"])
def test_end_before_the_fork_is_the_end_of_every_choice(how: str) -> None:
    """Regression: only the first choice was told to have ended; whoever read the others hung."""
    sim = Simulation(max_batch_tokens=8)
    sim.add("a", list(range(1, 13)), max_tokens=4, n=3)
    assert counts(sim.step()) == {"a": 8}
    if how == "abort":
        sim.take(sim.scheduler.abort(RequestId("a")))
    elif how == "fail":
        sim.take(sim.scheduler.fail(sim.scheduler.schedule(), "broken"))
    else:
        plan = sim.scheduler.schedule()
        result = sim.runner.run(plan)
        sampled = ((result.sampled[0][0], None, result.sampled[0][2]),)
        sim.take(sim.scheduler.update(plan, type(result)(sampled)))
    reason = "abort" if how == "abort" else "error"
    assert {key: end.finish_reason for key, end in sim.ends.items()} == {
        ("a", index): reason for index in range(3)
    }
    assert not sim.scheduler.has_work
    sim.assert_no_leaks()


@pytest.mark.parametrize("index", [0, 1])
def test_a_choice_does_not_exist_before_the_fork(depth: int, index: int) -> None:
    """Regression: aborting choice 0 of three took the other two along without a word."""
    sim = Simulation(max_in_flight=depth)
    sim.add("a", [1, 2, 3], max_tokens=4, n=3)
    assert sim.scheduler.abort(RequestId("a"), index) == []
    sim.run()
    assert {end.finish_reason for end in sim.ends.values()} == {"length"}
    sim.assert_no_leaks()
