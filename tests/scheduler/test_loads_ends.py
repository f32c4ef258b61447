"""How loading ends: aborts, preemptions, failed steps, no pages, interrupts."""

import numpy as np
import pytest

from radixserve.errors import OutOfPagesError
from radixserve.ids import Namespace
from radixserve.scheduler.in_flight import InFlight
from radixserve.scheduler.plan import PlannedLoad, StepPlan
from radixserve.scheduler.planner import _RoomIsInFlightError
from radixserve.tiers.moves import Moves
from tests.scheduler.loading import (
    FLOOD,
    OTHER,
    PROMPT,
    STOP,
    check_answer,
    from_files,
    loaded,
    planned,
    steps,
    tiered,
)
from tests.support.simulation import Fault, Pace, oracle


def test_aborted_with_a_load_in_flight(pace: Pace) -> None:
    sim = tiered(max_in_flight=2, pace=pace)
    sim.add("stream", OTHER, max_tokens=20)
    sim.step()
    sim.add("a", PROMPT)
    sim.launch(max_moved_pages=2)
    sim.abort("a")
    end = sim.ends["a", 0]
    # Whatever it would have loaded, it has not.
    assert end.cache_report is not None
    assert (end.cache_report.host_tokens, end.cache_report.computed_tokens) == (0, 43)
    assert sim.tiers is not None
    assert sim.tiers.info().host_in_use_pages > 0
    sim.run()
    assert sim.tiers.info().host_in_use_pages == 0
    check_answer(sim, "stream", OTHER, 20)
    sim.add("b", PROMPT)
    sim.run()
    check_answer(sim, "b", PROMPT)
    sim.assert_no_leaks()


def test_aborted_between_two_loads_it_leaves_what_it_has_loaded() -> None:
    sim = tiered()
    sim.add("stream", OTHER, max_tokens=20)
    sim.step()
    sim.add("a", PROMPT)
    sim.step(max_moved_pages=2)
    sim.abort("a")
    assert sim.ends["a", 0].num_cached_tokens == 8
    assert sim.cache.match(Namespace(""), np.array(PROMPT, dtype=np.int32)) == 8
    sim.run()
    sim.assert_no_leaks()


def test_aborted_while_it_waits_for_the_disk() -> None:
    sim = from_files()
    assert sim.disk is not None
    sim.add("a", PROMPT)
    sim.step()
    sim.abort("a")
    assert not sim.scheduler.has_work
    sim.assert_no_leaks()


@pytest.mark.parametrize("fault", [Fault.LAUNCH, Fault.WAIT])
def test_a_failed_load_costs_the_request_nothing_but_time(
    depth: int, pace: Pace, fault: Fault
) -> None:
    sim = tiered(max_in_flight=depth, pace=pace)
    sim.add("a", PROMPT)
    sim.runner.next_fault = fault
    sim.run()
    check_answer(sim, "a", PROMPT)
    report = sim.found["a"]
    assert (report.host_tokens, report.computed_tokens, report.cause) == (0, 43, "evicted")
    sim.assert_no_leaks()
    sim.cache.evict(64)
    sim.add("b", PROMPT)
    sim.run()
    assert sim.found["b"].host_tokens == 40


def test_rows_of_a_failed_step_end_and_loads_do_not() -> None:
    sim = tiered(max_in_flight=2, pace=Pace.AT_WAIT)
    sim.add("stream", OTHER, max_tokens=20)
    sim.step()
    sim.step()
    sim.add("a", PROMPT)
    sim.runner.next_fault = Fault.WAIT
    plan = sim.launch(max_moved_pages=4)
    assert (loaded(plan), set(planned(plan))) == ({"a": 16}, {"stream"})
    sim.run()
    assert sim.ends["stream", 0].finish_reason == "error"
    assert sim.ends["a", 0].finish_reason == "length"
    check_answer(sim, "a", PROMPT)


def test_what_counts_on_a_failed_load_is_void(pace: Pace) -> None:
    """One load has landed, the second fails with a third and a row behind it in flight. What these
    do is not taken for true; what the first did is."""
    sim = tiered(max_in_flight=3, pace=pace)
    sim.add("stream", OTHER, max_tokens=30)
    sim.step()
    sim.land()
    sim.add("a", PROMPT, max_tokens=6)
    sim.launch(max_moved_pages=4)
    sim.runner.next_fault = Fault.WAIT
    assert loaded(sim.launch(max_moved_pages=4)) == {"a": 16}
    assert loaded(sim.launch(max_moved_pages=4)) == {"a": 8}
    sim.land()
    assert planned(sim.launch(max_moved_pages=4))["a"] == 3
    request = next(one for one in sim.scheduler.running if one.request_id == "a")
    assert (request.num_launched_tokens, request.num_pending_tokens) == (43, 1)
    sim.land()
    assert (request.num_launched_tokens, request.num_pending_tokens) == (16, 0)
    assert request.num_computed_tokens == 16
    plan = sim.launch()
    assert planned(plan)["a"] == 27
    sim.run()
    check_answer(sim, "a", PROMPT, 6)
    assert sim.found["a"].host_tokens == 16
    sim.assert_no_leaks()


def test_a_void_row_that_fails_ends_nobody() -> None:
    sim = tiered(max_in_flight=2, pace=Pace.AT_WAIT)
    sim.add("a", PROMPT)
    sim.runner.next_fault = Fault.WAIT
    sim.launch()
    sim.runner.next_fault = Fault.WAIT
    assert planned(sim.launch()) == {"a": 3}
    sim.land()
    sim.land()
    assert not sim.ends.keys() & {("a", 0)}
    sim.run()
    check_answer(sim, "a", PROMPT)


