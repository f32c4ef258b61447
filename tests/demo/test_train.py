"""A training of the demo model: it can be broken anywhere, and a broken one learns the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from radixserve.demo import WEIGHTS, card, exact, preparation, train, training
from radixserve.demo.batches import Batch
from radixserve.demo.checkpoint import NAME, load_state
from radixserve.demo.corpus import generate
from radixserve.demo.corpus.dialogue import Split
from radixserve.demo.encoding import encode_dialogue
from radixserve.demo.exact import Examination, held_out, summary
from radixserve.demo.learner import Learner, Losses
from radixserve.demo.network import Network, Shape
from radixserve.demo.optimizer import Optimizer
from radixserve.demo.prefetch import batches
from radixserve.demo.schedule import Plan, Stage
from radixserve.demo.start import Start, read_start
from radixserve.demo.tokenizer import load_tokenizer
from radixserve.demo.training import LOG, Machine, Training
from radixserve.errors import CheckpointError
from tests.support.tiny_dialogues import make_dialogue, tiny_tokenizer

PLAN = Plan(
    Shape(320, 64, 128, 2, 2, 1, 32),
    num_steps=30,
    seed=3,
    tokens_per_step=768,
    stages=(Stage(256, 0.5, 1.0), Stage(384, 0.5, 1.0)),
    characters_per_token=1.4,
    exam_lengths=(96,),
)
MACHINE = Machine("cpu", torch.float32, is_compiled=False, num_workers=0, description="a test")


def begin(
    directory: Path,
    plan: Plan = PLAN,
    machine: Machine = MACHINE,
    start: Start | None = None,
) -> Training:
    directory.mkdir()
    return Training.begin(
        directory,
        plan,
        tiny_tokenizer(),
        machine,
        make_dialogue,
        command="train --seed 3",
        start=start,
    )


def entries(directory: Path) -> list[dict[str, Any]]:
    """The log, without what depends on the clock and on the sessions."""
    found = [json.loads(line) for line in (directory / LOG).read_text().splitlines()]
    for entry in found:
        entry.pop("elapsed_s", None)
    return [entry for entry in found if "session" not in entry]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Products this small are slower with two, and far slower where another process wants one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _few_examinations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "NUM_EXAMINATIONS", 3)
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    monkeypatch.setattr(training, "PER_CELL", 2)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "NUM_EXAMINATIONS", 3)
        patch.setattr(training, "LOG_EVERY", 1)
        patch.setattr(training, "PER_CELL", 2)
        directory = tmp_path_factory.mktemp("unbroken") / "run"
        begin(directory).run(progress=False)
    return directory


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


def test_a_training_begins_with_what_another_left(unbroken: Path, tmp_path: Path) -> None:
    start = read_start(unbroken)
    assert start.network.shape == PLAN.shape
    weights, left = start.network.state_dict(), load_state(unbroken).weights
    assert weights.keys() == left.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, left[name].bfloat16().float())
    directory = tmp_path / "run"
    begun = begin(directory, start=start)
    assert begun.num_steps_done == 0
    assert entries(directory)[1:] == [{"begun_with": start.sha256}]
    # From its first checkpoint on: whoever resumes it must not begin with drawn weights.
    kept = load_state(directory).weights
    assert all(torch.equal(weight, kept[name]) for name, weight in weights.items())
    begun.run(max_steps=3, progress=False)
    losses = [entry["answer_loss"] for entry in entries(directory) if "answer_loss" in entry]
    drawn = [entry["answer_loss"] for entry in entries(unbroken) if "answer_loss" in entry]
    assert max(losses) < 0.7 * drawn[0]


def _without(path: Path) -> None:
    path.unlink()


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _changed(key: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return change


def _with_tensor(path: Path) -> None:
    save_file({**load_file(path), "lm_head.weight": torch.ones(2)}, path)


def _in_float32(path: Path) -> None:
    found = load_file(path)
    save_file({**found, "model.norm.weight": found["model.norm.weight"].float()}, path)


def _of_others(path: Path) -> None:
    Tokenizer(models.BPE()).save(str(path))


def _of_others_as_large(path: Path) -> None:
    words = {f"word {index}": index for index in range(PLAN.shape.vocab_size)}
    Tokenizer(models.WordLevel(words, "word 0")).save(str(path))


@pytest.mark.parametrize(
    ("file", "harm", "complaint"),
    [
        ("config.json", _without, "is not the config of a trained demo model"),
        ("config.json", _torn, "is not the config of a trained demo model"),
        ("config.json", _changed("num_key_value_heads", 0), "is not the config"),
        ("config.json", _changed("hidden_size", "64"), "should be positive integers"),
        ("config.json", _changed("intermediate_size", -1), "should be positive integers"),
        ("config.json", _changed("rope_scaling", {}), "has another rope_scaling than"),
        ("config.json", _changed("num_hidden_layers", 3), r"differ in 11 tensors .* as model"),
        ("config.json", _changed("intermediate_size", 96), "differ in 6 tensors .* as model"),
        ("model.safetensors", _without, "cannot be read: .*give the directory"),
        ("model.safetensors", _torn, "cannot be read: .*give the directory"),
        ("model.safetensors", _with_tensor, "differ in 1 tensors .* as lm_head.weight"),
        ("model.safetensors", _in_float32, "differ in 1 tensors .* as model.norm.weight"),
        ("tokenizer.json", _without, "the tokenizer of .* cannot be read"),
        ("tokenizer.json", _torn, "the tokenizer of .* cannot be read"),
        ("tokenizer.json", _of_others, "has 0 tokens and the model 320"),
        ("tokenizer.json", _of_others_as_large, "does not begin with <|endoftext|>"),
    ],
)
def test_what_no_training_has_left_is_refused(
    unbroken: Path, tmp_path: Path, file: str, harm: Callable[[Path], None], complaint: str
) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((unbroken / name).read_bytes())
    harm(tmp_path / file)
    with pytest.raises(CheckpointError, match=complaint):
        read_start(tmp_path)


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
        "from tests.demo.test_train import PLAN, batches, make_dialogue, tiny_tokenizer\n"
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


def test_an_answer_is_right_when_it_would_be_generated() -> None:
    """One pass must judge as token by token generation does."""
    network = Network(PLAN.shape, seed=1)
    tokenizer = tiny_tokenizer()
    optimizer = Optimizer(
        network, matrix_rate=0.05, other_rate=0.01, weight_decay=0.0, dtype=torch.float32
    )
    learn = Learner(network, is_compiled=False)
    # Two batches, learnt by heart: some answers come right, others do not.
    made = list(batches(PLAN, tokenizer, make_dialogue, first_step=28, num_workers=0))
    for _ in range(40):
        for batch in made:
            learn(batch, "cpu")
            optimizer.step(1.0)
    found = held_out(
        tokenizer,
        make_dialogue,
        Split.TRAIN,
        96,
        count=6,
        max_tokens=400,
        characters_per_token=1.4,
        seed=1,
    )
    marks = [mark for one in found for mark in exact._right(network, [one[1]])[0]]
    together = [
        mark for marks in exact._right(network, [two for _, two in found]) for mark in marks
    ]
    generated = []
    with torch.no_grad():
        for _, encoded in found:
            for answer in encoded.answers:
                ids = encoded.ids[: answer.start]
                for _ in answer:
                    ids.append(int(network(torch.tensor([ids]))[0, -1].argmax()))
                generated.append(ids[answer.start :] == encoded.ids[answer.start : answer.stop])
    assert marks == together == generated


def test_an_examination_counts_by_split_length_and_kind() -> None:
    exam = Examination(PLAN, tiny_tokenizer(), make_dialogue, per_cell=3)
    scores = exam.run(network := Network(PLAN.shape))
    assert exam.run(network) == scores
    assert {(score.split, score.length, score.kind) for score in scores} == {
        ("values", 96, "record"),
        ("phrasings", 96, "record"),
    }
    asked = summary(scores)
    assert set(asked["values"]) == {"all", "96", "record"}
    made = exact.Score("values", 96, "record", 1, 4), exact.Score("values", 128, "table", 3, 4)
    assert summary(made) == {
        "values": {"all": 0.5, "96": 0.25, "record": 0.25, "128": 0.75, "table": 0.75}
    }


def test_documents_of_the_asked_length_are_found_or_missed() -> None:
    tokenizer = tiny_tokenizer()
    arguments = {"max_tokens": 2048, "characters_per_token": 3.0, "seed": 1}
    found = held_out(
        tokenizer,
        make_dialogue,
        Split.HELD_OUT_VALUES,
        300,
        count=5,
        **arguments,  # type: ignore[arg-type]  # a dictionary of several types
    )
    lengths = [encoded.num_system_tokens for _, encoded in found]
    assert all(225 <= length <= 345 for length in lengths)
    assert encode_dialogue(tokenizer, found[0][0]) == found[0][1]
    arguments["max_tokens"] = 200
    with pytest.raises(ValueError, match="0 of 5"):
        held_out(
            tokenizer,
            make_dialogue,
            Split.HELD_OUT_VALUES,
            300,
            count=5,
            **arguments,  # type: ignore[arg-type]  # a dictionary of several types
        )


@pytest.mark.parametrize("guess", [0.5, 2.1, 9.0])
def test_long_documents_are_found_where_dialogues_may_be_hardly_longer(guess: float) -> None:
    """Most dialogues of the corpus talk too long for it; and the guess may be a bad one."""
    found = held_out(
        load_tokenizer(WEIGHTS),
        generate.make_dialogue,
        Split.HELD_OUT_VALUES,
        1500,
        count=4,
        max_tokens=2048,
        characters_per_token=guess,
        seed=1,
    )
    # It raises where it does not find them.
    assert len(found) == 4


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


def test_begun_with_a_checkpoint_from_the_command_line(
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(preparation, "make_dialogue", make_dialogue)
    out = tmp_path / "run"
    flags = ["--out", str(out), "--no-compile", "--workers", "0", "--session-minutes", "0"]
    flags += ["--tokens-per-step", "2048", "--steps", "9"]
    assert train.main([*flags, "--begin-with", str(tmp_path)]) == 1
    assert "is not the config" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.main([*flags, "--begin-with", str(unbroken), "--kv-heads", "2"])
    assert "leave out --kv-heads" in capsys.readouterr().err
    rows = ["--begin-with", str(unbroken), "--shortest-rows"]
    assert train.main([*flags, *rows, "4096"]) == 1
    assert "no rows are as long as 4,096 tokens; 2,048 at most" in capsys.readouterr().err
    assert not out.exists()
    assert train.main([*flags, *rows, "1024"]) == 0
    assert "paused at step 1" in capsys.readouterr().out
    state = load_state(out)
    assert state.plan.shape == PLAN.shape
    assert [stage.length for stage in state.plan.stages] == [1024, 2048]
    assert (out / "tokenizer.json").read_bytes() == (unbroken / "tokenizer.json").read_bytes()
    for name, weight in read_start(unbroken).network.state_dict().items():
        # One step moves it by less than it is long; a drawn one would point elsewhere.
        assert (state.weights[name] - weight).norm() < 0.5 * weight.norm(), name
    with pytest.raises(SystemExit):
        train.main([*flags, "--begin-with", str(unbroken), "--resume"])
    assert "leave out --begin-with" in capsys.readouterr().err


ACCURACY = {
    "dtype": "float32",
    "num_questions": 1234,
    "right": {
        "values": {"record": {"128": [3, 4], "all": [3, 4]}, "all": {"128": [3, 4], "all": [3, 4]}},
        "phrasings": {"all": {"1024": [1, 3], "128": [1, 2], "all": [2, 5]}},
    },
    "targets": [
        {"target": "records", "least_percent": 70.0, "right": 3, "answers": 4, "is_met": True},
        {"target": "others", "least_percent": 90.0, "right": 2, "answers": 5, "is_met": False},
    ],
    "differing": {"on": 0, "off": 0},
    "command": "python bench/demo_accuracy.py --dialogues 9",
}


def words(text: str) -> str:
    """Its words, wherever its lines end."""
    return " ".join(text.split())


def test_the_card_says_what_was_measured(unbroken: Path, tmp_path: Path) -> None:
    log = [json.loads(line) for line in (unbroken / LOG).read_text().splitlines()]
    text = card.card(log, ACCURACY)
    assert "| record | 75.0 | 75.0 | 4 |" in text
    assert "| kind | 128 tokens | 1024 tokens | all | answers |" in text
    assert "| all | 50.0 | 33.3 | 40.0 | 5 |" in text
    assert "| records | 70 | 75.0, met |\n| others | 90 | 40.0, missed |" in text
    assert "    train --seed 3\n" in text
    assert "    python bench/demo_accuracy.py --dialogues 9\n" in text
    assert "0 minutes by the clock (one session). Seed 3." in words(text)
    assert max(map(len, text.partition("### ")[0].splitlines())) <= 100
    way = "Asked with the prefix cache, then without it: every answer is the same."
    assert way in words(text)
    remarked = card.card(log, ACCURACY, remark="It was paused at times. ")
    assert "(one session). It was paused at times. Seed 3." in words(remarked)
    differing = {**ACCURACY, "differing": {"on": 0, "off": 0, "small": 2}}
    ways = "then without it and in a pool too small for it: 2 answers differ."
    assert ways in words(card.card(log, differing))
    alone = card.card(log, {**ACCURACY, "differing": {"off": 0}})
    assert "together. Asked without it." in words(alone)
    twice = [{**log[0], "command": "train --steps 30 --steps 30"}, *log[1:]]
    assert "    train --steps 30\n" in card.card(twice, ACCURACY)
    begun = [log[0], {"begun_with": "ab12"}, *log[1:]]
    whose = "It began with an earlier training's `model.safetensors`, of SHA-256 `ab12`. Twice."
    told = words(card.card(begun, ACCURACY, remark="Twice."))
    assert whose in told
    assert "The same command, begun with those weights, in one session" in told
    assert "The same command, in one session" in words(text)
    with pytest.raises(CheckpointError, match="nothing about phrasings"):
        card.card(log, {**ACCURACY, "right": {"values": {}}})
    with pytest.raises(CheckpointError, match="29 of 30 steps"):
        card.card([entry for entry in log if entry.get("step") != 30], ACCURACY)


def test_the_card_is_written_beside_the_model(
    unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "accuracy.json"
    arguments = ["--run", str(unbroken), "--accuracy", str(file)]
    assert card.main(arguments) == 1
    assert "accuracy.json" in capsys.readouterr().err
    file.write_text(json.dumps(ACCURACY))
    assert card.main(arguments) == 0
    written = (unbroken / "MODEL_CARD.md").read_text()
    assert written.startswith("---\nlanguage: en\n")
    elsewhere = tmp_path / "card"
    assert card.main([*arguments, "--out", str(elsewhere), "--remark", "Twice."]) == 0
    told = words(written).replace("(one session).", "(one session). Twice.")
    assert words(elsewhere.read_text()) == told


def test_chance_elsewhere_changes_nothing(unbroken: Path, tmp_path: Path) -> None:
    random.seed(99)
    torch.manual_seed(99)
    directory = tmp_path / "run"
    begin(directory).run(max_steps=3, progress=False)
    first = [entry for entry in entries(unbroken) if entry.get("step", 0) <= 3]
    assert entries(directory) == first
