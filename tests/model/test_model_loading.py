"""Checkpoints that cannot be loaded are refused by name; the others are, from wherever they lie."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils._paths import filter_repo_objects
from safetensors.torch import load_file, save_file

from radixserve.demo import WEIGHTS
from radixserve.errors import CheckpointError, ConfigError, ModelError, UnsupportedModelError
from radixserve.model.causal_lm import CausalLM
from radixserve.model.config import ModelConfig
from radixserve.model.loading import load_model
from radixserve.model.resolve import resolve_model
from tests.support.checkpoints import make_checkpoint

Tensors = dict[str, torch.Tensor]
CPU = torch.device("cpu")


def load(directory: Path, **arguments: Any) -> CausalLM:
    return load_model(
        directory,
        ModelConfig.from_dir(directory),
        **{"dtype": torch.float32, "device": CPU, **arguments},
    )


def with_tensors(directory: Path, change: Callable[[Tensors], object]) -> Path:
    """Rewrite a checkpoint's tensors in place."""
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    return directory


def refusal(directory: Path, kind: type[ModelError] = CheckpointError) -> str:
    with pytest.raises(kind) as error:
        load(directory)
    return str(error.value)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return make_checkpoint("llama", tmp_path / "llama")


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    return make_checkpoint("qwen3", tmp_path / "tied")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_checkpoint("llama", tmp_path / "sharded", max_shard_size="50KB")


# ---- tensors -------------------------------------------------------------------------------------


def test_missing_tensors_are_named(llama: Path) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    message = refusal(with_tensors(llama, lambda tensors: tensors.pop(name)))
    assert f"1 tensors missing: {name}" in message
    assert str(llama) in message


def test_missing_head_is_not_made_up(llama: Path) -> None:
    message = refusal(with_tensors(llama, lambda tensors: tensors.pop("lm_head.weight")))
    assert "1 tensors missing: lm_head.weight" in message


def test_left_over_tensors_are_named(llama: Path) -> None:
    name = "model.layers.0.self_attn.q_proj.bias"
    message = refusal(with_tensors(llama, lambda tensors: tensors.update({name: torch.ones(64)})))
    assert f"1 tensors left over: {name}" in message


def test_misshaped_tensors_are_named_with_both_shapes(llama: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    change = {name: torch.ones(64, 96)}
    message = refusal(with_tensors(llama, lambda tensors: tensors.update(change)))
    assert f"1 tensors misshaped: {name} (expected [96, 64], found [64, 96])" in message


def test_all_disagreements_are_told_at_once_ten_names_each(llama: Path) -> None:
    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if "layers.1" in name]:
            tensors[name.replace("layers.1", "layers.7")] = tensors.pop(name)
        tensors["model.norm.weight"] = torch.ones(65)
        tensors.update({f"extra.{index}": torch.ones(1) for index in range(3)})

    message = refusal(with_tensors(llama, change))
    assert "9 tensors missing" in message
    assert "12 tensors left over" in message
    assert " and 2 more" in message
    assert "1 tensors misshaped" in message


def test_quantised_tensors_are_refused(llama: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    quantised = {name: torch.ones(96, 64, dtype=torch.int8)}
    directory = with_tensors(llama, lambda tensors: tensors.update(quantised))
    assert f"{name} (I8)" in refusal(directory, UnsupportedModelError)


def test_stored_rotary_frequencies_are_ignored(llama: Path) -> None:
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "model.rotary_emb.inv_freq": torch.ones(8),
    }
    load(with_tensors(llama, lambda tensors: tensors.update(extra)))


