"""The core with several steps in flight, on a simulated device: order, failures, time."""

import dataclasses
from typing import Any

import pytest

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.engine import core as core_module
from radixserve.engine.core import EngineCore
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingDefaults
from radixserve.scheduler.in_flight import InFlight
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.plan import PlannedRow, StepPlan, StepResult
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import EngineInfo
from tests.engine.driving import Driver, make_request
from tests.support.simulation import Fault, Pace, SimulatedRunner, SimulatedStep, oracle

STOP = frozenset({0})
PROMPT = [1, 2, 3, 4, 5, 6]
INFO = EngineInfo(
    model="simulated",
    model_dir="",
    architecture="none",
    num_parameters=0,
    device="simulated",
    dtype="float32",
    attention="none",
    max_model_len=100,
    vocab_size=50,
    page_size=4,
    num_pages=64,
    kv_cache_bytes=0,
    eos_token_ids=[],
    sampling_defaults=SamplingDefaults(),
    load_seconds=0.0,
)


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.now_s


class Noting(Pacer):
    """Keeps what it is told about each step."""

    def __init__(self) -> None:
        super().__init__(None)
        self.seen: list[tuple[int, int, float]] = []

    def observe(self, num_streams: int, num_chunk_tokens: int, step_s: float) -> None:
        self.seen.append((num_streams, num_chunk_tokens, round(step_s, 6)))


class TimedRunner:
    """Launching takes 1 s of the host, a step 10 s of the device; ``interrupt`` comes once."""

    def __init__(self, device: SimulatedRunner, clock: Clock) -> None:
        self.device = device
        self.max_in_flight = device.max_in_flight
        self.clock = clock
        self.interrupt: str | None = None
        self._free_at_s = 0.0

    def launch(self, plan: StepPlan) -> "TimedStep":
        self.interrupt_in("launch")
        self.clock.now_s += 1.0
        self._free_at_s = max(self._free_at_s, self.clock.now_s) + 10.0
        return TimedStep(self.device.launch(plan), self, self._free_at_s)

    def interrupt_in(self, where: str) -> None:
        if self.interrupt == where:
            self.interrupt = None
            raise KeyboardInterrupt


@dataclasses.dataclass(frozen=True)
class TimedStep:
    step: SimulatedStep
    runner: TimedRunner
    end_s: float

    def wait(self) -> StepResult:
        self.runner.interrupt_in("wait")
        self.runner.clock.now_s = max(self.runner.clock.now_s, self.end_s)
        return self.step.wait()


@dataclasses.dataclass(frozen=True)
class Machine:
    driver: Driver
    runner: TimedRunner
    pacer: Noting
    clock: Clock

    @property
    def device(self) -> SimulatedRunner:
        return self.runner.device

    @property
    def core(self) -> EngineCore:
        return self.driver.core

    def add(self, name: str, prompt: list[int], max_tokens: int, *, n: int = 1) -> None:
        self.driver.add(make_request(name, prompt, max_tokens, n=n, end_token_ids=(0,)))

    def answer(self, name: str, index: int = 0) -> list[int]:
        return self.driver.tokens.get((name, index), [])


