"""Qwen3 (dense): Llama with a norm on every query and key head, and a head size of its own."""

from radixserve.model.family import Family, Traits, qwen_sliding_window
from radixserve.model.json_config import JsonConfig


def _read_traits(config: JsonConfig) -> Traits:
    attention_bias = config.flag("attention_bias", default=False)
    num_layers = config.integer("num_hidden_layers")
    return Traits(
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        qk_norm=True,
        sliding_window=qwen_sliding_window(config, num_layers=num_layers),
    )


QWEN3 = Family(
    architecture="Qwen3ForCausalLM",
    read_traits=_read_traits,
    defaults={"num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768},
)
