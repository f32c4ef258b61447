"""Requests whose prefix lies in files, and what is written there: who waits, and for what."""

import numpy as np
import pytest

from radixserve.ids import Namespace
from tests.scheduler.loading import (
    FLOOD,
    OTHER,
    PROMPT,
    check_answer,
    from_files,
    loaded,
    planned,
)
from tests.support.simulation import Fault, Pace, Simulation


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
    sim.add("failed", OTHER, max_tokens=8)
    while ("failed", 0) not in sim.answers:
        sim.step()
    sim.runner.next_fault = Fault.LAUNCH
    sim.run()
    assert sim.ends["failed", 0].finish_reason == "error"
    assert sim.cache.match(Namespace(""), np.array(OTHER, dtype=np.int32)) >= 28
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


def test_stores_alone_wait_until_nothing_is_in_flight() -> None:
    sim = Simulation(num_slots=32, max_in_flight=2, pace=Pace.AT_WAIT)
    sim.add("a", PROMPT, max_tokens=1)
    sim.run()
    sim.cache.evict(4)
    assert len(sim.launch().moves.stores) == 3
    sim.cache.evict(2)
    assert sim.launch().is_empty
    sim.land()
    assert len(sim.launch().moves.stores) == 2
    sim.land()
    sim.assert_no_leaks()


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
