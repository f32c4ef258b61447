"""The demo model: the same bytes always, whole or not there, and loadable by everybody."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import transformers

from radixserve.demo import DEMO_WARNING, directory, ensure_demo_model, write_byte_tokenizer
from radixserve.demo.byte_tokenizer import IM_END_ID, VOCAB_SIZE
from radixserve.demo.model import FILES, RECIPE, write_demo_model
from radixserve.text.tokenizer import Tokenizer

GOLDEN = "514858432ec5975742be4aac53e29005a8d7c5174af72374ec7edb846183ea08"
"""SHA-256 of recipe 1's weights: whoever changes them raises ``RECIPE``, or old caches stay."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_demo_model({"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))})


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_the_bytes_depend_on_the_recipe_alone(demo: Path, tmp_path: Path) -> None:
    write_demo_model(tmp_path)
    assert contents(tmp_path) == contents(demo)
    assert set(contents(demo)) == set(FILES)
    assert RECIPE == 1
    assert hashlib.sha256((demo / "model.safetensors").read_bytes()).hexdigest() == GOLDEN


def test_it_says_that_it_is_noise() -> None:
    assert "NOISE" in DEMO_WARNING


def test_is_made_once(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "write_demo_model", lambda _: pytest.fail("made again"))
    assert ensure_demo_model({"XDG_CACHE_HOME": str(demo.parent.parent)}) == demo
    assert [path.name for path in demo.parent.iterdir()] == [demo.name]


def test_a_damaged_one_is_repaired(tmp_path: Path, demo: Path) -> None:
    environ = {"HOME": str(tmp_path)}
    place = ensure_demo_model(environ)
    assert place == tmp_path / ".cache" / "radixserve" / f"demo-{RECIPE}"
    (place / "config.json").unlink()
    (place / "model.safetensors").unlink()
    assert ensure_demo_model(environ) == place
    assert contents(place) == contents(demo)
    assert list(place.parent.iterdir()) == [place]


def test_a_relative_xdg_path_is_ignored(tmp_path: Path) -> None:
    place = ensure_demo_model({"XDG_CACHE_HOME": "relative", "HOME": str(tmp_path)})
    assert place.is_relative_to(tmp_path / ".cache")


@pytest.mark.parametrize("home", ["file", "relative"])
def test_a_cache_that_cannot_be_written_costs_a_temporary_directory(
    home: str, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").write_text("in the way")
    environ = {"HOME": str(tmp_path / "file") if home == "file" else "relative"}
    place = ensure_demo_model(environ)
    assert place.parent == tmp_path
    assert contents(place) == contents(demo)
    # Nobody else can have prepared it: another call does not find this one.
    assert ensure_demo_model(environ) != place


def test_without_home_the_users_own_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda _: "/somewhere")
    assert directory._cache_root({}) == Path("/somewhere/.cache/radixserve")


def test_finding_it_imports_nothing_heavy(demo: Path) -> None:
    code = (
        "import sys; from radixserve.demo import ensure_demo_model; print(ensure_demo_model());"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"XDG_CACHE_HOME": str(demo.parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split("\n")[:2] == [str(demo), "[]"]


def test_transformers_loads_it_and_its_words_are_printable(demo: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(demo)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    tokenizer = Tokenizer.from_dir(demo)
    prompt = tokenizer.encode_chat([{"role": "user", "content": "Who are you?"}])
    torch.manual_seed(0)
    with torch.no_grad():
        answers = model.generate(torch.tensor([prompt] * 32), max_new_tokens=150)
    lengths = []
    for answer in answers[:, len(prompt) :].tolist():
        length = answer.index(IM_END_ID) if IM_END_ID in answer else len(answer)
        lengths.append(length)
        assert all(byte == 10 or 32 <= byte < 127 for byte in answer[:length])
    assert 20 < sum(lengths) / len(lengths) < 100
    assert sum(length < 150 for length in lengths) > 20


def test_the_tokenizer_is_one_token_per_byte(demo: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_dir(demo)
    assert tokenizer.vocab_size == VOCAB_SIZE
    every = bytes(range(256))
    assert [tokenizer.token_bytes(byte) for byte in every] == [bytes([byte]) for byte in every]
    assert tokenizer.encode("aé\0 ") == list("aé\0 ".encode())
    assert tokenizer.render_chat([{"role": "user", "content": "a"}]) == (
        "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    )
    config = json.loads((demo / "config.json").read_text())
    assert config["vocab_size"] == VOCAB_SIZE
    assert IM_END_ID in json.loads((demo / "generation_config.json").read_text())["eos_token_id"]

    write_byte_tokenizer(tmp_path, chat_template=None, add_bos=True)
    with_bos = Tokenizer.from_dir(tmp_path)
    assert with_bos.encode("a") == [257, 97]
    assert not with_bos.has_chat_template
