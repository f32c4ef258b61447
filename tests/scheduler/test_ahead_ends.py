"""Requests that end, and steps that fail, while steps in flight still work for them."""

import pytest

from radixserve.ids import TokenArray
from tests.scheduler.planning_ahead import PROMPT, add_stopping, ahead
from tests.scheduler.test_scheduler import STOP, names
from tests.support.simulation import Fault, Pace, Simulation, oracle

# -- rows of requests that have ended -------------------------------------------------------------


@pytest.mark.parametrize("position", [1, 2, 3, 4])
def test_a_row_in_flight_of_a_request_that_has_stopped_is_ignored(
    pace: Pace, position: int
) -> None:
    """With pages of 4 and a prompt of 6 the row in vain is once on a page of its own."""
    sim = ahead(pace=pace)
    answer = add_stopping(sim, "a", PROMPT, position)
    for _ in range(position):
        sim.launch()
        if len(sim.in_flight) == 2:
            sim.land()
    assert names(sim.launch()) == ["a"]
    sim.land()
    assert sim.ends["a", 0].finish_reason == "stop"
    assert sim.answers["a", 0] == answer
    assert sim.cache.in_use_pages == 0
    assert sim.scheduler.has_work, "there is a step in flight"
    assert sim.launch().rows == ()
    sim.land()
    sim.assert_no_leaks()
    stats = sim.scheduler.stats()
    # One token in vain: it was computed, and did not generate anything.
    assert stats.computed_tokens == sim.runner.num_computed_tokens == 6 + position
    assert stats.generated_tokens == position
    # What was computed in vain is not in the tree.
    assert sim.cache.match(sim.runner.plans[0].rows[0].request.namespace, tokens(sim, "a")) == (
        len(PROMPT) + position - 1
    )


def tokens(sim: Simulation, name: str) -> TokenArray:
    (request,) = {
        row.request
        for plan in sim.runner.plans
        for row in plan.rows
        if row.request.request_id == name
    }
    return request.token_ids


def test_page_of_a_row_in_vain_is_had_by_a_newcomer_at_once(pace: Pace) -> None:
    """Freed by ``update(n)``, written in vain by step n + 1, the newcomer's in step n + 2."""
    sim = ahead(pace=pace, num_pages=3)
    answer = add_stopping(sim, "a", PROMPT, 3)
    sim.step()
    sim.step()
    sim.step()
    # Its third page is for the one token that turns out to be in vain.
    (row,) = sim.launch().rows
    assert row.start == 8
    assert row.request.lease is not None
    (page,) = row.request.lease.page_table[2:].tolist()
    sim.land()
    assert sim.answers["a", 0] == answer
    sim.add("b", [30, 31, 32, 33, 34, 35, 36, 37, 38, 39], max_tokens=3)
    assert names(sim.launch()) == ["b"]
    lease = sim.scheduler.running[0].lease
    assert lease is not None
    assert page in lease.own_pages.tolist()
    sim.run()
    assert sim.answers["b", 0] == oracle([30, 31, 32, 33, 34, 35, 36, 37, 38, 39], 3, stop=STOP)
    sim.assert_no_leaks()


@pytest.mark.parametrize("position", range(1, 10))
def test_leaf_with_a_token_in_vain_behind_it_is_extended_by_the_next_turn(
    pace: Pace, position: int
) -> None:
    """The page goes into the tree while a step still writes behind the tree's tokens. Who goes on
    copies the page and writes its own tokens over that one."""
    sim = ahead(pace=pace)
    answer = add_stopping(sim, "turn1", PROMPT, position)
    while ("turn1", 0) not in sim.ends:
        sim.step()
    assert sim.in_flight, "the row in vain"
    history = [*PROMPT, *answer]
    for turn in range(2, 5):
        question = [40 + turn, 41]
        # The last token of an answer was never computed, or in vain.
        sim.add(f"turn{turn}", [*history, *question], max_tokens=4)
        assert names(sim.launch()) == [f"turn{turn}"]
        expected = oracle([*history, *question], 4, stop=STOP)
        while (f"turn{turn}", 0) not in sim.ends:
            sim.step()
        assert sim.answers[f"turn{turn}", 0] == expected
        assert sim.ends[f"turn{turn}", 0].num_cached_tokens == len(history) - 1
        history += [*question, *expected]
    sim.run()
    sim.assert_no_leaks()


@pytest.mark.parametrize("is_cleared", [False, True])
def test_abort_forget_and_clear_with_steps_in_flight(pace: Pace, is_cleared: bool) -> None:
    sim = ahead(pace=pace, num_pages=6, enable_prefix_cache=is_cleared)
    sim.add("a", PROMPT, max_tokens=9)
    sim.launch()
    sim.launch()
    sim.abort("a")
    assert sim.cache.in_use_pages == 0
    if is_cleared:
        sim.cache.clear()
    assert sim.cache.free_pages == 6
    sim.land()
    # The id may be had again although a step in flight still has a row of its former owner.
    sim.ends.clear()
    sim.answers.clear()
    sim.add("a", [8, 8, 8, *PROMPT * 2], max_tokens=5)
    sim.run()
    namespace = "" if is_cleared else "private:a"
    expected = oracle([8, 8, 8, *PROMPT * 2], 5, namespace=namespace, stop=STOP)
    assert sim.answers["a", 0] == expected
    sim.assert_no_leaks()


