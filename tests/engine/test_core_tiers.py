"""The step loop's body with tiers below: whom it waits for, what it keeps, what it learns.

On a simulated device, over a disk that does nothing until it is told to.
"""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from radixserve.engine import core as core_module
from radixserve.engine import disk_watch
from radixserve.engine.core import EngineCore
from radixserve.engine.step_times import StepTimes
from radixserve.errors import DeviceLostError
from radixserve.ids import PageId
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.plan import PlannedRow, StepPlan, StepResult
from radixserve.scheduler.policy import MAX_PROBES
from radixserve.tiers.costs import Costs
from radixserve.tiers.moves import Load, Moves, SlotId, Store
from radixserve.tiers.page_names import PageKey
from tests.engine.driving import Driver, make_request
from tests.engine.test_pipeline import INFO
from tests.scheduler.requests import make_request as bare_request
from tests.support.simulation import Simulation, oracle, written
from tests.support.slow_disk import SlowDisk

PROMPT = [1 + position % 7 for position in range(43)]
OTHER = [9 + position % 5 for position in range(30)]
STOP = frozenset({0})


@dataclass(frozen=True)
class Engine:
    """A core, and what lies below it."""

    driver: Driver
    disk: SlowDisk
    simulation: Simulation

    @property
    def core(self) -> EngineCore:
        return self.driver.core

    def add(self, name: str, prompt: list[int], max_tokens: int = 4) -> None:
        self.driver.add(make_request(name, prompt, max_tokens, end_token_ids=(0,)))

    @property
    def can_go_on(self) -> str:
        if self.core.has_work:
            return "steps" if self.core.can_step else "waits"
        return "chores" if self.core.can_step else "at rest"

    def check_answer(self, name: str, prompt: list[int], count: int = 4) -> None:
        assert self.driver.tokens[name, 0] == oracle(prompt, count, stop=STOP)


def make_engine(
    *, files: dict[PageKey, npt.NDArray[np.uint8]] | None = None, max_in_flight: int = 1
) -> Engine:
    sim = Simulation(num_slots=32, has_disk=True, files=files, max_in_flight=max_in_flight)
    assert sim.disk is not None
    core = EngineCore(INFO, sim.runner, sim.scheduler, sim.cache, Pacer(None))
    return Engine(Driver(core), sim.disk, sim)


@pytest.fixture(params=[1, 2], ids=["depth1", "depth2"])
def restarted(request: pytest.FixtureRequest) -> Engine:
    """An engine on the directory of one that has served ``PROMPT``."""
    return make_engine(files=written([PROMPT], 4), max_in_flight=request.param)


class EndingEvent:
    """In an event's place: whoever waits for it waits until the disk has done one thing more."""

    def __init__(self, disk: SlowDisk) -> None:
        self._disk = disk
        self.num_waits = 0

    def set(self) -> None: ...

    def clear(self) -> None: ...

    def wait(self, timeout_s: float) -> None:
        self.num_waits += 1
        assert self._disk.end_one(), "waiting for nothing"


def test_who_waits_for_the_disk_alone_stalls_the_engine(restarted: Engine) -> None:
    core, disk = restarted.core, restarted.disk
    rings: list[bool] = []
    core.call_when_ready(lambda: rings.append(core.can_step))
    restarted.add("a", PROMPT)
    assert restarted.can_go_on == "steps"
    restarted.driver.step()
    assert restarted.can_go_on == "waits"
    disk.end_one()
    assert rings == [True]
    num_stalls = 0
    while restarted.can_go_on != "at rest":
        if restarted.can_go_on == "waits":
            num_stalls += 1
            assert disk.end_one()
        else:
            restarted.driver.step()
    assert num_stalls > 0
    restarted.check_answer("a", PROMPT)


