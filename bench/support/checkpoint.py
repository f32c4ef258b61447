"""The model that the benchmarks run: Qwen3-shaped, 88M parameters, random weights.

Written by transformers, so that it and radixserve load the very same files. Kept in the system's
temporary directory between runs; made anew if the recipe changes.
"""

import tempfile
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from radixserve.demo import write_byte_tokenizer

VOCAB_SIZE = 16384

_RECIPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def bench_checkpoint() -> Path:
    """The checkpoint's directory, made in about three seconds if it is not there yet."""
    directory = Path(tempfile.gettempdir()) / "radixserve-bench-88m-v1"
    done = directory / "done"
    if not done.exists():
        torch.manual_seed(0)
        config = Qwen3Config(**_RECIPE, dtype=torch.bfloat16, bos_token_id=256, eos_token_id=257)
        Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
        write_byte_tokenizer(directory)
        done.touch()
    return directory
