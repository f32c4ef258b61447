"""Tiny random checkpoints, written by transformers itself, for tests that need a real one.

    path = make_checkpoint("qwen3", tmp_path / "qwen3", seed=1, num_hidden_layers=3)

Every parameter is random, norm weights and biases included, so that a swapped, skipped or
transposed tensor changes the logits. The scale of the logits is stated (``logits_std``), because
tests of exact token equality need the two best logits to lie well apart. A checkpoint takes about
20 ms and 0.5 MB. No tokenizer is written unless the caller passes a function that does.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

BOS_TOKEN_ID = 256
EOS_TOKEN_ID = 257

_COMMON: Mapping[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": BOS_TOKEN_ID,
    "eos_token_id": EOS_TOKEN_ID,
    "pad_token_id": None,
}

# The original lengths are far below max_position_embeddings, and the frequency bands of llama3 and
# yarn lie inside head_dim = 16, so that scaled rope differs from plain rope at every position.
_KINDS: Mapping[str, tuple[Any, Any, Mapping[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "llama3_rope": (
        LlamaConfig,
        LlamaForCausalLM,
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            }
        },
    ),
    "llama_yarn": (
        LlamaConfig,
        LlamaForCausalLM,
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 512,
            }
        },
    ),
    "llama_linear": (
        LlamaConfig,
        LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama_dynamic": (
        LlamaConfig,
        LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "mistral": (
        MistralConfig,
        MistralForCausalLM,
        {"sliding_window": None, "num_hidden_layers": 3, "head_dim": 32},
    ),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (
        Qwen3Config,
        Qwen3ForCausalLM,
        {"tie_word_embeddings": True, "head_dim": 32, "num_hidden_layers": 3},
    ),
}

KINDS: tuple[str, ...] = tuple(_KINDS)


def make_checkpoint(
    kind: str,
    directory: Path,
    *,
    seed: int = 0,
    logits_std: float = 8.0,
    max_shard_size: str = "1GB",
    generation: Mapping[str, Any] | None = None,
    add_tokenizer: Callable[[Path], object] | None = None,
    **overrides: Any,
) -> Path:
    """Write a random float32 checkpoint of one of ``KINDS`` and return its directory.

    ``overrides`` are fields of the transformers config. ``logits_std`` is the rough spread of the
    logits: 8 keeps the best two apart for greedy tests, 1 to 2 leaves entropy for sampling tests.
    ``generation`` are further fields of ``generation_config.json`` (temperature, top_k, ...), whose
    end-of-sequence id is the config's. ``add_tokenizer(directory)`` may write a tokenizer.
    """
    config_class, model_class, own = _KINDS[kind]
    config = config_class(**{**_COMMON, **own, **overrides})
    model = model_class(config).to(torch.float32)
    randomize(model, seed=seed, logits_std=logits_std)
    fields = {"bos_token_id": config.bos_token_id, "eos_token_id": config.eos_token_id}
    model.generation_config = GenerationConfig(**{**fields, **(generation or {})})
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    if add_tokenizer is not None:
        add_tokenizer(directory)
    return directory


def randomize(model: torch.nn.Module, *, seed: int, logits_std: float) -> None:
    """Fill every parameter from a seeded generator. *Mutates* ``model``."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1.0 + 0.2 * noise)
            elif name.endswith(".bias"):
                parameter.copy_(0.3 * noise)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.copy_(noise * (logits_std / math.sqrt(parameter.shape[1])))
            else:
                # A gain above 1 lets the layers, not the last token's embedding, choose the answer.
                parameter.copy_(noise * (2.0 / math.sqrt(parameter.shape[1])))


def load_reference(directory: Path) -> Any:
    """The same checkpoint as transformers runs it: float32, on the CPU, in evaluation mode."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 (slow, and not always wanted)

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
