"""What a Qwen3-shaped model costs: its parameters, the bytes that a decode step must read, and the
operations of a prefill. Arithmetic only; no torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

KV_BYTES = 2
"""Of one number of the KV cache: bfloat16 or float16 in all engines."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a checkpoint."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int

    @classmethod
    def of(cls, checkpoint: Path) -> Self:
        """From the checkpoint's ``config.json``."""
        config = json.loads((checkpoint / "config.json").read_text())
        return cls(
            hidden=config["hidden_size"],
            inner=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            vocab=config["vocab_size"],
        )

    @property
    def inner_parameters(self) -> int:
        """All but the embedding table, which is the output matrix, too."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        norms = 2 * self.hidden + 2 * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.inner + norms) + self.hidden

    @property
    def num_parameters(self) -> int:
        return self.inner_parameters + self.vocab * self.hidden

    @property
    def kv_token_bytes(self) -> int:
        """Keys and values of one token, all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * KV_BYTES

    def decode_bytes(self, kv_tokens: float, parameter_bytes: float) -> float:
        """What a decode step must read at least: every parameter once (the embedding table is the
        output matrix) and the keys and values of so many tokens."""
        return self.num_parameters * parameter_bytes + kv_tokens * self.kv_token_bytes

    def prefill_operations(self, own: int, *, shared: int = 0, num_prompts: int = 1) -> int:
        """Additions and multiplications of a prefill from nothing, what prompts share computed
        once: two a parameter and token, without the embedding table, and causal attention's two
        products."""
        num_tokens = shared + num_prompts * own
        seen = _triangle(shared) + num_prompts * (own * shared + _triangle(own))
        attention = 4 * seen * self.heads * self.head_dim * self.layers
        return 2 * self.inner_parameters * num_tokens + attention


def _triangle(count: int) -> int:
    return count * (count + 1) // 2
