"""Requests whose prefix comes up from a tier: what the plans hold, and what becomes of everybody.

Mostly: a prompt is computed, evicted, and asked for again. Answers are the oracle's in every case;
the simulated runner fails at any page that does not hold what it should.
"""

import numpy as np
import numpy.typing as npt
import pytest

from radixserve.errors import OutOfPagesError
from radixserve.ids import Namespace, RequestId
from radixserve.request import Request
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.in_flight import InFlight
from radixserve.scheduler.plan import StepPlan
from radixserve.scheduler.planner import _RoomIsInFlightError
from radixserve.tiers.page_names import PageKey
from radixserve.types import EngineRequest, ResumedChoice
from tests.support.simulation import Fault, Pace, Simulation, oracle, written

STOP = frozenset({0})
PROMPT = [1 + position % 7 for position in range(43)]
"""Of the 42 tokens that it may take from a cache ten pages of 4 can be loaded."""
OTHER = [9 + position % 5 for position in range(30)]
FLOOD = [20 + position % 11 for position in range(48)]


def tiered(prompts: tuple[list[int], ...] = (PROMPT,), **settings: object) -> Simulation:
    """An idle engine that has served these prompts and evicted everything: all of it is below."""
    sim = Simulation(**{"num_slots": 64, "max_batch_tokens": 64, **settings})  # type: ignore[arg-type]  # any of its own
    for number, prompt in enumerate(prompts):
        sim.add(f"before {number}", prompt)
    sim.run()
    sim.cache.evict(sim.cache.total_pages)
    sim.rest()
    assert sim.cache.cached_pages == 0
    return sim


def from_files(
    prompts: tuple[list[int], ...] = (PROMPT,), *, num_slots: int = 64, **settings: object
) -> Simulation:
    """An engine that has just started, over the files of one that has served these prompts."""
    files: dict[PageKey, npt.NDArray[np.uint8]] = written(list(prompts), 4)
    return Simulation(num_slots=num_slots, has_disk=True, files=files, **settings)  # type: ignore[arg-type]  # any of its own


def check_answer(
    sim: Simulation, name: str, prompt: list[int], count: int = 4, *, index: int = 0
) -> None:
    expected = oracle(prompt, count, seed=index, stop=STOP)
    assert sim.answers[name, index] == expected, (sim.answers[name, index], expected)


def loaded(plan: StepPlan) -> dict[str, int]:
    """Tokens that a plan loads, by request."""
    return {str(load.request.request_id): load.num_tokens for load in plan.loads}


def planned(plan: StepPlan) -> dict[str, int]:
    """Tokens that it runs."""
    return {str(row.request.request_id): row.num_scheduled_tokens for row in plan.rows}


def steps(sim: Simulation, count: int, *, max_moved_pages: int) -> None:
    for _ in range(count):
        sim.step(max_moved_pages=max_moved_pages)


def test_what_was_evicted_is_loaded_and_the_rest_is_computed(depth: int, pace: Pace) -> None:
    sim = tiered(max_in_flight=depth, pace=pace)
    before = sim.runner.num_computed_tokens
    sim.add("a", PROMPT, max_tokens=1)
    plan = sim.launch()
    assert (loaded(plan), planned(plan)) == ({"a": 40}, {})
    assert len(plan.moves.loads) == 10
    sim.run()
    check_answer(sim, "a", PROMPT, 1)
    assert sim.runner.num_computed_tokens - before == 3
    report = sim.found["a"]
    assert (report.device_tokens, report.host_tokens, report.disk_tokens) == (0, 40, 0)
    assert (report.computed_tokens, report.cause) == (3, "whole_pages")
    sim.assert_no_leaks()


def test_what_is_loaded_is_in_the_tree(depth: int) -> None:
    sim = tiered(max_in_flight=depth)
    sim.add("a", PROMPT)
    sim.run()
    sim.add("b", PROMPT)
    sim.run()
    report = sim.found["b"]
    assert (report.device_tokens, report.host_tokens, report.cause) == (42, 0, "complete")
    assert sim.runner.num_loaded_pages == 10


def test_what_the_tree_has_is_not_loaded() -> None:
    """A match that ends inside a page is cut, and the page comes up as a whole."""
    sim = tiered()
    sim.add("a", PROMPT[:18], max_tokens=1)
    sim.run()
    assert sim.cache.match(Namespace(""), np.array(PROMPT, dtype=np.int32)) == 18
    before = sim.runner.num_loaded_pages
    sim.add("b", PROMPT)
    sim.run()
    report = sim.found["b"]
    assert (report.device_tokens, report.host_tokens, report.computed_tokens) == (16, 24, 3)
    assert sim.runner.num_loaded_pages - before == 6
    check_answer(sim, "b", PROMPT)


