"""The models that the benchmarks run: Qwen3-shaped, 88M or 500M parameters, random weights.

Written by transformers, so that it and radixserve load the very same files. Kept in the system's
temporary directory between runs: whoever changes the recipe gives its name another version.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from support.byte_tokenizer import write_byte_tokenizer

VOCAB_SIZE = 16384
"""Of the smallest model: its token ids are some of every model's."""

SIZES: dict[str, dict[str, Any]] = {
    "88m": {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    "500m": {
        "vocab_size": 32768,
        "hidden_size": 1280,
        "intermediate_size": 3840,
        "num_hidden_layers": 24,
        "num_attention_heads": 20,
        "num_key_value_heads": 5,
    },
}
"""What sets each model apart, by its name."""

_RECIPE = {"head_dim": 64, "max_position_embeddings": 8192, "tie_word_embeddings": True}


def bench_checkpoint(size: str = "88m") -> Path:
    """The checkpoint's directory, made in some seconds if it is not there yet."""
    directory = Path(tempfile.gettempdir()) / f"radixserve-bench-{size}-v1"
    done = directory / "done"
    if not done.exists():
        torch.manual_seed(0)
        config = Qwen3Config(
            **SIZES[size], **_RECIPE, dtype=torch.bfloat16, bos_token_id=256, eos_token_id=257
        )
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
        write_byte_tokenizer(directory)
        done.touch()
    return directory
