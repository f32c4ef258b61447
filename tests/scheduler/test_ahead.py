"""Planning step n + 1 while step n runs: what is foreseen, what is not, copies, and room."""

import pytest

from radixserve.scheduler.policy import awaits_update
from tests.scheduler.planning_ahead import PROMPT, add_stopping, ahead
from tests.scheduler.test_scheduler import STOP, counts, names
from tests.support.simulation import Pace, Simulation, oracle

# -- no bubble ------------------------------------------------------------------------------------


def test_every_step_is_launched_before_the_one_before_it_is_known() -> None:
    """Decoding, with requests that come, end by length, end by a stop token, and are aborted."""
    sim = ahead(num_pages=256)
    sim.add("always", [9, 9, 9], max_tokens=60)
    for index in range(12):
        sim.step()
        sim.step()
        sim.add(f"length{index}", [10 + index, 2, 3], max_tokens=1 + index % 5)
        add_stopping(sim, f"stop{index}", [30 + index, 7, 7, 8], 4)
        sim.add(f"abort{index}", [22, 1 + index], max_tokens=40)
        if index:
            sim.abort(f"abort{index - 1}")
    sim.abort("abort11")
    sim.run()
    num_steps = len(sim.runner.plans)
    assert num_steps > 55
    expected = [("launch", 0)]
    for ordinal in range(1, num_steps):
        expected += [("launch", ordinal), ("wait", ordinal - 1)]
    # Alone at last, "always" has nothing to plan beyond its last step.
    assert sim.runner.events == [*expected, ("wait", num_steps - 1)]
    for index in range(12):
        assert sim.ends[f"stop{index}", 0].finish_reason == "stop"
        assert sim.ends[f"length{index}", 0].finish_reason == "length"
    assert sim.answers["always", 0] == oracle([9, 9, 9], 60, stop=STOP)
    sim.assert_no_leaks()


def test_chunks_of_a_prompt_and_its_first_decode_steps_follow_each_other_without_results() -> None:
    sim = ahead(max_in_flight=3, max_batch_tokens=8)
    sim.add("a", list(range(1, 19)), max_tokens=6)
    plans = [sim.launch() for _ in range(3)]
    assert [counts(plan)["a"] for plan in plans] == [8, 8, 2]
    sim.land()
    # The token that this runs is sampled by the step before it, which nobody has seen yet.
    (row,) = sim.launch().rows
    assert (row.start, row.num_scheduled_tokens, row.num_samples) == (18, 1, 1)
    assert row.request.num_tokens == 18
    assert row.request.num_computed_tokens == 8
    assert row.request.num_pending_tokens == 2
    assert row.request.num_foreseen_tokens == 20
    sim.run()
    assert sim.answers["a", 0] == oracle(list(range(1, 19)), 6, stop=STOP)


# -- what is not foreseen -------------------------------------------------------------------------


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_the_last_token_by_length_is_never_run(depth: int, max_tokens: int) -> None:
    """It is not needed for anything, so a request of a known end computes nothing in vain."""
    sim = Simulation(max_in_flight=depth)
    sim.add("a", PROMPT, max_tokens=max_tokens)
    sim.run()
    assert sim.answers["a", 0] == oracle(PROMPT, max_tokens, stop=STOP)
    assert sim.runner.num_computed_tokens == len(PROMPT) + max_tokens - 1
    stats = sim.scheduler.stats()
    assert stats.computed_tokens == sim.runner.num_computed_tokens
    assert stats.generated_tokens == max_tokens
    assert stats.num_steps == max_tokens


def test_nothing_is_planned_beyond_a_fork_until_the_choices_are_known() -> None:
    sim = ahead(max_batch_tokens=4, max_running=4)
    sim.add("a", PROMPT, max_tokens=3, n=3)
    assert counts(sim.launch()) == {"a": 4}
    # Chunks before the last are planned ahead, as ever.
    plan = sim.launch()
    assert [(row.start, row.num_samples) for row in plan.rows] == [(4, 3)]
    sim.land()
    assert sim.launch().rows == ()
    sim.land()
    assert len(sim.scheduler.running) == 3
    plan = sim.launch()
    assert len(plan.rows) == 3
    assert len(plan.copies) == 2
    sim.run()
    for index in range(3):
        assert sim.answers["a", index] == oracle(PROMPT, 3, seed=index, stop=STOP)
    sim.assert_no_leaks()


def test_choices_about_to_be_known_are_not_held_up_by_a_long_chunk() -> None:
    """They have no row in the step that is planned meanwhile, but they wait for its end."""
    sim = ahead(max_batch_tokens=64)
    sim.add("a", PROMPT, max_tokens=3, n=2)
    sim.launch()
    sim.add("long", list(range(8, 48)), max_tokens=1)
    assert counts(sim.launch(max_chunk_tokens=6)) == {"long": 6}
    sim.run()
    # One that is about to end waits for nothing any more.
    sim.add("ends", [7, 7], max_tokens=1)
    sim.launch()
    sim.add("longer", list(range(41, 49)) * 4, max_tokens=1)
    assert counts(sim.launch(max_chunk_tokens=6)) == {"longer": 32}
    sim.run()
    sim.assert_no_leaks()


# -- copies ---------------------------------------------------------------------------------------


def test_a_pending_copy_is_in_one_plan_only(pace: Pace) -> None:
    """Done twice, it would undo what the step before wrote behind it."""
    sim = ahead(pace=pace, max_in_flight=3)
    sim.add("first", PROMPT, max_tokens=1)
    sim.run()
    sim.add("second", [*PROMPT[:5], 9, 8], max_tokens=5)
    plans = [sim.launch() for _ in range(3)]
    assert [len(plan.copies) for plan in plans] == [1, 0, 0]
    (lease,) = [request.lease for request in sim.scheduler.running]
    assert lease is not None
    pending = [lease.pending_copy]
    sim.land()
    pending.append(lease.pending_copy)
    assert pending == [*plans[0].copies, None]
    sim.run()
    assert sim.answers["second", 0] == oracle([*PROMPT[:5], 9, 8], 5, stop=STOP)
    sim.assert_no_leaks()


