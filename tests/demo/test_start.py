"""A training that begins with another's weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from radixserve.demo import preparation, train
from radixserve.demo.checkpoint import load_state
from radixserve.demo.start import read_start
from radixserve.errors import CheckpointError
from tests.support.tiny_dialogues import make_dialogue
from tests.support.tiny_training import PLAN, begin, entries

pytestmark = pytest.mark.usefixtures("one_thread", "few_examinations")


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
