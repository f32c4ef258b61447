"""What nobody has asked for is computed when nobody is there, and is in nobody's way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radixserve.cache.node import Node
from radixserve.cache.retention import Retention
from radixserve.ids import Namespace
from radixserve.scheduler.ahead import MAX_PREFIXES_PER_TENANT, MAX_STEP_TOKENS
from tests.scheduler.test_scheduler import STOP
from tests.support.simulation import Fault, Pace, Simulation, oracle

PROMPT = list(range(1, 31))
"""Thirty tokens: seven pages of four, and two more."""


def foresee(sim: Simulation, tokens: list[int], namespace: str = "", tenant: str = "") -> None:
    array = np.asarray(tokens, dtype=np.int32)
    sim.scheduler.ahead.add(Namespace(namespace), array, tenant)
    sim.scheduler.check_invariants()


def num_ahead(sim: Simulation) -> int:
    return sim.scheduler.stats().num_ahead


def idle(sim: Simulation, *, max_steps: int = 1000) -> int:
    """Step until nothing is left, asked for or not. Returns the number of plans launched."""
    before = len(sim.runner.plans)
    for _ in range(max_steps):
        if not num_ahead(sim) and not sim.scheduler.has_work:
            return len(sim.runner.plans) - before
        sim.step()
    raise AssertionError(f"still not done after {max_steps} steps")


def num_cached(sim: Simulation, tokens: list[int], namespace: str = "") -> int:
    return sim.cache.match(Namespace(namespace), np.asarray(tokens, dtype=np.int32))


def test_the_prefix_is_cached_and_the_next_turn_finds_all_of_it(depth: int, pace: Pace) -> None:
    sim = Simulation(max_in_flight=depth, pace=pace)
    sim.add("first", PROMPT[:10])
    sim.run()
    foresee(sim, PROMPT)
    assert num_cached(sim, PROMPT) == 10
    idle(sim)
    assert num_cached(sim, PROMPT) == 30
    sim.add("next", [*PROMPT, 7, 8])
    sim.run()
    assert sim.ends["next", 0].num_cached_tokens == 30
    assert sim.answers["next", 0] == oracle([*PROMPT, 7, 8], 4, stop=STOP)
    sim.assert_no_leaks()


def test_it_is_no_work_and_in_no_figure_but_its_own() -> None:
    sim = Simulation()
    before = sim.scheduler.stats()
    foresee(sim, PROMPT)
    assert not sim.scheduler.has_work
    assert num_ahead(sim) == 1
    sim.step()
    # One step was enough: it has a place in none of the others' figures, and says nothing.
    after = sim.scheduler.stats()
    assert (after.prefilled_tokens, after.computed_tokens, after.num_ahead) == (30, 30, 0)
    assert (after.num_running, after.num_waiting, after.num_steps) == (0, 0, 1)
    for name in ("prompt_tokens", "cached_tokens", "in_flight_tokens", "generated_tokens"):
        assert getattr(after, name) == getattr(before, name) == 0, name
    assert after.admissions == {}
    assert sim.scheduler.admitted == []
    assert (sim.answers, sim.ends) == ({}, {})
    sim.assert_no_leaks()


def test_it_is_charged_to_nobody() -> None:
    sim = Simulation()
    foresee(sim, PROMPT, tenant="a")
    idle(sim)
    assert sim.scheduler._waiting.served("a") == 0


def test_a_step_of_it_is_short(depth: int) -> None:
    sim = Simulation(num_pages=512, max_batch_tokens=1024, max_in_flight=depth)
    prompt = [1 + position % 40 for position in range(2 * MAX_STEP_TOKENS + 100)]
    foresee(sim, prompt[:500])
    foresee(sim, prompt)
    idle(sim)
    sizes = [plan.num_scheduled_tokens for plan in sim.runner.plans]
    # A quarter of the pool is what there is room for.
    assert sizes == [MAX_STEP_TOKENS, MAX_STEP_TOKENS]
    assert {row.num_samples for plan in sim.runner.plans for row in plan.rows} == {0}


def test_small_batches_bound_it_too() -> None:
    sim = Simulation(max_batch_tokens=8)
    foresee(sim, PROMPT)
    idle(sim)
    assert [plan.num_scheduled_tokens for plan in sim.runner.plans] == [8, 8, 8, 6]


def test_nothing_of_it_happens_while_anybody_is_there(depth: int, pace: Pace) -> None:
    sim = Simulation(max_in_flight=depth, pace=pace)
    sim.add("first", [40, 41], max_tokens=9)
    foresee(sim, PROMPT)
    while sim.scheduler.has_work:
        plan = sim.step()
        assert all(row.request.request_id == "first" for row in plan.rows)
    assert sim.scheduler.stats().prefilled_tokens == 0
    idle(sim)
    assert sim.scheduler.stats().prefilled_tokens == 30


def test_a_newcomer_ends_it_at_once_and_what_it_has_computed_stays(depth: int, pace: Pace) -> None:
    sim = Simulation(max_batch_tokens=8, max_in_flight=depth, pace=pace)
    foresee(sim, PROMPT)
    sim.launch()
    sim.land()
    sim.launch()
    sim.add("newcomer", [40, 41, 42], max_tokens=2)
    sim.scheduler.check_invariants()
    if depth == 1:
        sim.land()
    plan = sim.launch()
    assert [row.request.request_id for row in plan.rows] == ["newcomer"]
    sim.run()
    assert sim.answers["newcomer", 0] == oracle([40, 41, 42], 2, stop=STOP)
    assert num_cached(sim, PROMPT) == 8
    # It goes on where it was, with its row in flight computed in vain.
    idle(sim)
    assert num_cached(sim, PROMPT) == 30
    assert sim.scheduler.stats().prefilled_tokens == 30
    assert sim.scheduler.stats().computed_tokens == 38 + 3 + 1
    sim.assert_no_leaks()


def test_what_was_computed_of_a_page_stays_as_well() -> None:
    sim = Simulation(max_batch_tokens=6, max_running=2)
    foresee(sim, PROMPT)
    sim.step()
    sim.add("newcomer", [40, 41, 42])
    assert num_cached(sim, PROMPT) == 6
    sim.run()
    idle(sim)
    # Begun again inside a page, by a copy of it.
    assert num_cached(sim, PROMPT) == 30
    sim.assert_no_leaks()


def test_once_its_turn_has_come_it_is_not_computed(depth: int) -> None:
    sim = Simulation(max_batch_tokens=8, max_in_flight=depth)
    foresee(sim, PROMPT)
    sim.step()
    sim.add("next", [*PROMPT, 5], max_tokens=1)
    assert not num_ahead(sim)
    sim.run()
    assert sim.answers["next", 0] == oracle([*PROMPT, 5], 1, stop=STOP)
    sim.assert_no_leaks()


def test_somebody_elses_turn_is_not_its_own() -> None:
    sim = Simulation()
    foresee(sim, PROMPT, namespace="a")
    for name, prompt, namespace in (
        ("other tokens", [*PROMPT[:9], 49, *PROMPT[10:], 5], "a"),
        ("not as long", PROMPT[:20], "a"),
        ("other namespace", [*PROMPT, 5], "b"),
    ):
        sim.add(name, prompt, namespace=namespace)
    assert num_ahead(sim) == 1
    sim.run()
    idle(sim)
    assert num_cached(sim, PROMPT, "a") == 30


def test_the_same_conversation_further_on_takes_its_place() -> None:
    sim = Simulation()
    foresee(sim, PROMPT[:12])
    foresee(sim, PROMPT[:12], namespace="other")
    foresee(sim, PROMPT)
    assert num_ahead(sim) == 2
    idle(sim)
    assert sim.scheduler.stats().prefilled_tokens == 30 + 12


def test_nothing_crosses_namespaces() -> None:
    sim = Simulation()
    foresee(sim, PROMPT, namespace="a")
    idle(sim)
    assert (num_cached(sim, PROMPT, "a"), num_cached(sim, PROMPT, "b")) == (30, 0)
    sim.add("b", [*PROMPT, 5], namespace="b")
    sim.run()
    assert sim.ends["b", 0].num_cached_tokens == 0
    assert sim.answers["b", 0] == oracle([*PROMPT, 5], 4, namespace="b", stop=STOP)


def test_what_a_page_holds_is_not_worth_a_step() -> None:
    sim = Simulation()
    sim.add("first", PROMPT[:26], max_tokens=1)
    sim.run()
    foresee(sim, PROMPT)
    assert idle(sim) == 0
    foresee(sim, [*PROMPT, 31])
    assert idle(sim) == 1
    assert sim.scheduler.stats().prefilled_tokens == 5


def test_a_prefix_gets_a_quarter_of_the_pool_beyond_what_is_cached() -> None:
    sim = Simulation(num_pages=16, page_size=4, max_batch_tokens=8)
    sim.add("scan", [50 - position for position in range(1, 41)], max_tokens=1)
    sim.run()
    sim.add("first", PROMPT[:10], max_tokens=1)
    sim.run()
    cached = sim.cache.info().cached_pages
    assert cached >= 13
    evicted = sim.scheduler.stats().evicted_pages
    foresee(sim, PROMPT)
    sim.step()
    # Interrupted: that does not give it another quarter.
    sim.add("newcomer", [40], max_tokens=1)
    sim.run()
    idle(sim)
    # Ten are cached, in three pages of which two are full; four pages more.
    assert num_cached(sim, PROMPT) == (2 + 4) * 4
    assert sim.scheduler.stats().evicted_pages - evicted <= 4 + 1
    sim.assert_no_leaks()


def test_tenants_take_turns() -> None:
    sim = Simulation(num_pages=128)
    for number in range(MAX_PREFIXES_PER_TENANT + 3):
        foresee(sim, [number + 1, *PROMPT], tenant="many")
    foresee(sim, [45, *PROMPT], tenant="few")
    assert num_ahead(sim) == MAX_PREFIXES_PER_TENANT + 1
    sim.step()
    sim.step()
    newest = MAX_PREFIXES_PER_TENANT + 3
    assert num_cached(sim, [newest, *PROMPT]) == 31
    assert num_cached(sim, [45, *PROMPT]) == 31
    assert num_cached(sim, [newest - 1, *PROMPT]) == 0


@pytest.mark.parametrize("fault", [Fault.LAUNCH, Fault.WAIT])
def test_a_step_that_fails_costs_nobody_anything(fault: Fault, depth: int) -> None:
    sim = Simulation(max_batch_tokens=10, max_in_flight=depth)
    foresee(sim, PROMPT)
    sim.launch()
    sim.land()
    sim.runner.next_fault = fault
    sim.launch()
    while sim.in_flight:
        sim.land()
    # What had been committed stays; the prefix is not tried again, and nobody is told.
    assert not num_ahead(sim)
    assert num_cached(sim, PROMPT) == 8
    assert (sim.answers, sim.ends) == ({}, {})
    sim.assert_no_leaks()
    sim.add("next", [*PROMPT, 5])
    sim.run()
    assert sim.answers["next", 0] == oracle([*PROMPT, 5], 4, stop=STOP)


@pytest.mark.parametrize("num_steps", [0, 1])
def test_without_room_it_is_dropped(num_steps: int) -> None:
    sim = Simulation(max_batch_tokens=10)
    sim.add("first", PROMPT[:10], max_tokens=1)
    sim.run()
    foresee(sim, PROMPT)
    for _ in range(num_steps):
        sim.step()
    # For the copy of a page that is cached in part; or for the tokens of the next step.
    sim.pool.fails = True
    sim.step()
    assert not sim.pool.fails
    assert num_ahead(sim) == 0
    sim.assert_no_leaks()
    assert sim.scheduler.recover([]) == []


@pytest.mark.parametrize("is_known", [True, False])
def test_an_interrupt_ends_it_quietly(is_known: bool) -> None:
    sim = Simulation(max_batch_tokens=8, max_in_flight=2, pace=Pace.AT_WAIT)
    foresee(sim, PROMPT)
    plan = sim.launch()
    assert sim.scheduler.recover([plan] if is_known else []) == []
    sim.scheduler.check_invariants()
    assert not num_ahead(sim)
    if is_known:
        sim.land()
    else:
        sim.in_flight.clear()
    sim.assert_no_leaks()
    # A row that has computed in vain has been asked for by nobody, but is nothing prefilled.
    assert sim.scheduler.stats().prefilled_tokens == 0


def test_forgetting_ends_it() -> None:
    sim = Simulation(max_batch_tokens=8)
    foresee(sim, PROMPT, namespace="a")
    foresee(sim, PROMPT, namespace="b")
    sim.step()
    # The newest is being computed, the other one waits.
    foresee(sim, PROMPT, namespace="c")
    for name in ("b", "c"):
        sim.scheduler.ahead.forget(Namespace(name))
    assert num_ahead(sim) == 1
    sim.scheduler.check_invariants()
    idle(sim)
    assert [num_cached(sim, PROMPT, name) for name in "abc"] == [30, 8, 0]
    foresee(sim, PROMPT, namespace="a")
    sim.scheduler.ahead.forget(None)
    assert not num_ahead(sim)
    sim.assert_no_leaks()


def test_without_a_prefix_cache_there_is_nothing_to_do() -> None:
    sim = Simulation(enable_prefix_cache=False)
    foresee(sim, PROMPT)
    assert not num_ahead(sim)


def test_nobody_counts_as_having_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy learns when prefixes return; this is no return."""
    sim = Simulation()
    sim.add("first", PROMPT[:10], max_tokens=1)
    sim.run()
    touches: list[tuple[int, int]] = []

    def touch(_: Retention, node: Node, num_counted_tokens: int = 0) -> None:
        touches.append((node.end, num_counted_tokens))

    monkeypatch.setattr(Retention, "touch", touch)
    foresee(sim, PROMPT)
    idle(sim)
    assert touches == [(30, 10)]