@pytest.mark.parametrize(
    ("length", "more", "cause"),
    [(41, [], "complete"), (42, [], "whole_pages"), (40, [40] * 9, "evicted")],
)
def test_the_cause_is_that_of_what_is_left(length: int, more: list[int], cause: str) -> None:
    """Behind ten pages loaded there is nothing more to find, less than a page, or what the tree
    says: its tokens were evicted there, whoever is asking."""
    sim = tiered()
    sim.add("a", PROMPT[:length] + more)
    sim.run()
    report = sim.found["a"]
    assert (report.host_tokens, report.cause) == (40, cause)
    assert (report.evicted_seconds_ago is not None) == (cause == "evicted")
    stats = sim.scheduler.stats()
    assert stats.admissions[cause] >= 1  # type: ignore[index]  # it is one of them
    assert sum(stats.admissions.values()) == 2


def test_figures_count_what_was_loaded_once() -> None:
    sim = tiered()
    before = sim.scheduler.stats()
    assert before.prompt_tokens == 43
    sim.add("a", PROMPT, n=2)
    sim.run()
    stats = sim.scheduler.stats()
    assert stats.prompt_tokens == 86
    assert (stats.cached_tokens, stats.host_tokens, stats.disk_tokens) == (40, 40, 0)
    assert stats.tiers is not None
    assert stats.tiers.host_loaded_pages == 10


def test_a_tenant_is_charged_for_what_it_computes() -> None:
    sim = tiered()
    sim.add("a", PROMPT, max_tokens=1, tenant="loads")
    sim.add("b", PROMPT[::-1], max_tokens=1, tenant="computes")
    served = sim.scheduler._waiting.served
    floor = served("")
    sim.launch()
    assert (served("loads") - floor, served("computes") - floor) == (3, 43)


# -- beside others --------------------------------------------------------------------------------