def test_swapped_pages_are_read_once_more_by_the_step_in_flight(pace: Pace) -> None:
    """Two compute the same page. The second gives its own up while a step that reads it is in
    flight, and a third has it at once."""
    sim = ahead(pace=pace, num_pages=9, max_running=3)
    for name in ("a", "b"):
        sim.add(name, [1, 2, 3], max_tokens=12)
    sim.step()
    before = own_page(sim, "b")
    sim.step()
    sim.launch()
    sim.add("c", list(range(20, 29)), max_tokens=2)
    assert own_page(sim, "b") == before
    sim.land()
    # Both have filled their page; of two equal ones the tree keeps the first.
    assert own_page(sim, "b") == own_page(sim, "a") != before
    assert "c" in names(sim.launch())
    lease = sim.scheduler.running[2].lease
    assert lease is not None
    assert before in lease.own_pages.tolist()
    sim.run()
    for name in ("a", "b"):
        assert sim.answers[name, 0] == oracle([1, 2, 3], 12, stop=STOP)
    assert sim.answers["c", 0] == oracle(list(range(20, 29)), 2, stop=STOP)
    sim.assert_no_leaks()


def own_page(sim: Simulation, name: str) -> int:
    (lease,) = [one.lease for one in sim.scheduler.running if one.request_id == name]
    assert lease is not None
    return int(lease.page_table[0])


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.LAUNCH, Fault.WAIT, Fault.LOGITS])
@pytest.mark.parametrize("num_before", [0, 1, 3])
def test_a_faulty_step_ends_its_requests_and_no_others(
    pace: Pace, fault: Fault, num_before: int
) -> None:
    """With a step in flight behind it that has rows of the same requests, and of a newcomer."""
    sim = ahead(pace=pace, num_pages=20)
    sim.add("bad", PROMPT, max_tokens=9)
    for _ in range(num_before):
        sim.step()
    num_known = len(sim.answers.get(("bad", 0), []))
    sim.runner.next_fault = fault
    in_flight = len(sim.in_flight)
    sim.launch()
    sim.add("good", [9, 9, 9, 8, 8], max_tokens=6)
    sim.add("again", [*PROMPT, 7], max_tokens=6)
    if len(sim.in_flight) == 2:
        sim.land()
    if fault is not Fault.LAUNCH:
        assert names(sim.launch())[0] == "bad", "planned behind the faulty step"
    sim.run()
    end = sim.ends["bad", 0]
    assert end.finish_reason == "error"
    assert end.error is not None
    expected = oracle(PROMPT, 9, stop=STOP)
    # What steps launched before it sampled has arrived, nothing else.
    assert sim.answers["bad", 0] == expected[: num_known + in_flight]
    assert sim.answers["good", 0] == oracle([9, 9, 9, 8, 8], 6, stop=STOP)
    assert sim.answers["again", 0] == oracle([*PROMPT, 7], 6, stop=STOP)
    sim.assert_no_leaks()


def test_a_request_that_was_aborted_does_not_end_again_with_its_step() -> None:
    sim = ahead()
    sim.add("a", PROMPT, max_tokens=9)
    sim.add("b", [9, 8, 7], max_tokens=9)
    sim.runner.next_fault = Fault.WAIT
    sim.launch()
    sim.launch()
    sim.abort("a")
    (request,) = {row.request for row in sim.runner.plans[0].rows} - {*sim.scheduler.running}
    assert request.num_launched_tokens == request.num_pending_tokens == 0
    sim.run()
    assert sim.ends["a", 0].finish_reason == "abort"
    assert sim.ends["b", 0].finish_reason == "error"
    sim.assert_no_leaks()


@pytest.mark.parametrize("how", ["stop", "abort"])
def test_what_a_lost_step_was_to_compute_is_not_in_the_tree(pace: Pace, how: str) -> None:
    """The request ends while the step is in flight: nobody knows yet that it is lost."""
    sim = ahead(pace=pace)
    answer = add_stopping(sim, "a", PROMPT, 3)
    for _ in range(3):
        sim.step()
    sim.runner.next_fault = Fault.WAIT
    assert names(sim.launch()) == ["a"]
    if how == "abort":
        sim.abort("a")
    sim.land()
    assert sim.ends["a", 0].finish_reason == how
    history = [*PROMPT, *answer]
    sim.add("next", [*history, 40], max_tokens=4)
    sim.run()
    # Of the answer two tokens are known to be computed, or one when it was aborted.
    assert sim.ends["next", 0].num_cached_tokens == len(PROMPT) + (2 if how == "stop" else 1)
    assert sim.answers["next", 0] == oracle([*history, 40], 4, stop=STOP)
    sim.assert_no_leaks()


def test_a_plan_behind_others_may_fail_first() -> None:
    """What lands later finds its requests ended."""
    sim = ahead()
    sim.add("a", PROMPT, max_tokens=9)
    sim.launch()
    plan = sim.scheduler.schedule()
    sim.take(sim.scheduler.fail(plan, "broken"))
    assert sim.ends["a", 0].finish_reason == "error"
    sim.land()
    assert sim.answers["a", 0] == []
    sim.assert_no_leaks()


def test_fault_at_the_fork_is_the_end_of_every_choice() -> None:
    sim = ahead()
    sim.add("a", PROMPT, max_tokens=9, n=3)
    sim.runner.next_fault = Fault.LOGITS
    sim.launch()
    sim.add("b", [7, 7], max_tokens=2)
    sim.run()
    assert [sim.ends["a", index].finish_reason for index in range(3)] == ["error"] * 3
    assert sim.ends["b", 0].finish_reason == "length"
    sim.assert_no_leaks()


def test_steps_land_in_the_order_of_their_launch() -> None:
    sim = ahead()
    sim.add("a", PROMPT, max_tokens=9)
    sim.launch()
    sim.launch()
    (first, _), (second, step) = sim.in_flight
    with pytest.raises(AssertionError, match="order of their launch"):
        sim.scheduler.update(second, step.wait())
    sim.run()
    with pytest.raises(AssertionError, match="no step in flight"):
        sim.scheduler.update(first, step.wait())