def test_a_second_copy_of_a_tied_embedding_is_ignored(tied: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    load(with_tensors(tied, change))


def test_a_head_that_differs_from_its_tied_embedding_is_refused(tied: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1

    message = refusal(with_tensors(tied, change))
    assert "lm_head.weight (differs from the embedding it is tied to)" in message


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_converted(stored: torch.dtype, llama: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors.update({name: tensor.to(stored) for name, tensor in tensors.items()})

    model = load(with_tensors(llama, change), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert model.device == CPU


# ---- files ---------------------------------------------------------------------------------------


def test_torn_file(llama: Path) -> None:
    file = llama / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    assert f"{file} is torn or not a safetensors file" in refusal(llama)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 pickled", b"\xff" * 64])
def test_file_of_another_format(content: bytes, llama: Path) -> None:
    (llama / "model.safetensors").write_bytes(content)
    assert "is torn or not a safetensors file" in refusal(llama)


def test_git_lfs_pointer(llama: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (llama / "model.safetensors").write_text(pointer)
    assert "git lfs pull" in refusal(llama)


def test_no_weights(llama: Path) -> None:
    (llama / "model.safetensors").unlink()
    message = refusal(llama)
    assert "neither model.safetensors nor model.safetensors.index.json" in message


def test_pickled_weights_are_not_read(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    assert "pickled weights" in refusal(llama)


def test_missing_shard(sharded: Path) -> None:
    shards = sorted(sharded.glob("model-*.safetensors"))
    shards[1].unlink()
    assert f"1 are missing: {shards[1].name}" in refusal(sharded)


def test_shard_that_lacks_its_tensors(sharded: Path) -> None:
    shards = sorted(sharded.glob("model-*.safetensors"))
    lost = next(iter(load_file(shards[0])))
    shards[0].write_bytes(shards[1].read_bytes())
    message = refusal(sharded)
    assert "not in their file" in message
    assert lost in message


@pytest.mark.parametrize("shard", ["../llama/model.safetensors", "/etc/passwd"])
def test_index_must_not_lead_out_of_its_directory(shard: str, sharded: Path, llama: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    fields = json.loads(index.read_text())
    fields["weight_map"]["model.norm.weight"] = shard
    index.write_text(json.dumps(fields))
    assert f"outside its directory: {shard!r}" in refusal(sharded)


def test_empty_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text("{}")
    assert "has no weight_map" in refusal(sharded)


# ---- context -------------------------------------------------------------------------------------


def test_context_is_bounded_when_loading(tmp_path: Path) -> None:
    directory = make_checkpoint("mistral", tmp_path, sliding_window=512)
    with pytest.raises(UnsupportedModelError, match="sliding window of 512"):
        load(directory)
    assert load(directory, max_model_len=512).max_model_len == 512
    with pytest.raises(ConfigError, match="4097"):
        load(directory, max_model_len=4097)


# ---- names ---------------------------------------------------------------------------------------


def test_local_directory(llama: Path) -> None:
    assert resolve_model(str(llama)) == llama


def test_demo_is_the_shipped_model_whatever_lies_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("demo") == WEIGHTS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{tmp}/nowhere", "no directory here, and no repository id"),
        ("./nowhere", "no directory here, and no repository id"),
        ("a/b/c", "no directory here, and no repository id"),
        ("", "no config.json|no directory here"),
        ("{tmp}/llama/config.json", "is a file"),
        ("{tmp}", "holds no config.json"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str, llama: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        resolve_model(name.format(tmp=tmp_path))


def in_cache(cache: Path, checkpoint: Path, commit: str = "0" * 40) -> Path:
    """Lay a checkpoint out as huggingface_hub's cache would, as org/tiny at branch main."""
    repository = cache / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.parent.mkdir()
    checkpoint.rename(snapshot)
    return snapshot


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_cached_repository_is_found_offline(llama: Path, tmp_path: Path) -> None:
    snapshot = in_cache(tmp_path / "cache", llama)
    assert resolve_model("org/tiny", cache_dir=tmp_path / "cache") == snapshot
    assert resolve_model("org/tiny", revision="0" * 40, cache_dir=tmp_path / "cache") == snapshot
    load(snapshot)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("revision", [None, "v2"])
def test_uncached_repository_offline(revision: str | None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        resolve_model("org/absent", revision=revision, cache_dir=tmp_path)
    assert "'org/absent'" in str(error.value)
    assert ("at revision 'v2'" in str(error.value)) == (revision is not None)
    assert "neither a directory here nor in huggingface_hub's cache" in str(error.value)


def test_download_takes_weights_and_tokenizer_and_nothing_else(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repository: str, **arguments: Any) -> str:
        asked.update(arguments, repository=repository)
        return str(llama)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_model("org/tiny", revision="main") == llama
    assert (asked["repository"], asked["revision"]) == ("org/tiny", "main")
    files = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer.model",
        "merges.txt",
        "chat_template.jinja",
        "README.md",
        "pytorch_model.bin",
        "consolidated.safetensors",
        "original/params.json",
        "onnx/config.json",
    ]
    wanted = filter_repo_objects(
        files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(wanted) == files[:7]


def test_repository_without_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(CheckpointError, match=r"'org/empty' holds no config\.json"):
        resolve_model("org/empty")
