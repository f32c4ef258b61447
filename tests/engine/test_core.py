"""The step loop's body: failures stay with their step, and nothing to do is nothing done."""

import logging
from pathlib import Path

import pytest

from radixserve.errors import DeviceLostError
from radixserve.scheduler.plan import StepPlan, StepResult
from tests.engine.driving import Driver, make_core, make_request
from tests.engine.reference import family_prompts

PROMPTS = family_prompts(seed=3)


def test_nothing_to_do_is_nothing_done(tiny_dir: Path) -> None:
    core = make_core(tiny_dir)
    assert not core.has_work
    assert core.step() == []
    assert core.stats().num_steps == 0


@pytest.mark.parametrize("failing_step", [0, 1, 3])
def test_a_step_that_raises_ends_its_requests_and_spares_the_rest(
    tiny_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failing_step: int,
) -> None:
    """Two run and fail, one as three choices, before or after the fork; a third comes later."""
    driver = Driver(make_core(tiny_dir, max_running=4, max_batch_tokens=64))
    expected = Driver(make_core(tiny_dir))
    for name, row in (("later", 3), ("again", 2)):
        expected.add(make_request(name, PROMPTS[row], 6))
    expected.run()
    driver.add(make_request("forking", PROMPTS[1], 9, n=3))
    driver.add(make_request("single", PROMPTS[2], 9))
    for _ in range(failing_step):
        driver.step()

    def broken(plan: StepPlan) -> StepResult:
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
        patch.setattr(driver.core._runner, "launch", broken)
        driver.step()
    assert "the device is gone" in caplog.text
    assert set(driver.ends) == {("forking", 0), ("forking", 1), ("forking", 2), ("single", 0)}
    for end in driver.ends.values():
        assert end.finish_reason == "error"
        assert end.error == "the step failed: RuntimeError: the device is gone"
    assert driver.core.cache_info().in_use_pages == 0
    for name, row in (("again", 2), ("later", 3)):
        driver.add(make_request(name, PROMPTS[row], 6))
        driver.run()
        assert driver.tokens[name, 0] == expected.tokens[name, 0]
    # What the failing step was to write is not there; only what was full before it is.
    num_committed = len(PROMPTS[2]) // 16 * 16 if failing_step else 0
    assert driver.ends["again", 0].num_cached_tokens == min(num_committed, len(PROMPTS[2]) - 1)
    driver.assert_nothing_leaked()


def test_figures_add_up(tiny_dir: Path) -> None:
    driver = Driver(make_core(tiny_dir))
    driver.add(make_request("a", PROMPTS[1], 5))
    driver.run()
    driver.add(make_request("b", PROMPTS[1], 7))
    driver.add(make_request("c", [1, 2, 3], 2, n=2))
    assert driver.core.stats().num_waiting == 2
    driver.run()
    stats = driver.core.stats()
    length = len(PROMPTS[1])
    assert stats.prompt_tokens == 2 * length + 3
    assert stats.cached_tokens == length - 1
    assert stats.generated_tokens == 5 + 7 + 2 * 2
    # Every token but the last of each answer is computed once, cached ones not at all.
    assert stats.computed_tokens == (length + 4) + (1 + 6) + (3 + 2)
    assert stats.num_steps == 5 + 7
    assert (stats.preemptions, stats.evicted_pages) == (0, 0)


@pytest.mark.parametrize("where", ["launch", "wait"])
def test_a_device_that_is_lost_is_the_end_of_the_process(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Not of the step's requests, one step after the other: another process can go on with them."""
    core = make_core(tiny_dir)
    core.add(make_request("a", PROMPTS[1], 9))
    core.step()

    class Lost:
        def wait(self) -> StepResult:
            raise DeviceLostError("the device has failed")

    def launch(plan: StepPlan) -> Lost:
        if where == "launch":
            raise DeviceLostError("the device has failed")
        return Lost()

    monkeypatch.setattr(core._runner, "launch", launch)
    with pytest.raises(DeviceLostError):
        core.step()
