"""Requests whose prefix comes up from a tier: what the plans hold, and what the others notice.

Mostly: a prompt is computed, evicted, and asked for again. Answers are the oracle's in every case;
the simulated runner fails at any page that does not hold what it should.
"""

import numpy as np
import pytest

from radixserve.ids import Namespace, RequestId, TokenArray
from radixserve.request import Request
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.policy import MAX_PASSED_OVER
from radixserve.tiers.page_names import PageNamer
from radixserve.types import EngineRequest, ResumedChoice
from tests.scheduler.loading import (
    FLOOD,
    OTHER,
    PROMPT,
    STOP,
    check_answer,
    loaded,
    planned,
    tiered,
)
from tests.support.simulation import Pace, Simulation, oracle


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
    while sim.in_flight:
        sim.land()
    # It is there as soon as it has landed, not when the first row has.
    assert sim.cache.match(Namespace(""), np.array(PROMPT, dtype=np.int32)) == 8
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
    assert sim.scheduler.loads.find(request, 0) is None
    request.prompt_logprobs = None
    below = sim.scheduler.loads.find(request, 0)
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


def test_who_finds_no_room_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in review: in every plan its whole prompt was hashed anew."""
    sim = Simulation(num_pages=64, num_slots=64)
    prompt = [1 + position % 7 for position in range(120)]
    sim.add("before", prompt, 1)
    sim.run()
    sim.add("runs", [20 + position % 9 for position in range(128)], 40)
    for _ in range(2):
        sim.step()
    sim.add("waits", [*prompt, *range(1, 21)])
    num_hashed: list[int] = []
    names_after = PageNamer.names_after

    def noting(namer: PageNamer, name: bytes, tokens: TokenArray) -> list[bytes]:
        num_hashed.append(len(tokens))
        return names_after(namer, name, tokens)

    monkeypatch.setattr(PageNamer, "names_after", noting)
    for _ in range(5):
        assert set(planned(sim.step())) == {"runs"}
    assert num_hashed == [139]
    # What is public has changed: the pages have other names.
    sim.scheduler.set_public([np.array(prompt, dtype=np.int32)])
    (waiting,) = sim.scheduler._waiting
    sim.scheduler.loads.find(waiting, 0)
    assert len(num_hashed) == 2
    # Of many who find no room not all are kept in mind.
    for number in range(3 * MAX_PASSED_OVER):
        sim.add(f"more {number}", [*prompt, 30 + number, *range(1, 21)])
    for _ in range(8):
        sim.step()
        assert len(sim.scheduler.loads._chains) <= MAX_PASSED_OVER + 1
    sim.run()
    sim.assert_no_leaks()