def test_who_is_preempted_while_it_loads_comes_back_and_loads(depth: int) -> None:
    """It waits for the disk, holding pages; the older one needs them."""
    sim = from_files(num_pages=22, max_in_flight=depth)
    assert sim.disk is not None
    sim.add("old", OTHER, max_tokens=40)
    sim.step()
    sim.add("a", PROMPT)
    sim.step()
    while not sim.scheduler.stats().preemptions:
        assert ("old", 0) not in sim.ends
        # Only what lets it hold some pages.
        if sim.disk.num_read < 4:
            sim.disk.end_one()
        sim.step()
    assert [str(one.request_id) for one in sim.scheduler.running] == ["old"]
    sim.run()
    check_answer(sim, "old", OTHER, 40)
    check_answer(sim, "a", PROMPT)
    # What it found at first is told, not what preemption made of it.
    assert sim.found["a"].matched_tokens <= 16
    stats = sim.scheduler.stats()
    assert stats.prompt_tokens == len(OTHER) + 43
    assert stats.tiers is not None
    sim.assert_no_leaks()


def test_who_gets_no_page_to_load_into_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = tiered()
    reserve = sim.cache.reserve
    refusals = iter([True])

    def refusing(lease: object, num_tokens: int) -> None:
        if next(refusals, False):
            raise OutOfPagesError("no page")
        reserve(lease, num_tokens)  # type: ignore[arg-type]  # a lease

    monkeypatch.setattr(type(sim.cache), "reserve", lambda cache, *args: refusing(*args))
    sim.add("a", PROMPT)
    plan = sim.step()
    # In the same plan, lest it be empty.
    assert (loaded(plan), planned(plan)) == ({}, {"a": 43})
    sim.run()
    check_answer(sim, "a", PROMPT)
    assert sim.found["a"].host_tokens == 0
    sim.assert_no_leaks()


def test_a_plan_that_waits_for_room_loses_no_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = tiered(max_in_flight=2, pace=Pace.AT_WAIT)
    sim.add("flood", FLOOD)
    sim.run()
    sim.rest()
    sim.add("stream", OTHER, max_tokens=9)
    sim.step()
    sim.add("a", PROMPT)
    planner = sim.scheduler._planner
    plan_rows = planner._plan_rows

    def short_of_room(*args: object) -> bool:
        monkeypatch.setattr(planner, "_plan_rows", plan_rows)
        sim.cache.evict(3)
        raise _RoomIsInFlightError

    monkeypatch.setattr(planner, "_plan_rows", short_of_room)
    plan = sim.launch()
    assert plan == StepPlan((), ())
    plan = sim.launch()
    # Of the three pages that were evicted the last one was not full.
    assert len(plan.moves.stores) == 2
    sim.run()
    check_answer(sim, "a", PROMPT)
    sim.assert_no_leaks()


# -- interrupts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupted", ["launch", "take_stores", "landed", "land_load", "commit"])
def test_an_interrupt_leaks_no_slot(interrupted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the taking of slots and the launch; in the middle of an update."""
    sim = tiered(max_in_flight=2, num_pages=30)
    assert sim.tiers is not None
    sim.add("flood", FLOOD, max_tokens=12)
    sim.step()
    sim.add("a", PROMPT)
    owner: object = {
        "launch": InFlight,
        "take_stores": type(sim.tiers),
        "landed": type(sim.tiers),
        "land_load": InFlight,
        "commit": type(sim.scheduler._running),
    }[interrupted]
    original = getattr(owner, interrupted)
    is_first = iter([True])

    def interrupting(*args: object, **more: object) -> object:
        if next(is_first, False):
            raise KeyboardInterrupt
        return original(*args, **more)

    replacement = staticmethod(interrupting) if interrupted == "land_load" else interrupting
    with monkeypatch.context() as patch:
        patch.setattr(owner, interrupted, replacement)
        with pytest.raises(KeyboardInterrupt):
            steps(sim, 6, max_moved_pages=4)
    known = [plan for plan, _ in sim.in_flight]
    sim.take(sim.scheduler.recover(known))
    sim.scheduler.check_invariants()
    sim.run()
    for name, prompt, count in (("flood", FLOOD, 12), ("a", PROMPT, 4)):
        expected = oracle(prompt, count, stop=STOP)
        got = sim.answers[name, 0]
        assert got == expected[: len(got)]
        if sim.ends[name, 0].finish_reason != "error":
            assert got == expected
    sim.add("b", PROMPT)
    sim.run()
    check_answer(sim, "b", PROMPT)
    sim.assert_no_leaks()


def test_who_does_not_load_is_left_alone() -> None:
    sim = tiered()
    sim.add("a", OTHER)
    sim.launch()
    (request,) = sim.scheduler.running
    loads = sim.scheduler.loads
    loads.landed(request)
    loads.failed(Moves(), [PlannedLoad(request, 0, 4)])
    loads.stop(request)
    assert request.num_launched_tokens == 30
    sim.run()
    check_answer(sim, "a", OTHER)


def test_whoever_an_interrupt_has_left_without_pages_loads_no_more() -> None:
    """It came between the beginning of the loading and that of the running."""
    sim = from_files()
    assert sim.disk is not None
    sim.add("a", PROMPT)
    assert sim.launch().is_empty
    assert sim.scheduler.running[0] in sim.scheduler.loads
    sim.scheduler.loads.recover([], ())
    assert sim.scheduler.running[0] not in sim.scheduler.loads
    while sim.disk.end_one():
        pass
    sim.run()
    check_answer(sim, "a", PROMPT)
    sim.assert_no_leaks()
