"""Mistral: Llama without biases, and with a window that every layer slides over the context."""

from radixserve.errors import UnsupportedModelError
from radixserve.model.family import Family, Traits, layer_kinds
from radixserve.model.json_config import JsonConfig


def _read_traits(config: JsonConfig) -> Traits:
    # transformers, too, applies the window to every layer whatever layer_types says, so a mixture
    # belongs to another architecture.
    if len(layer_kinds(config)) > 1:
        raise UnsupportedModelError(
            f"{config.source}: layer_types mixes {', '.join(sorted(layer_kinds(config)))}; "
            "MistralForCausalLM has one kind of layer"
        )
    if "sliding_window" in config and config.get("sliding_window") is None:
        return Traits(sliding_window=None)
    return Traits(sliding_window=config.integer("sliding_window", 4096))


MISTRAL = Family(
    architecture="MistralForCausalLM",
    read_traits=_read_traits,
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