@pytest.fixture(params=[1, 2, 3], ids=["depth1", "depth2", "depth3"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    depth: int = request.param
    cache = PrefixCache(64, 4)
    clock, pacer = Clock(), Noting()
    monkeypatch.setattr(core_module, "time", clock)
    device = SimulatedRunner(64, 4, max_in_flight=depth, pace=Pace.AT_WAIT)
    runner = TimedRunner(device, clock)
    scheduler = Scheduler(cache, max_batch_tokens=16, max_running=4)
    core = EngineCore(INFO, runner, scheduler, cache, pacer)
    return Machine(Driver(core), runner, pacer, clock)


def test_as_many_steps_are_in_flight_as_the_runner_allows(machine: Machine) -> None:
    machine.add("a", PROMPT, 9)
    machine.driver.run()
    depth = machine.runner.max_in_flight
    expected = [("launch", ordinal) for ordinal in range(depth)]
    for ordinal in range(depth, 9):
        expected += [("wait", ordinal - depth), ("launch", ordinal)]
    expected += [("wait", ordinal) for ordinal in range(9 - depth, 9)]
    assert machine.device.events == expected
    assert machine.answer("a") == oracle(PROMPT, 9, stop=STOP)
    machine.driver.assert_nothing_leaked()


def test_one_call_launches_one_step_and_takes_in_one_at_most(machine: Machine) -> None:
    machine.add("a", PROMPT, 9)
    num_steps = 0
    while machine.core.has_work:
        before = len(machine.device.events)
        machine.driver.step()
        new = [verb for verb, _ in machine.device.events[before:]]
        assert new in (["launch"], ["launch", "wait"], ["wait"])
        num_steps += 1
    assert num_steps == 9 + machine.runner.max_in_flight - 1
    assert machine.core.step() == []


@pytest.mark.parametrize("num_before", [0, 1, 4])
@pytest.mark.parametrize("fault", [Fault.LAUNCH, Fault.WAIT])
def test_what_was_launched_before_a_faulty_step_still_arrives(
    machine: Machine, num_before: int, fault: Fault
) -> None:
    machine.add("bad", PROMPT, 30)
    for _ in range(num_before):
        machine.driver.step()
    machine.device.next_fault = fault
    machine.driver.step()
    machine.add("later", [9, 8, 7], 5, n=2)
    machine.driver.run()
    end = machine.driver.ends["bad", 0]
    assert end.finish_reason == "error"
    what = "the step cannot be launched" if fault is Fault.LAUNCH else "the step is lost"
    assert end.error == f"the step failed: DeviceError: {what}"
    assert machine.answer("bad") == oracle(PROMPT, num_before, stop=STOP)
    for index in range(2):
        assert machine.answer("later", index) == oracle([9, 8, 7], 5, seed=index, stop=STOP)
    machine.driver.assert_nothing_leaked()


def test_a_request_that_ends_in_the_step_before_a_failed_launch_ends_well(
    machine: Machine,
) -> None:
    """Results come in the order of the launches."""
    (stop,) = oracle(PROMPT, 1, stop=STOP)
    machine.driver.add(make_request("a", PROMPT, 9, end_token_ids=(stop,)))
    machine.add("b", [7, 7], 9)
    machine.driver.step()
    machine.device.next_fault = Fault.LAUNCH
    machine.driver.step()
    machine.driver.run()
    assert machine.driver.ends["a", 0].finish_reason == "stop"
    assert machine.answer("a") == [stop]
    assert machine.driver.ends["b", 0].finish_reason == "error"
    machine.driver.assert_nothing_leaked()


@pytest.mark.parametrize("where", ["launch", "wait"])
def test_an_interrupt_leaves_an_engine_that_goes_on(machine: Machine, where: str) -> None:
    """As ``LLM`` does it: whoever is interrupted aborts what it asked for, and may ask again."""
    machine.add("a", PROMPT, 9)
    for _ in range(3):
        machine.driver.step()
    machine.runner.interrupt = where
    with pytest.raises(KeyboardInterrupt):
        machine.driver.step()
    machine.driver.abort("a")
    machine.add("b", [*PROMPT, 7], 6)
    machine.driver.run()
    assert machine.answer("b") == oracle([*PROMPT, 7], 6, stop=STOP)
    machine.driver.assert_nothing_leaked()


@pytest.mark.parametrize("later", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("where", ["schedule", "update", "fail"])
def test_an_interrupt_anywhere_else(
    machine: Machine, where: str, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a plan that the scheduler counted on, and the core did not know, was waited for
    for ever."""
    scheduler = machine.core._scheduler
    real = getattr(scheduler, where)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        if later:
            real(*args, **kwargs)
        raise KeyboardInterrupt

    machine.add("a", PROMPT, 9)
    machine.add("c", [*PROMPT, 8], 9)
    for _ in range(3):
        machine.driver.step()
    monkeypatch.setattr(scheduler, where, interrupted)
    if where == "fail":
        machine.device.next_fault = Fault.LAUNCH
    with pytest.raises(KeyboardInterrupt):
        machine.driver.step()
    machine.device.next_fault = Fault.NONE
    machine.driver.abort("a")
    machine.add("b", [*PROMPT, 7], 6)
    machine.driver.run()
    assert machine.answer("b") == oracle([*PROMPT, 7], 6, stop=STOP)
    # Whoever did not abort is told, or goes on; unless the interrupt came before the telling.
    if (where, later) != ("fail", True):
        assert machine.driver.ends["c", 0].finish_reason in ("error", "stop", "length")
    machine.driver.assert_nothing_leaked()


def test_an_interrupt_between_the_rows_of_an_update(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.add("a", PROMPT, 9)
    machine.add("c", [*PROMPT, 8], 9)
    for _ in range(3):
        machine.driver.step()
    land_row = InFlight.land_row
    landed: list[PlannedRow] = []

    def interrupted(row: PlannedRow) -> bool:
        if landed:
            monkeypatch.undo()
            raise KeyboardInterrupt
        landed.append(row)
        return land_row(row)

    monkeypatch.setattr(InFlight, "land_row", staticmethod(interrupted))
    with pytest.raises(KeyboardInterrupt):
        machine.driver.run()
    machine.add("b", [*PROMPT, 7], 6)
    machine.driver.run()
    assert machine.answer("b") == oracle([*PROMPT, 7], 6, stop=STOP)
    errors = [end.error for end in machine.driver.ends.values() if end.error is not None]
    assert set(errors) == {"the step was interrupted"}
    machine.driver.assert_nothing_leaked()


def test_an_interrupt_while_a_failed_launch_is_dealt_with(machine: Machine) -> None:
    machine.add("a", PROMPT, 9)
    machine.driver.step()
    machine.device.next_fault = Fault.LAUNCH
    machine.runner.interrupt = "wait"
    if machine.runner.max_in_flight > 1:
        with pytest.raises(KeyboardInterrupt):
            machine.driver.step()
    machine.runner.interrupt = None
    machine.device.next_fault = Fault.NONE
    machine.driver.abort("a")
    machine.add("b", [*PROMPT, 7], 6)
    machine.driver.run()
    assert machine.answer("b") == oracle([*PROMPT, 7], 6, stop=STOP)
    machine.driver.assert_nothing_leaked()


def test_clear_and_abort_with_steps_in_flight(machine: Machine) -> None:
    machine.add("a", PROMPT, 9)
    machine.add("b", PROMPT, 9)
    for _ in range(3):
        machine.driver.step()
    machine.driver.abort("a")
    machine.core.clear_cache()
    machine.core.check_invariants()
    machine.driver.run()
    assert machine.answer("b") == oracle(PROMPT, 9, stop=STOP)
    assert machine.driver.ends["a", 0].finish_reason == "abort"
    machine.driver.assert_nothing_leaked()


def test_an_aborted_request_leaves_work_as_long_as_its_step_is_in_flight(
    machine: Machine,
) -> None:
    machine.add("a", PROMPT, 9)
    machine.driver.step()
    deltas = machine.core.abort(RequestId("a"))
    assert [delta.finish_reason for delta in deltas] == ["abort"]
    assert machine.core.has_work == (machine.runner.max_in_flight > 1)
    machine.driver.run()
    assert len(machine.device.plans) == 1
    machine.driver.assert_nothing_leaked()


def test_the_time_of_a_step_is_its_own(machine: Machine) -> None:
    """It does not begin before the one ahead of it ends, nor before its launch."""
    machine.add("a", list(range(1, 21)), 5)
    machine.driver.run()
    # At depth 1 the launch counts, as the device idles meanwhile; else only that of the first.
    later = 11.0 if machine.runner.max_in_flight == 1 else 10.0
    assert machine.pacer.seen == [(0, 16, 11.0), (0, 4, later), *[(1, 0, later)] * 4]
    machine.clock.now_s += 1000.0
    machine.pacer.seen.clear()
    machine.add("b", [7, 7, 7], 1)
    machine.driver.run()
    assert machine.pacer.seen == [(0, 3, 11.0)]


def test_a_failed_step_is_not_measured_and_the_next_begins_after_it(machine: Machine) -> None:
    machine.add("bad", [7, 7, 7], 9)
    machine.device.next_fault = Fault.WAIT
    machine.driver.step()
    machine.add("good", [8, 8], 1)
    machine.driver.run()
    depth = machine.runner.max_in_flight
    if depth == 1:
        assert machine.pacer.seen == [(0, 2, 11.0)]
    else:
        # Beside the newcomer it carries the row in vain.
        assert machine.pacer.seen[0] == (1, 2, 10.0)
