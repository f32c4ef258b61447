"""A fingerprint changes with all that makes keys and values other ones, and with nothing else."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from radixserve.model import fingerprint as module
from radixserve.model.config import ModelConfig
from radixserve.model.fingerprint import fingerprint
from tests.support.checkpoints import make_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint("llama", tmp_path / "llama")


def of(directory: Path, *, dtype: str = "float32", page_size: int = 16, **more: Any) -> bytes:
    config = ModelConfig.from_dir(directory)
    return fingerprint(directory, config, dtype=dtype, page_size=page_size, progress=False, **more)


def change_config(directory: Path, **fields: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_it_is_32_bytes_that_stay(checkpoint: Path, tmp_path: Path) -> None:
    found = of(checkpoint)
    assert len(found) == 32
    assert of(checkpoint) == found
    assert of(Path(shutil.copytree(checkpoint, tmp_path / "elsewhere"))) == found


def test_what_makes_no_key_another_one_does_not_matter(checkpoint: Path) -> None:
    found = of(checkpoint)
    config = checkpoint / "config.json"
    fields = json.loads(config.read_text())
    config.write_text(json.dumps(dict(reversed(fields.items())), indent=7))
    (checkpoint / "README.md").write_text("words")
    (checkpoint / "generation_config.json").write_text('{"temperature": 0.5}')
    (checkpoint / "other.safetensors").write_bytes(b"of another model")
    os.utime(checkpoint / "model.safetensors", (1, 1))
    assert of(checkpoint) == found


def test_dtype_and_page_size(checkpoint: Path) -> None:
    found = {
        of(checkpoint, dtype=dtype, page_size=page_size)
        for dtype in ("float32", "bfloat16", "float16")
        for page_size in (8, 16)
    }
    assert len(found) == 6


def test_quantisations_share_nothing_with_each_other_or_with_none(checkpoint: Path) -> None:
    assert len({of(checkpoint, quantization=name) for name in ("none", "int8", "int4")}) == 3
    assert of(checkpoint, quantization="none") == of(checkpoint)


@pytest.mark.parametrize(
    "fields",
    [
        {"rms_norm_eps": 1e-6},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ],
    ids=["norm", "theta", "scaling"],
)
def test_config_and_rope(checkpoint: Path, fields: dict[str, Any]) -> None:
    found = of(checkpoint)
    change_config(checkpoint, **fields)
    assert of(checkpoint) != found


def test_rope_counts_as_it_was_resolved(checkpoint: Path) -> None:
    """A default that a later version resolves otherwise must not go unnoticed."""
    found = of(checkpoint)
    config = ModelConfig.from_dir(checkpoint)
    object.__setattr__(config.rope, "beta_fast", 31.0)
    other = fingerprint(checkpoint, config, dtype="float32", page_size=16, progress=False)
    assert other != found


@pytest.mark.parametrize("place", [0.5, 1.0], ids=["inside", "the last byte"])
def test_one_bit_of_the_weights(
    checkpoint: Path, place: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several chunks, the last one not full.
    monkeypatch.setattr(module, "_CHUNK_BYTES", 10_007)
    found = of(checkpoint)
    path = checkpoint / "model.safetensors"
    blob = bytearray(path.read_bytes())
    blob[int(place * (len(blob) - 1))] ^= 1
    path.write_bytes(blob)
    assert of(checkpoint) != found


def test_the_size_of_chunks_does_not_matter(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of(checkpoint)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 10_007)
    assert of(checkpoint) == found


def test_every_shard_counts(tmp_path: Path) -> None:
    path = make_checkpoint("qwen3", tmp_path / "qwen3")
    tensors = load_file(path / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    (path / "model.safetensors").unlink()
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, path / shard, {"format": "pt"})
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    seen = {of(path)}
    for shard, held in shards.items():
        changed = {name: tensors[name] for name in held}
        changed[held[0]] = changed[held[0]] + 1
        save_file(changed, path / shard, {"format": "pt"})
        seen.add(of(path))
    assert len(seen) == 3