Action = tuple[str, int, int]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["foresee", "add", "abort", "step", "step", "launch", "fault", "forget"]),
        st.integers(0, 3),
        st.integers(3, 40),
    ),
    max_size=40,
)


@given(ACTIONS, st.sampled_from([1, 2]), st.sampled_from([16, 24, 64]))
def test_whatever_comes_in_between(actions: list[Action], depth: int, num_pages: int) -> None:
    """Answers are the oracle's, everything is accounted for after every step, and nobody hears of
    what was computed unasked."""
    sim = Simulation(
        num_pages=num_pages,
        max_batch_tokens=12,
        max_running=4,
        max_in_flight=depth,
        pace=Pace.RANDOM,
    )
    expected: dict[str, list[int]] = {}
    disturbed: set[str] = set()
    for number, (kind, which, length) in enumerate(actions):
        tokens = [1 + (position * (which + 1)) % 45 for position in range(length)]
        namespace = "ab"[which % 2]
        match kind:
            case "foresee":
                foresee(sim, tokens, namespace, tenant=str(which))
            case "add":
                sim.add(str(number), tokens, 3, namespace=namespace)
                expected[str(number)] = oracle(tokens, 3, namespace=namespace, stop=STOP)
            case "abort":
                for name in list(expected)[: which + 1]:
                    sim.abort(name)
            case "fault":
                sim.runner.next_fault = [Fault.NONE, Fault.LAUNCH, Fault.WAIT, Fault.NONE][which]
            case "forget":
                sim.scheduler.ahead.forget(Namespace(namespace) if which else None)
            case "launch" if len(sim.in_flight) < depth:
                sim.launch()
            case _:
                sim.step()
        assert not (sim.scheduler.running and sim.scheduler.ahead.lease)
    sim.runner.next_fault = Fault.NONE
    sim.run()
    idle(sim)
    sim.assert_no_leaks()
    assert {name for name, _ in sim.ends} == expected.keys()
    disturbed |= {name for (name, _), end in sim.ends.items() if end.finish_reason != "length"}
    for name, answer in expected.items():
        said = sim.answers.get((name, 0), [])
        assert said == answer[: len(said)]
        assert name in disturbed or said == answer
