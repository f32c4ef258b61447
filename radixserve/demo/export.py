"""The trained network as an ordinary Hugging Face checkpoint, in bfloat16.

What any library calls a Qwen3: joined products are taken apart and everything has its usual name.
The directory appears file by file, each whole; ``model.safetensors`` comes last.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from radixserve.demo.network import Network, Shape
from radixserve.demo.optimizer import parts
from radixserve.demo.tokenizer import ENDOFTEXT_ID, IM_END_ID, PAD_ID, save_tokenizer

_NAMES = {
    "attention_norm": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "q_norm": ("self_attn.q_norm",),
    "k_norm": ("self_attn.k_norm",),
    "output": ("self_attn.o_proj",),
    "mlp_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""What a layer's parameters are called elsewhere, in the order in which they are joined."""


def export(network: Network, tokenizer: Tokenizer, directory: Path) -> None:
    """Write the checkpoint into an existing directory."""
    save_tokenizer(tokenizer, directory)
    _write_json(directory / "config.json", config(network.shape))
    _write_json(
        directory / "generation_config.json",
        {
            "eos_token_id": [IM_END_ID, ENDOFTEXT_ID],
            "pad_token_id": PAD_ID,
            # Its answers are read from the text: the likeliest token is meant. Said in this way
            # because servers take the numbers and not the mode.
            "do_sample": True,
            "top_k": 1,
        },
    )
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights(network).items()
    }
    building = directory / "model.safetensors.new"
    save_file(tensors, building, metadata={"format": "pt"})
    building.replace(directory / "model.safetensors")


def weights(network: Network) -> dict[str, Tensor]:
    """Every weight by its usual name, float32; of a network on the CPU, views of its own."""
    found = {
        "model.embed_tokens.weight": network.embedding.detach().cpu(),
        "model.norm.weight": network.norm.detach().cpu(),
    }
    for index, layer in enumerate(network.layers):
        for name, parameter in layer.named_parameters():
            matrices = parts(name, parameter.detach().cpu(), network.shape)
            for usual, matrix in zip(_NAMES[name], matrices, strict=True):
                found[f"model.layers.{index}.{usual}.weight"] = matrix
    return found


def config(shape: Shape) -> dict[str, Any]:
    """``config.json``'s entries."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": IM_END_ID,
        "pad_token_id": PAD_ID,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_positions,
        "num_attention_heads": shape.num_heads,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "rms_norm_eps": shape.norm_eps,
        "rope_scaling": None,
        "rope_theta": shape.rope_theta,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": shape.vocab_size,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
