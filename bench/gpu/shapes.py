"""The models that the suite runs: published shapes, random weights made on the device.

A model is a ``config.json`` as its publisher wrote it, as far as it says anything about shape and
meaning; it is written to a directory, so that radixserve and transformers read the very same file.
Weights are random, with the spread that keeps every layer's output near one. Queries and keys get
half as much again, since plain random ones attend to all tokens alike, and then a wrong page would
not show.
"""

import atexit
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from radixserve.model.causal_lm import CausalLM
from radixserve.model.config import ModelConfig
from radixserve.model.layout import WeightLayout, model_layout

_QWEN3: Mapping[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "attention_bias": False,
    "hidden_act": "silu",
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "dtype": "bfloat16",
}

_LLAMA3: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "attention_bias": False,
    "mlp_bias": False,
    "hidden_act": "silu",
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "dtype": "bfloat16",
}

_LLAMA3_ROPE: Mapping[str, Any] = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "qwen3-0.6b": {
        **_QWEN3,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b": {
        **_LLAMA3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
        "tie_word_embeddings": True,
        "rope_scaling": {**_LLAMA3_ROPE, "factor": 32.0},
    },
    "qwen3-8b": {
        **_QWEN3,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "llama-3.1-8b": {
        **_LLAMA3,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "head_dim": 128,
        "tie_word_embeddings": False,
        "rope_scaling": {**_LLAMA3_ROPE, "factor": 8.0},
    },
}

_TINY = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 300,
    "eos_token_id": 301,
}
"""What a dry run puts in place of the published sizes; family, rope and ties stay."""

QUERY_KEY_SPREAD = 1.5


def fields(name: str, *, tiny: bool = False, num_layers: int | None = None) -> dict[str, Any]:
    """The config of a model, whole, or ``tiny`` for a dry run, or with fewer layers."""
    config = dict(SHAPES[name])
    if tiny:
        config.update(_TINY)
    if num_layers is not None:
        config["num_hidden_layers"] = min(num_layers, config["num_hidden_layers"])
    return config


def write_config(config: Mapping[str, Any]) -> Path:
    """A directory that holds ``config.json`` and nothing else, for as long as this process runs."""
    directory = Path(tempfile.mkdtemp(prefix="radixserve-shape-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    return directory


def random_weights(
    config: ModelConfig, *, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Every tensor of the layout, made on the device. The same seed gives the same weights on the
    same kind of device and in the same dtype."""
    generator = torch.Generator(device).manual_seed(seed)
    return {
        weight.name: _random(weight, dtype, device, generator) for weight in model_layout(config)
    }


def _random(
    weight: WeightLayout, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> torch.Tensor:
    tensor = torch.empty(weight.shape, dtype=dtype, device=device)
    if len(weight.shape) == 1:
        is_norm = weight.name.endswith("norm")
        tensor.normal_(0.0, 0.1, generator=generator).add_(1.0 if is_norm else 0.0)
        if weight.name.endswith(("q_norm", "k_norm")):
            tensor.mul_(QUERY_KEY_SPREAD)
        return tensor
    tensor.normal_(0.0, weight.shape[-1] ** -0.5, generator=generator)
    row = 0
    for part in weight.parts:
        if ".q_proj." in part.name or ".k_proj." in part.name:
            tensor[row : row + part.shape[0]].mul_(QUERY_KEY_SPREAD)
        row += part.shape[0]
    return tensor


def in_float32(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same numbers, exactly."""
    return {name: tensor.float() for name, tensor in weights.items()}


def checkpoint_views(
    config: ModelConfig, weights: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights under the checkpoint's names: views of the model's fused tensors, no copy."""
    views = {}
    for weight in model_layout(config):
        row = 0
        for part in weight.parts:
            views[part.name] = weights[weight.name][row : row + part.shape[0]]
            row += part.shape[0]
    return views


def make_model(
    config: ModelConfig, weights: Mapping[str, torch.Tensor], max_model_len: int
) -> CausalLM:
    """The model over these weights, which are not copied."""
    return CausalLM(config, weights, max_model_len=config.resolve_max_model_len(max_model_len))


def read_bytes(config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> int:
    """Bytes of the weights that a decode step reads: all but an embedding that is no output layer,
    of which it reads a row a token."""
    total = sum(tensor.nbytes for tensor in weights.values())
    return total if config.tie_word_embeddings else total - weights["embed_tokens"].nbytes
