"""A checkpoint for tests and benchmarks: seeded noise in the shape of a small Qwen3.

It has learnt nothing, is made in a tenth of a second, and answers every prompt at some length. Its
weights are random, but for two things that make its words text, both in the weights and nowhere
else:

- Channel 0 of the residual stream holds a constant that no layer reads or writes, so column 0 of
  the output matrix is a bias per token. The bias is the logarithm of how often a character occurs
  in English, which keeps to printable ASCII, and of how often an answer ends: every 60 tokens.
- The rest of the output matrix is small enough to leave those odds recognisable, and large enough
  that the context decides which token is likeliest.

The files' bytes depend on nothing but this module: random bits come from PCG64, whose stream numpy
guarantees, and become floats by exact arithmetic.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from support.byte_tokenizer import (
    BOS_ID,
    ENDOFTEXT_ID,
    IM_END_ID,
    VOCAB_SIZE,
    write_byte_tokenizer,
)

_SEED = 20240607
_HIDDEN = 128
_INTERMEDIATE = 256
_LAYERS = 4
_HEADS = 4
_KV_HEADS = 2
_HEAD_DIM = 32

_CONSTANT = 8.0
"""What channel 0 holds."""
_CONSTANT_AT_OUTPUT = 3.7
"""What is left of it behind the last norm, on average (measured)."""
_NOISE = 1.5
"""Standard deviation of what the context adds to a logit."""
_TOKENS_PER_ANSWER = 60

_OFTEN = {
    " ": 170,
    **dict(zip("etaoinshrdl", (102, 73, 65, 61, 57, 57, 51, 49, 48, 34, 32), strict=True)),
    **dict(zip("cumwfgypbvk", (22, 22, 20, 19, 18, 16, 16, 15, 12, 8, 6), strict=True)),
    **dict(zip("jxqz", (2, 2, 1, 1), strict=True)),
    **dict(zip(".,'\n-?!\"", (9, 9, 2, 4, 2, 1, 1, 1), strict=True)),
}
"""Per thousand characters of English text."""
_SELDOM = 0.05
"""Weight of every other printable character."""

Weights = dict[str, npt.NDArray[np.float32]]


def write_noise_model(directory: str | Path) -> None:
    """Write the checkpoint into an existing directory. *Cost*: about 0.1 s."""
    directory = Path(directory)
    _write_json(directory / "config.json", _config())
    _write_json(
        directory / "generation_config.json",
        {
            "bos_token_id": BOS_ID,
            "eos_token_id": [IM_END_ID, ENDOFTEXT_ID],
            "do_sample": True,
            "temperature": 0.9,
        },
    )
    write_byte_tokenizer(directory)
    save_file(_weights(), directory / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _config() -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BOS_ID,
        "eos_token_id": IM_END_ID,
        "head_dim": _HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": _HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": _INTERMEDIATE,
        "max_position_embeddings": 8192,
        "num_attention_heads": _HEADS,
        "num_hidden_layers": _LAYERS,
        "num_key_value_heads": _KV_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCAB_SIZE,
    }


def _weights() -> Weights:
    bits = np.random.PCG64(_SEED)

    def noise(rows: int, columns: int, std: float) -> npt.NDArray[np.float32]:
        """Uniform noise, float32[rows, columns], of zero mean and the given standard deviation."""
        raw = bits.random_raw(rows * columns)
        # 24 bits fit a float32's mantissa, so every step up to the scaling is exact.
        centred = (raw >> np.uint64(40)).astype(np.float32) - np.float32(2**23)
        scaled = centred * np.float32(math.sqrt(3) * std / 2**23)
        return scaled.reshape(rows, columns)

    # The noise that comes out of a matrix has the variance of what goes in, times the columns' sum.
    unit = 1 / math.sqrt(_HIDDEN)
    embedding = noise(VOCAB_SIZE, _HIDDEN, 1.0)
    embedding[:, 0] = _CONSTANT
    output = noise(VOCAB_SIZE, _HIDDEN, _NOISE * unit)
    output[:, 0] = _bias() / _CONSTANT_AT_OUTPUT
    weights: Weights = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": np.ones(_HIDDEN, np.float32),
        "lm_head.weight": output,
    }
    blind = np.ones(_HIDDEN, np.float32)
    blind[0] = 0.0
    for layer in range(_LAYERS):
        tensors = {
            "input_layernorm": blind,
            "self_attn.q_proj": noise(_HEADS * _HEAD_DIM, _HIDDEN, unit),
            "self_attn.k_proj": noise(_KV_HEADS * _HEAD_DIM, _HIDDEN, unit),
            "self_attn.v_proj": noise(_KV_HEADS * _HEAD_DIM, _HIDDEN, unit),
            "self_attn.o_proj": noise(_HIDDEN, _HEADS * _HEAD_DIM, unit),
            "self_attn.q_norm": np.full(_HEAD_DIM, 2.0, np.float32),
            "self_attn.k_norm": np.full(_HEAD_DIM, 1.0, np.float32),
            "post_attention_layernorm": blind,
            "mlp.gate_proj": noise(_INTERMEDIATE, _HIDDEN, unit),
            "mlp.up_proj": noise(_INTERMEDIATE, _HIDDEN, unit),
            "mlp.down_proj": noise(_HIDDEN, _INTERMEDIATE, unit),
        }
        tensors["self_attn.o_proj"][0] = 0.0
        tensors["mlp.down_proj"][0] = 0.0
        for name, tensor in tensors.items():
            weights[f"model.layers.{layer}.{name}.weight"] = tensor
    return weights


def _bias() -> npt.NDArray[np.float32]:
    """Logarithm of each token's odds, float32[VOCAB_SIZE]; out of reach for what is not text."""
    odds = {ord(char): _SELDOM for char in map(chr, range(0x20, 0x7F))}
    odds |= {ord(char): float(weight) for char, weight in _OFTEN.items()}
    odds[IM_END_ID] = sum(odds.values()) / _TOKENS_PER_ANSWER
    bias = np.full(VOCAB_SIZE, -20.0, np.float32)
    for token_id, weight in odds.items():
        # Rounded to 1/64, so that no mathematics library's last digit can change the file.
        bias[token_id] = round(64 * math.log(weight)) / 64
    return bias
