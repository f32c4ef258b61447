"""Llama 2 and 3: the skeleton itself, with biases where the config asks for them."""

from radixserve.model.family import Family, Traits, refuse_sliding_layers
from radixserve.model.json_config import JsonConfig


def _read_traits(config: JsonConfig) -> Traits:
    refuse_sliding_layers(config)
    attention_bias = config.flag("attention_bias", default=False)
    return Traits(
        qkv_bias=attention_bias,
        o_bias=attention_bias,
        mlp_bias=config.flag("mlp_bias", default=False),
    )


LLAMA = Family(
    architecture="LlamaForCausalLM",
    read_traits=_read_traits,
    defaults={"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2},
)