def test_streams_bound_the_pages_of_a_step_and_get_a_token_in_each(depth: int) -> None:
    sim = tiered(max_in_flight=depth)
    sim.add("stream", OTHER, max_tokens=30)
    sim.step()
    sim.step()
    sim.add("a", PROMPT)
    taken = []
    while ("a", 0) not in sim.answers:
        plan = sim.step(max_moved_pages=3)
        assert "stream" in planned(plan)
        taken.append(loaded(plan).get("a", 0) // 4)
    assert max(taken) == 3
    assert sum(taken) == 10
    assert [count for count in taken if count] == [3, 3, 3, 1]
    sim.run()
    check_answer(sim, "a", PROMPT)
    check_answer(sim, "stream", OTHER, 30)


def test_the_oldest_is_loaded_first() -> None:
    sim = tiered((PROMPT, OTHER))
    sim.add("stream", [41, 42, 43], max_tokens=30)
    sim.step()
    sim.add("a", PROMPT)
    sim.add("b", OTHER)
    plans = [loaded(sim.step(max_moved_pages=4)) for _ in range(6)]
    assert plans == [{"a": 16}, {"a": 16}, {"a": 8, "b": 8}, {"b": 16}, {"b": 4}, {}]
    sim.run()


def test_stores_of_what_is_evicted_are_never_left_out() -> None:
    sim = Simulation(num_pages=20, num_slots=64, max_batch_tokens=64)
    sim.add("old", PROMPT)
    sim.run()
    sim.add("stream", [41, 42, 43], max_tokens=20)
    sim.step()
    sim.add("flood", FLOOD)
    plan = sim.step(max_moved_pages=1)
    assert set(planned(plan)) == {"stream", "flood"}
    assert len(plan.moves.stores) > 1
    sim.run()
    check_answer(sim, "flood", FLOOD)


def test_what_loads_evict_is_stored_in_the_same_plan(depth: int) -> None:
    """The pool is full of another prompt, which goes down where this one comes up."""
    sim = tiered(num_pages=16, max_in_flight=depth)
    sim.add("flood", FLOOD)
    sim.run()
    assert sim.cache.free_pages < 10
    sim.add("a", PROMPT)
    plan = sim.launch()
    assert len(plan.moves.loads) == 10
    # Three were free; of the other seven one was not full.
    assert len(plan.moves.stores) == 6
    assert {store.page for store in plan.moves.stores} <= {load.page for load in plan.moves.loads}
    sim.run()
    check_answer(sim, "a", PROMPT)
    sim.add("again", FLOOD)
    sim.run()
    assert sim.found["again"].host_tokens > 0
    check_answer(sim, "again", FLOOD)


def test_who_has_the_same_prefix_waits_for_the_loads(depth: int) -> None:
    sim = tiered(max_in_flight=depth)
    sim.add("stream", OTHER, max_tokens=30)
    sim.step()
    sim.add("a", PROMPT)
    sim.add("b", PROMPT)
    sim.step(max_moved_pages=2)
    assert sim.scheduler.stats().num_deferred == 1
    sim.run()
    assert sim.runner.num_loaded_pages == 10
    first, second = sim.found["a"], sim.found["b"]
    assert (first.host_tokens, first.in_flight_tokens) == (40, 0)
    assert (second.host_tokens, second.in_flight_tokens) == (0, 40)
    assert second.device_tokens < 4
    for name in "ab":
        check_answer(sim, name, PROMPT)


def test_two_quanta_of_one_request_are_in_flight() -> None:
    sim = tiered(max_in_flight=3, pace=Pace.AT_WAIT)
    sim.add("stream", OTHER, max_tokens=30)
    sim.step()
    sim.add("a", PROMPT)
    plans = [sim.launch(max_moved_pages=4) for _ in range(2)]
    assert [loaded(plan) for plan in plans] == [{"a": 16}, {"a": 16}]
    request = sim.scheduler.running[1]
    assert (request.num_computed_tokens, request.num_launched_tokens) == (0, 32)
    sim.land()
    while sim.in_flight:
        sim.land()
    assert request.num_computed_tokens == 32
    sim.run()
    check_answer(sim, "a", PROMPT)


def test_rows_follow_loads_that_have_not_landed() -> None:
    sim = tiered(max_in_flight=2, pace=Pace.AT_WAIT)
    sim.add("a", PROMPT)
    assert loaded(sim.launch()) == {"a": 40}
    assert planned(sim.launch()) == {"a": 3}
    sim.run()
    check_answer(sim, "a", PROMPT)


def test_the_choices_of_a_loaded_prompt(depth: int, pace: Pace) -> None:
    sim = tiered(max_in_flight=depth, pace=pace)
    sim.add("a", PROMPT, n=3)
    sim.run()
    for index in range(3):
        check_answer(sim, "a", PROMPT, index=index)
    assert sim.found["a"].host_tokens == 40
    sim.assert_no_leaks()


def test_a_resumed_request_loads_its_answer_too() -> None:
    answer = oracle(PROMPT, 12, stop=STOP)
    sim = Simulation(num_slots=64)
    sim.add("a", PROMPT, max_tokens=12)
    sim.run()
    sim.cache.evict(64)
    sim.rest()
    sim.scheduler.add(
        EngineRequest(
            request_id=RequestId("again"),
            prompt_ids=PROMPT,
            params=SamplingParams(seed=0, max_tokens=12),
            end_token_ids=[0],
            resumed=[ResumedChoice(index=0, token_ids=answer[:7])],
        )
    )
    assert loaded(sim.launch()) == {"again": 48}
    sim.run()
    assert sim.answers["again", 0] == answer[7:]
    # Its first admission was another engine's to tell of.
    assert "again" not in sim.found
    assert sim.scheduler.stats().host_tokens == 0


def test_tokens_whose_logits_are_wanted_are_not_loaded() -> None:
    sim = tiered()
    request = Request(
        RequestId("scores"),
        np.array(PROMPT, dtype=np.int32),
        SamplingParams(max_tokens=1, prompt_logprobs=1),
        namespace=Namespace(""),
        stop_token_ids=frozenset(),
        arrival=99,
    )
    assert sim.scheduler._loads.find(request, 0) is None
    request.prompt_logprobs = None
    below = sim.scheduler._loads.find(request, 0)
    assert below is not None
    assert below.num_pages == 10


def test_what_is_not_worth_loading_is_computed() -> None:
    sim = tiered()
    assert sim.tiers is not None
    sim.tiers.costs.observe_prefill(1000, 0.001)
    sim.tiers.costs.observe_moves(1000, 100.0)
    sim.add("a", PROMPT)
    plan = sim.step()
    assert (loaded(plan), planned(plan)) == ({}, {"a": 43})
    sim.run()
    report = sim.found["a"]
    assert (report.host_tokens, report.computed_tokens, report.cause) == (0, 43, "evicted")


def test_tiers_without_a_prefix_cache_make_no_sense() -> None:
    with pytest.raises(ValueError, match="enable_prefix_cache"):
        Simulation(num_slots=4, enable_prefix_cache=False)


# -- the disk -------------------------------------------------------------------------------------


def test_what_an_earlier_engine_has_written_is_loaded(depth: int) -> None:
    sim = from_files(max_in_flight=depth)
    before = sim.scheduler.stats()
    assert before.num_steps == 0
    sim.add("a", PROMPT)
    sim.run()
    report = sim.found["a"]
    assert (report.disk_tokens, report.host_tokens, report.computed_tokens) == (40, 0, 3)
    assert sim.scheduler.stats().disk_tokens == 40
    check_answer(sim, "a", PROMPT)
    sim.assert_no_leaks()


def test_who_waits_for_the_disk_holds_up_nobody(depth: int) -> None:
    sim = from_files(max_in_flight=depth)
    assert sim.disk is not None
    sim.add("a", PROMPT)
    plan = sim.launch()
    # All that could go on waits: nothing is planned, and nothing is lost.
    assert plan.is_empty
    assert sim.scheduler.has_work
    sim.add("b", OTHER, max_tokens=8)
    while ("b", 0) not in sim.ends:
        assert not loaded(sim.step())
    assert len(sim.disk.under_way) > 0
    check_answer(sim, "b", OTHER, 8)
    assert ("a", 0) not in sim.answers
    sim.run()
    check_answer(sim, "a", PROMPT)


def test_a_file_that_cannot_be_read_ends_the_loading_there(depth: int) -> None:
    sim = from_files(max_in_flight=depth)
    assert sim.disk is not None
    sim.add("a", PROMPT)
    sim.step()
    for _ in range(4):
        sim.disk.end_one()
    sim.disk.num_failures = 1
    sim.run()
    report = sim.found["a"]
    assert sim.disk.num_failed == 1
    assert 0 < report.disk_tokens < 40
    assert report.disk_tokens + report.computed_tokens == 43
    assert report.cause == "never_seen"
    assert sim.scheduler.stats().cached_tokens == report.disk_tokens
    # It was admitted as if it had 3 tokens to compute, and is charged for what it did compute.
    assert sim.scheduler._waiting.served("") >= report.computed_tokens
    check_answer(sim, "a", PROMPT)
    sim.assert_no_leaks()


def test_nothing_can_be_read_after_all() -> None:
    sim = from_files()
    assert sim.disk is not None
    sim.disk.num_failures = 100
    sim.add("a", PROMPT)
    sim.run()
    report = sim.found["a"]
    assert (report.disk_tokens, report.computed_tokens) == (0, 43)
    check_answer(sim, "a", PROMPT)


def test_who_waits_for_nothing_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot come to that, as far as is known; if it does, nobody hangs."""
    sim = from_files()
    assert sim.disk is not None
    sim.add("a", PROMPT)
    monkeypatch.setattr(type(sim.tiers), "is_busy", property(lambda tiers: False))
    plan = sim.step()
    assert planned(plan) == {"a": 43}
    sim.run()
    check_answer(sim, "a", PROMPT)
    assert sim.found["a"].disk_tokens == 0


def test_what_ended_well_is_kept_on_disk(depth: int) -> None:
    sim = Simulation(num_slots=16, has_disk=True, max_in_flight=depth, max_running=3)
    assert sim.disk is not None
    sim.add("a", PROMPT)
    sim.run()
    sim.rest()
    assert len(sim.disk.files) == 11
    sim.add("aborted", FLOOD, max_tokens=8)
    while ("aborted", 0) not in sim.answers:
        sim.step()
    sim.abort("aborted")
    sim.run()
    sim.rest()
    assert len(sim.disk.files) == 11 + 12
    sim.runner.next_fault = Fault.LAUNCH
    sim.add("failed", OTHER)
    sim.run()
    assert sim.ends["failed", 0].finish_reason == "error"
    sim.rest()
    assert len(sim.disk.files) == 11 + 12


def test_chores_wait_until_nothing_is_in_flight_unless_somebody_runs() -> None:
    sim = Simulation(num_slots=16, has_disk=True, max_in_flight=2, pace=Pace.AT_WAIT)
    assert sim.tiers is not None
    sim.add("a", PROMPT, max_tokens=1)
    sim.run()
    assert sim.tiers.has_chores
    assert not sim.scheduler.has_work
    plan = sim.launch(max_moved_pages=1)
    assert plan.moves.stores
    assert not plan.rows
    assert sim.launch().is_empty
    sim.land()
    sim.rest()


def test_copies_for_the_disk_are_bounded_while_streams_wait() -> None:
    sim = Simulation(num_slots=64, has_disk=True, max_batch_tokens=128)
    sim.add("a", PROMPT, max_tokens=1)
    sim.add("stream", OTHER, max_tokens=20)
    sim.step()
    assert ("a", 0) in sim.ends
    for _ in range(4):
        plan = sim.step(max_moved_pages=2)
        assert set(planned(plan)) == {"stream"}
        assert len(plan.moves.stores) == 2
    sim.run()


# -- ends -----------------------------------------------------------------------------------------


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
