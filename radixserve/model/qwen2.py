"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values."""

from radixserve.model.family import Family, Traits, qwen_sliding_window
from radixserve.model.json_config import JsonConfig


def _read_traits(config: JsonConfig) -> Traits:
    num_layers = config.integer("num_hidden_layers")
    return Traits(qkv_bias=True, sliding_window=qwen_sliding_window(config, num_layers=num_layers))


QWEN2 = Family(
    architecture="Qwen2ForCausalLM",
    read_traits=_read_traits,
    defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768},
)