def test_a_step_of_a_stalled_engine_waits_for_the_disk(
    restarted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = EndingEvent(restarted.disk)
    monkeypatch.setattr(restarted.core._bell, "_rung", ending)
    restarted.add("a", PROMPT)
    restarted.driver.run()
    assert ending.num_waits > 0
    restarted.check_answer("a", PROMPT)
    assert restarted.core.stats().disk_tokens == 40


def test_who_comes_while_the_engine_is_stalled_runs(restarted: Engine) -> None:
    restarted.add("a", PROMPT)
    restarted.driver.step()
    assert restarted.can_go_on == "waits"
    restarted.add("b", OTHER, 6)
    while ("b", 0) not in restarted.driver.ends:
        assert restarted.can_go_on == "steps"
        restarted.driver.step()
    restarted.check_answer("b", OTHER, 6)
    assert ("a", 0) not in restarted.driver.tokens


def test_an_abort_ends_the_stall(restarted: Engine) -> None:
    restarted.add("a", PROMPT)
    restarted.driver.step()
    assert restarted.can_go_on == "waits"
    restarted.driver.abort("a")
    assert not restarted.core.has_work
    restarted.driver.assert_nothing_leaked()


def test_who_is_passed_over_is_heard_of_again() -> None:
    """Found in review: an empty plan was taken for a stall of the disk, even without any, and an
    engine of which the first of many waiting requests had lost their prefixes slept for ever."""
    sim = Simulation(max_running=1)
    core = EngineCore(INFO, sim.runner, sim.scheduler, sim.cache, Pacer(None))
    driver = Driver(core)
    driver.add(make_request("before", PROMPT, 1))
    driver.run()
    driver.add(make_request("runs", OTHER, 30))
    driver.step()
    for number in range(2 * MAX_PROBES):
        driver.add(make_request(f"a{number}", PROMPT, 1))
    core.clear_cache()
    driver.abort("runs")
    while core.has_work:
        assert core.can_step
        driver.step()
    driver.assert_nothing_leaked()


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s


def test_explaining_is_no_trial_of_the_tiers(
    restarted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tenants share the number of trials: asking must neither count nor show it."""

    def count(_: Costs) -> bool:
        raise AssertionError("it counts")

    for name in ("is_worth_host", "is_worth_disk"):
        monkeypatch.setattr(Costs, name, count)
    explained = restarted.core.explain(PROMPT)
    assert explained.host_tokens + explained.disk_tokens > 0


def test_nobody_waits_for_a_disk_that_hangs(
    restarted: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    monkeypatch.setattr(disk_watch, "time", clock)
    # A simulated model computes faster than any disk reads.
    monkeypatch.setattr(Costs, "is_worth_disk", lambda costs: True)
    core = restarted.core
    restarted.add("a", PROMPT)
    restarted.driver.step()
    clock.now_s += disk_watch.PATIENCE_S
    assert restarted.can_go_on == "waits"
    clock.now_s += 0.1
    restarted.driver.run()
    restarted.check_answer("a", PROMPT)
    assert core.stats().disk_tokens == 0
    # Whoever comes while it hangs is not held up again.
    core._cache.clear()
    restarted.add("b", PROMPT)
    restarted.driver.run()
    restarted.check_answer("b", PROMPT)
    assert caplog.text.count("has not answered") == 1
    # It is asked again when it has come back.
    core._cache.clear()
    restarted.disk.end_one()
    restarted.add("c", PROMPT)
    while core.has_work:
        if core.can_step:
            restarted.driver.step()
        else:
            assert restarted.disk.end_one()
    restarted.check_answer("c", PROMPT)
    assert core.stats().disk_tokens > 0
    restarted.driver.assert_nothing_leaked()


def test_a_disk_that_hangs_ends_a_wait_beside_streams(
    restarted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(disk_watch, "time", clock)
    restarted.add("stream", OTHER, 30)
    restarted.add("a", PROMPT)
    for _ in range(4):
        restarted.driver.step()
    assert ("a", 0) not in restarted.driver.tokens
    clock.now_s += disk_watch.PATIENCE_S + 0.1
    for _ in range(4):
        restarted.driver.step()
    assert ("a", 0) in restarted.driver.tokens
    restarted.driver.run()
    restarted.check_answer("a", PROMPT)
    restarted.check_answer("stream", OTHER, 30)


def test_a_step_of_a_stalled_engine_looks_at_the_clock(
    restarted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(disk_watch, "time", clock)

    class PassingTime(EndingEvent):
        """Nobody rings; time goes by."""

        def wait(self, timeout_s: float) -> None:
            clock.now_s += timeout_s

    monkeypatch.setattr(restarted.core._bell, "_rung", PassingTime(restarted.disk))
    restarted.add("a", PROMPT)
    restarted.driver.run()
    restarted.check_answer("a", PROMPT)


def test_an_interrupt_that_comes_with_the_news_does_not_stall_the_engine(
    restarted: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, tiers = restarted.core, restarted.simulation.tiers
    assert tiers is not None
    restarted.add("a", PROMPT)
    restarted.driver.step()
    assert restarted.can_go_on == "waits"
    while restarted.disk.end_one():
        pass

    def interrupt() -> None:
        type(tiers).collect(tiers)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restarted.simulation.scheduler.loads, "collect", interrupt)
        with pytest.raises(KeyboardInterrupt):
            core.step()
    monkeypatch.setattr(core._bell, "_rung", EndingEvent(restarted.disk))
    restarted.driver.run()
    restarted.check_answer("a", PROMPT)


def test_an_idle_engine_keeps_what_it_has_computed() -> None:
    engine = make_engine()
    core = engine.core
    engine.add("a", PROMPT)
    engine.driver.run()
    num_steps = core.stats().num_steps
    assert engine.can_go_on == "chores"
    assert core.step() == []
    assert core.stats().num_steps == num_steps + 1
    engine.driver.rest()
    assert engine.can_go_on == "at rest"
    assert len(engine.disk.files) == 11


def test_closing_keeps_what_was_computed_and_what_runs(restarted: Engine) -> None:
    core = restarted.core
    restarted.add("b", OTHER, 30)
    while ("b", 0) not in restarted.driver.tokens:
        restarted.driver.step()
    before = len(restarted.disk.files)
    core.close()
    assert restarted.disk.is_closed
    assert len(restarted.disk.files) >= before + 7
    num_steps = core.stats().num_steps
    core.close()
    assert core.stats().num_steps == num_steps


def test_closing_computes_nothing_for_tomorrow() -> None:
    engine = make_engine()
    engine.add("a", PROMPT)
    engine.driver.run()
    engine.core.prefill_ahead([*PROMPT, *OTHER])
    engine.core.close()
    assert engine.core.stats().prefilled_tokens == 0
    assert len(engine.disk.files) == 11


def test_closing_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    engine.add("a", PROMPT)
    engine.driver.run()

    class Clock:
        now_s = 0.0

        def perf_counter(self) -> float:
            self.now_s += core_module.CLOSE_S
            return self.now_s

    monkeypatch.setattr(core_module, "time", Clock())
    num_steps = engine.core.stats().num_steps
    engine.core.close()
    assert engine.disk.is_closed
    assert engine.core.stats().num_steps == num_steps


def test_closing_with_a_lost_device_closes_the_directory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine()
    engine.add("a", PROMPT)
    engine.driver.run()

    def lost(plan: StepPlan) -> object:
        raise DeviceLostError("gone")

    monkeypatch.setattr(engine.simulation.runner, "launch", lost)
    with caplog.at_level(logging.ERROR):
        engine.core.close()
    assert engine.disk.is_closed
    assert "is kept on disk" in caplog.text


def test_what_is_cleared_is_gone_below_as_well(restarted: Engine) -> None:
    core = restarted.core
    restarted.add("b", OTHER)
    restarted.driver.run()
    restarted.driver.rest()
    assert restarted.disk.files
    core.clear_cache()
    assert not restarted.disk.files
    restarted.add("a", PROMPT)
    restarted.driver.run()
    restarted.check_answer("a", PROMPT)
    assert core.stats().disk_tokens == core.stats().host_tokens == 0


def test_stats_tell_of_the_tiers() -> None:
    stats = make_engine().core.stats()
    assert stats.tiers is not None
    assert stats.tiers.host_total_pages == 32
    plain = Simulation()
    core = EngineCore(INFO, plain.runner, plain.scheduler, plain.cache, Pacer(None))
    assert core.stats().tiers is None
    core.close()


class NotingCosts(Costs):
    """Keeps what it is told."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        super().__init__(4)
        self.seen: list[tuple[str, int, float]] = []

    def observe_prefill(self, num_tokens: int, seconds: float) -> None:
        self.seen.append(("prefill", num_tokens, seconds))

    def observe_moves(self, num_pages: int, seconds: float) -> None:
        self.seen.append(("moves", num_pages, seconds))


def _plan(*counts: int, num_stores: int = 0, num_loads: int = 0) -> StepPlan:
    rows = tuple(
        PlannedRow(bare_request(number), 0, count, num_samples=1)
        for number, count in enumerate(counts)
    )
    stores = tuple(Store(PageId(number), SlotId(number)) for number in range(num_stores))
    loads = tuple(Load(SlotId(number), PageId(number)) for number in range(num_loads))
    return StepPlan(rows, (), Moves(stores, loads))


def _result(moved_s: float = 0.0) -> StepResult:
    return StepResult((), moved_s=moved_s)


def test_what_steps_took_is_told_to_costs_and_pacer() -> None:
    pacer, costs = Pacer(2.0), NotingCosts()
    times = StepTimes(pacer, costs, page_size=4)
    # A step of streams, with a page moved in it.
    times.observe(_plan(1, 1, num_stores=1), _result(0.25), 1.25)
    assert pacer.streams_s == 1.0
    # Chunks alone; too few tokens to say anything of prefill; chunks beside streams.
    times.observe(_plan(8), _result(), 2.0)
    times.observe(_plan(3), _result(), 2.0)
    times.observe(_plan(1, 8), _result(), 3.0)
    # Stores beside chunks: with a full pool there are always some. It is not known what they took;
    # loads may have run beside the pass; moves alone.
    times.observe(_plan(8, num_stores=2), _result(0.5), 2.0)
    times.observe(_plan(8, num_stores=2), _result(), 2.0)
    times.observe(_plan(8, num_loads=2), _result(0.5), 2.0)
    times.observe(_plan(num_stores=3), _result(0.75), 0.75)
    assert costs.seen == [
        ("moves", 1, 0.25),
        ("prefill", 8, 2.0),
        ("prefill", 8, 2.0),
        ("moves", 2, 0.5),
        ("prefill", 8, 1.5),
        ("moves", 2, 0.5),
        ("moves", 3, 0.75),
    ]
    assert pacer.streams_s == 1.0


def test_streams_bound_what_may_be_moved() -> None:
    pacer, costs = Pacer(2.0), Costs(4)
    times = StepTimes(pacer, costs, page_size=4)
    unmeasured = times.max_moved_pages()
    assert unmeasured is not None
    assert unmeasured >= 256
    costs.observe_moves(100, 0.01)
    times.observe(_plan(1), _result(), 0.1)
    # 5% of 0.1 s, at 0.1 ms a page.
    assert times.max_moved_pages() == 30
    assert StepTimes(pacer, None, page_size=4).max_moved_pages() is None
    assert StepTimes(pacer, None, page_size=4).max_chunk_tokens() == pacer.max_chunk_tokens()


def test_the_plan_is_bounded_by_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(files=written([PROMPT], 4))
    engine.add("stream", OTHER, 30)
    while ("stream", 0) not in engine.driver.tokens:
        engine.driver.step()
    monkeypatch.setattr(Costs, "max_moved_pages", lambda costs, streams_s: 2)
    monkeypatch.setattr(Costs, "max_read_pages", lambda costs, max_moved_pages: 8)
    engine.add("a", PROMPT)
    engine.driver.step()
    while engine.disk.under_way:
        engine.disk.end_one()
    engine.driver.step()
    sizes = [len(plan.moves.loads) for plan in engine.simulation.runner.plans]
    assert max(sizes) == 2
