"""A training of the demo model: it can be broken anywhere, and a broken one learns the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from radixserve.demo import preparation, train, training
from radixserve.demo.batches import Batch
from radixserve.demo.checkpoint import NAME, load_state
from radixserve.demo.learner import Losses
from radixserve.demo.prefetch import batches
from radixserve.demo.schedule import Stage
from radixserve.demo.training import LOG, Training
from tests.support.tiny_dialogues import make_dialogue, tiny_tokenizer
from tests.support.tiny_training import MACHINE, PLAN, begin, entries

pytestmark = pytest.mark.usefixtures("one_thread", "few_examinations")


def test_it_learns(unbroken: Path) -> None:
    losses = [entry["answer_loss"] for entry in entries(unbroken) if "answer_loss" in entry]
    assert len(losses) == PLAN.num_steps
    assert losses[-1] < 0.7 * losses[0]
    exams = [entry for entry in entries(unbroken) if "right" in entry]
    assert [exam["step"] for exam in exams] == [10, 20, 30]
    assert {"config.json", "model.safetensors"} <= {path.name for path in unbroken.iterdir()}


def test_a_broken_training_learns_the_same(unbroken: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    begin(directory).run(max_steps=7, progress=False)
    Training.resume(directory, MACHINE, make_dialogue).run(max_steps=13, progress=False)
    resumed = Training.resume(directory, MACHINE, make_dialogue)
    assert resumed.num_steps_done == 20
    resumed.run(progress=False)
    assert resumed.num_steps_done == 30
    assert entries(directory) == entries(unbroken)
    ours, theirs = load_state(directory), load_state(unbroken)
    assert ours.num_sessions == 3
    for name, weight in ours.weights.items():
        assert torch.equal(weight, theirs.weights[name])


def test_what_a_killed_session_did_after_its_checkpoint_is_done_again(
    unbroken: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    begun = begin(directory)
    begun.run(max_steps=7, progress=False)
    kept = (directory / NAME).read_bytes()
    begun.run(max_steps=6, progress=False)
    # As a power cut leaves it: an old checkpoint, a longer log whose last line is torn.
    (directory / NAME).write_bytes(kept)
    with (directory / LOG).open("a") as log:
        log.write('{"step": 14, "answ')
    Training.resume(directory, MACHINE, make_dialogue).run(progress=False)
    assert entries(directory) == entries(unbroken)


def test_the_optimizer_multiplies_as_the_machine_does(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        begun = begin(tmp_path / str(dtype), machine=replace(MACHINE, dtype=dtype))
        assert begun._optimizer._dtype == begun.network.compute_dtype == dtype


def test_a_signal_ends_a_session_behind_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin(tmp_path / "run")
    step = begun._step

    def interrupted(batch: Batch) -> Losses:
        losses = step(batch)
        if begun.num_steps_done == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses

    monkeypatch.setattr(begun, "_step", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    begun.run(progress=False)
    assert load_state(tmp_path / "run").num_steps_done == 5
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_session_ends_when_its_time_is_up(tmp_path: Path) -> None:
    begun = begin(tmp_path / "run")
    begun.run(max_session_s=0.0, progress=False)
    assert load_state(tmp_path / "run").num_steps_done == 1


def test_the_time_left_is_that_of_the_steps_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = (Stage(256, 0.5, 1.0), Stage(384, 0.5, 0.5))
    plan = replace(PLAN, num_steps=200, stages=stages)
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    clock = training._Clock(plan, 10)
    for step in range(10, 40):
        now_s += 3.0 * plan.relative_time(step)
        clock.tick()
    assert clock.step_s == pytest.approx(3.0 * plan.relative_time(39))
    left_s = sum(3.0 * plan.relative_time(step) for step in range(40, 200))
    assert clock.left_s() == pytest.approx(left_s)
    assert {plan.relative_time(step) for step in range(200)} == {1.0, 2.0}


def test_workers_make_the_same_batches_in_order() -> None:
    tokenizer = tiny_tokenizer()
    here, there = (
        list(batches(PLAN, tokenizer, make_dialogue, first_step=22, num_workers=number))
        for number in (0, 2)
    )
    assert len(here) == len(there) == 8
    for one, other in zip(here, there, strict=True):
        assert (one.ids == other.ids).all()
        assert (one.positions == other.positions).all()


def test_a_worker_ends_with_its_trainer(tmp_path: Path) -> None:
    file = tmp_path / "worker"
    code = (
        "from radixserve.demo.prefetch import batches\n"
        "from tests.support.tiny_dialogues import make_dialogue, tiny_tokenizer\n"
        "from tests.support.tiny_training import PLAN\n"
        "import multiprocessing, os, pathlib\n"
        "if __name__ == '__main__':\n"
        "    made = batches(PLAN, tiny_tokenizer(), make_dialogue, first_step=0, num_workers=1)\n"
        "    next(made)\n"
        "    worker = multiprocessing.active_children()[0]\n"
        f"    pathlib.Path({str(file)!r}).write_text(str(worker.pid))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    # No pipes: a worker that lived on would hold them open, and this would wait for it.
    subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    worker = int(file.read_text())
    for _ in range(500):
        # Gone, or a zombie that nobody has waited for.
        command = Path(f"/proc/{worker}/cmdline")
        if not command.exists() or not command.read_bytes():
            return
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    pytest.fail(f"worker {worker} lives on")


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preparation, "TOKENIZER_CHARACTERS", 200_000)
    monkeypatch.setattr(training, "PER_CELL", 1)
    monkeypatch.setattr(preparation, "measure_step_s", lambda *_: 60.0)
    out = tmp_path / "run"
    flags = ["--vocab", "1024", "--hidden", "64", "--intermediate", "64", "--layers", "1"]
    flags += ["--heads", "1", "--kv-heads", "1", "--no-compile", "--workers", "0"]
    flags += ["--tokens-per-step", "2048", "--minutes", "3.2"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--out", str(out), *flags])
    assert train.main(["--out", str(out), *flags, "--session-minutes", "0"]) == 0
    assert "paused at step 1" in capsys.readouterr().out
    assert train.main(["--out", str(out), *flags]) == 1
    assert "--resume it" in capsys.readouterr().err
    resume = ["--out", str(out), "--resume", "--no-compile", "--workers", "0"]
    kept = (out / LOG).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(preparation, "make_dialogue", make_dialogue)
        assert train.main(resume) == 1
    assert "the generator has changed" in capsys.readouterr().err
    assert (out / LOG).read_bytes() == kept
    assert train.main(resume) == 0
    assert f"done in 0 minutes: {out}" in capsys.readouterr().out
    plan = json.loads((out / LOG).read_text().splitlines()[0])
    assert plan["command"].endswith(f"--minutes 3.2 --steps {plan['plan']['num_steps']}")
    assert train.main(["--out", str(tmp_path / "none"), "--resume"]) == 1
    assert "is not there" in capsys.readouterr().err


def test_chance_elsewhere_changes_nothing(unbroken: Path, tmp_path: Path) -> None:
    random.seed(99)
    torch.manual_seed(99)
    directory = tmp_path / "run"
    begin(directory).run(max_steps=3, progress=False)
    first = [entry for entry in entries(unbroken) if entry.get("step", 0) <= 3]
    assert entries(directory) == first
