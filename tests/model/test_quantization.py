"""A model in 8 and in 4 bits: how far its logits move, and what loading makes of the weights."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from radixserve.errors import ConfigError
from radixserve.model import loading
from radixserve.model.causal_lm import CausalLM
from radixserve.model.config import ModelConfig
from radixserve.model.linear import Linear
from radixserve.model.linear_choice import LinearMaker
from radixserve.model.loading import load_model
from radixserve.model.torch_ops import TorchOps
from tests.support.batches import DenseAttention, make_batch, make_kv
from tests.support.checkpoints import make_checkpoint

CPU = torch.device("cpu")
OFF = {"int8": 0.06, "int4": 0.6}
"""How far logits may be off, as a share of their spread (root mean square). Measured, by family:
0.028 to 0.040 and 0.34 to 0.48 in float32, to 0.048 in bfloat16, where rounding alone makes 0.018
to 0.025. A product is off by 0.008 and 0.08 of its spread; a tiny random model with its large
logits makes four times as much of it."""


def load(directory: Path, quantization: str = "none", **arguments: Any) -> CausalLM:
    return load_model(
        directory,
        ModelConfig.from_dir(directory),
        **{"dtype": torch.float32, "device": CPU, "quantization": quantization, **arguments},
    )


@torch.inference_mode()
def logits(model: CausalLM, count: int = 48) -> torch.Tensor:
    token_ids = torch.randint(0, 320, (count,), generator=torch.Generator().manual_seed(7))
    shape = model.attention_shape(8)
    batch, num_pages = make_batch([token_ids.tolist()], page_size=8)
    kv = make_kv(model.config.num_layers, num_pages, shape, dtype=model.dtype)
    return model.forward(batch, kv, DenseAttention(shape), TorchOps()).float()


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).square().mean().sqrt() / expected.std())


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_stay_close(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    # All but the head fit 4 bits.
    directory = make_checkpoint(kind, tmp_path, intermediate_size=128)
    expected = logits(load(directory))
    found = {
        name: off(logits(load(directory, name, dtype=dtype, compiled=True)), expected)
        for name in OFF
    }
    assert 0 < found["int8"] < OFF["int8"]
    assert found["int8"] < found["int4"] < OFF["int4"]


def test_one_row_at_a_time_is_the_same_model(tmp_path: Path) -> None:
    """Few rows and many take different ways (``linear_int8.py``)."""
    directory = make_checkpoint("llama", tmp_path, intermediate_size=128)
    for name in OFF:
        model = load(directory, name, compiled=True)
        few, many = logits(model, 8), logits(model, 48)[:8]
        assert 0 < float((few - many).abs().max()) < 1e-4 * float(many.std())


def made_by(
    monkeypatch: pytest.MonkeyPatch, *, is_tied: bool
) -> list[tuple[torch.Size, bool, bool]]:
    """Of every product that is made from now on: shape, whether it has a bias, is the head."""
    made = []

    class Watched(LinearMaker):
        def make(
            self,
            weight: torch.Tensor,
            bias: torch.Tensor | None = None,
            *,
            is_head: bool = False,
            is_shared: bool = False,
        ) -> Linear:
            made.append((weight.shape, bias is not None, is_head))
            # Only embeddings are used by look-ups too.
            assert is_shared == (is_head and is_tied)
            return super().make(weight, bias, is_head=is_head, is_shared=is_shared)

    monkeypatch.setattr(loading, "LinearMaker", Watched)
    return made


def test_every_product_is_made_with_its_bias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_checkpoint("qwen2", tmp_path, tie_word_embeddings=False)
    made = made_by(monkeypatch, is_tied=False)
    load(directory)
    layer = [((128, 64), True), ((64, 64), False), ((192, 64), False), ((64, 96), False)]
    assert made == [(*each, False) for each in layer * 2] + [((320, 64), False, True)]


@pytest.mark.parametrize(
    ("quantization", "compiled", "spare_bytes", "is_made"),
    [
        ("none", False, 320 * 64 * 4, True),
        ("none", False, 320 * 64 * 4 - 1, False),
        ("none", True, 0, True),
        ("int8", False, 0, True),
    ],
)
def test_tied_embeddings_get_a_product_of_their_own_where_memory_allows(
    quantization: str,
    compiled: bool,
    spare_bytes: int,
    is_made: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory = make_checkpoint("qwen3", tmp_path, tie_word_embeddings=True)
    made = made_by(monkeypatch, is_tied=True)
    with caplog.at_level(logging.INFO):
        model = load(directory, quantization, compiled=compiled, spare_bytes=spare_bytes)
    assert ((320, 64), False, True) in made or not is_made
    assert sum(is_head for _, _, is_head in made) == is_made
    assert ("embeddings are not packed" in caplog.text) == (not is_made)
    assert model.quantization == quantization


def test_quantisation_is_refused_before_the_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_checkpoint("llama", tmp_path)
    monkeypatch.delattr(loading, "TensorFiles")
    with pytest.raises(ConfigError, match="set dtype to one of them"):
        load(directory, "int8", dtype=torch.float16)