def test_abort_with_a_copy_in_flight_frees_source_and_target(pace: Pace) -> None:
    """Both are had by others in the very next steps, which run after the copy."""
    sim = ahead(pace=pace, num_pages=4)
    sim.add("first", PROMPT, max_tokens=1)
    sim.run()
    sim.add("second", [*PROMPT[:5], 9, 8], max_tokens=5)
    (copy,) = sim.launch().copies
    sim.abort("second")
    assert sim.cache.in_use_pages == 0
    other = [20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33]
    sim.add("third", other, max_tokens=3)
    sim.launch()
    lease = sim.scheduler.running[0].lease
    assert lease is not None
    assert {copy.source, copy.target} <= set(lease.own_pages.tolist())
    sim.run()
    assert sim.answers["third", 0] == oracle(other, 3, stop=STOP)
    sim.assert_no_leaks()


# -- room -----------------------------------------------------------------------------------------


def run_under_pressure(
    sim: Simulation, *, max_chunk_tokens: int | None = None, until: str | None = None
) -> list[tuple[bool, int, int]]:
    """Each plan as (is empty, steps in flight when it was made, preemptions by it)."""
    log = []
    while sim.scheduler.has_work and (until, 0) not in sim.ends:
        before = sim.scheduler.stats().preemptions
        in_flight = {row.request for plan, _ in sim.in_flight for row in plan.rows}
        num_in_flight = len(sim.in_flight)
        streams = {
            request
            for request in sim.scheduler.running
            if request.num_foreseen_tokens - request.num_launched_tokens == 1
            and not awaits_update(request)
        }
        plan = sim.launch(max_chunk_tokens=max_chunk_tokens)
        for request in in_flight:
            assert request.lease is not None or request.finish_reason is not None
        # Nobody is left behind: either all go on or nobody does.
        if plan.rows:
            rows = {row.request for row in plan.rows}
            assert streams <= rows | {one for one in streams if one.lease is None}
        log.append((not plan.rows, num_in_flight, sim.scheduler.stats().preemptions - before))
        if not plan.rows or len(sim.in_flight) == sim.runner.max_in_flight:
            sim.land()
    return log


@pytest.mark.parametrize("max_in_flight", [2, 3])
def test_nobody_is_preempted_with_a_row_in_flight(pace: Pace, max_in_flight: int) -> None:
    """The pipeline drains first, and then gets on: no two plans in a row are empty for want of
    room with nothing in flight (``Simulation.launch`` asserts that)."""
    sim = ahead(
        pace=pace, max_in_flight=max_in_flight, num_pages=12, max_running=3, max_batch_tokens=16
    )
    # The younger ones come to a page border first, when the older have been planned already.
    prompts = {"a": [1, 2, 3, 4], "b": [11, 12, 13, 14, 15], "c": [21, 22, 23, 24, 25, 26]}
    for name, prompt in prompts.items():
        sim.add(name, prompt, max_tokens=24)
    log = run_under_pressure(sim)
    assert sim.scheduler.stats().preemptions > 0
    # Here all are in flight all the time, so room is made only where nothing is.
    assert all(num_in_flight == 0 for _, num_in_flight, preempted in log if preempted)
    drained = [index for index, (is_empty, *_) in enumerate(log[:-2]) if is_empty]
    assert drained
    # The pipeline is full again between one preemption and the next.
    assert sum(num_in_flight == max_in_flight - 1 for _, num_in_flight, _ in log) > len(log) / 2
    for name, prompt in prompts.items():
        assert sim.answers[name, 0] == oracle(prompt, 24, stop=STOP)
    sim.assert_no_leaks()


def test_a_victim_without_a_row_in_flight_is_preempted_at_once() -> None:
    """It has computed a part of its prompt, and pacing lets it do no more: no bubble for that."""
    sim = ahead(num_pages=8, max_batch_tokens=20)
    sim.add("stream", [1, 2, 3], max_tokens=24)
    sim.add("idle", list(range(20, 40)), max_tokens=1)
    assert counts(sim.step()) == {"stream": 3, "idle": 17}
    sim.land()
    log = run_under_pressure(sim, max_chunk_tokens=0, until="stream")
    assert [(num_in_flight, preempted) for _, num_in_flight, preempted in log if preempted] == [
        (1, 1)
    ]
    assert not any(is_empty for is_empty, *_ in log[:-1])
    sim.run()
    assert sim.answers["stream", 0] == oracle([1, 2, 3], 24, stop=STOP)
    assert sim.answers["idle", 0] == oracle(list(range(20, 40)), 1, stop=STOP)
    sim.assert_no_leaks()


@pytest.mark.parametrize(("num_pages", "is_admitted"), [(5, False), (6, True)])
def test_pages_of_pending_tokens_are_not_promised_to_others(
    depth: int, num_pages: int, is_admitted: bool
) -> None:
    """A newcomer of three pages comes in beside a request of two, one of which is for a token that
    is pending, and one page of growth for each who runs: six in all."""
    sim = Simulation(max_in_flight=depth, num_pages=num_pages, page_size=4)
    sim.add("a", [1, 2, 3, 4], max_tokens=4)
    sim.step()
    sim.add("b", list(range(20, 32)), max_tokens=1)
    assert names(sim.launch()) == ["a", "b"][: 1 + is_admitted]
    sim.run()
    assert sim.scheduler.stats().preemptions == 0
    sim.assert_no_leaks()
