"""The bench's checkpoint as a GGUF file, for llama.cpp: the same weights, bit for bit.

Runs in llama.cpp's Python: needs numpy and ``gguf`` there, knows neither torch nor safetensors'
package. Matrices stay bfloat16, norms become float32 (llama.cpp wants vectors so; exact). Prompts
go in as token ids, so the tokenizer is a stand-in: ids 0 to 255 are the bytes, as in the
checkpoint's own, and no two tokens ever merge. Hence its server, which takes text only, sees the
same ids for the same characters.
"""

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ARCHITECTURE = "qwen3"
NUM_BYTES = 256

_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OUTER_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}


def gguf_name(name: str) -> str:
    """What llama.cpp calls a tensor of the checkpoint. *Raises* ``ValueError`` if it has no name
    for it."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER_NAMES:
        return f"{_OUTER_NAMES[stem]}.{kind}"
    if stem.startswith("model.layers."):
        layer, _, inner = stem.removeprefix("model.layers.").partition(".")
        if inner in _LAYER_NAMES:
            return f"blk.{layer}.{_LAYER_NAMES[inner]}.{kind}"
    raise ValueError(f"a Qwen3 checkpoint has no tensor {name}")


def settings(config: Mapping[str, Any]) -> dict[str, int | float]:
    """GGUF's keys of the architecture, from the checkpoint's ``config.json``."""
    theta = (config.get("rope_parameters") or config).get("rope_theta", 10000.0)
    return {
        "block_count": int(config["num_hidden_layers"]),
        "context_length": int(config["max_position_embeddings"]),
        "embedding_length": int(config["hidden_size"]),
        "feed_forward_length": int(config["intermediate_size"]),
        "attention.head_count": int(config["num_attention_heads"]),
        "attention.head_count_kv": int(config["num_key_value_heads"]),
        "attention.key_length": int(config["head_dim"]),
        "attention.value_length": int(config["head_dim"]),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(theta),
        "vocab_size": int(config["vocab_size"]),
    }


def byte_characters() -> list[str]:
    """The printable stand-ins of the 256 bytes in byte-level BPE: printable Latin-1 stands for
    itself, the others follow from U+0100.

    *Source*: GPT-2's ``bytes_to_unicode``; https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    itself = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(NUM_BYTES) if byte not in itself)
    moved = {byte: NUM_BYTES + place for place, byte in enumerate(others)}
    return [chr(moved.get(byte, byte)) for byte in range(NUM_BYTES)]


def tensors(checkpoint: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Name and bits, ``uint16`` in the tensor's shape, of every bfloat16 tensor.

    *Raises* ``ValueError`` for another type. *Cost*: maps the file, reads nothing yet.
    *Source*: https://github.com/huggingface/safetensors#format
    """
    for path in sorted(checkpoint.glob("*.safetensors")):
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(header_bytes))
        data = np.memmap(path, np.uint8, mode="r", offset=8 + header_bytes)
        for name, about in header.items():
            if name == "__metadata__":
                continue
            if about["dtype"] != "BF16":
                raise ValueError(f"expected BF16 tensors, got {name} in {about['dtype']}")
            begin, end = about["data_offsets"]
            yield name, np.asarray(data[begin:end]).view(np.uint16).reshape(about["shape"])


def write_gguf(checkpoint: Path, target: Path) -> None:
    """Write ``target`` from the checkpoint's directory; it is there whole or not at all.

    *Raises* ``ImportError`` without the package ``gguf``. *Cost*: reads and writes all weights.
    """
    gguf = importlib.import_module("gguf")
    config = json.loads((checkpoint / "config.json").read_text())
    partial = target.with_suffix(f".{os.getpid()}")
    writer = gguf.GGUFWriter(partial, ARCHITECTURE)
    for key, value in settings(config).items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{ARCHITECTURE}.{key}", value)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    _add_tokenizer(writer, gguf, int(config["vocab_size"]))
    for name, bits in tensors(checkpoint):
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(gguf_name(name), bits.view(np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(target)


def _add_tokenizer(writer: Any, gguf: Any, vocab_size: int) -> None:
    tokens = byte_characters()
    # llama.cpp insists on a list of merges. The one there is joins two NUL bytes, which no prompt
    # of the bench has.
    nul = tokens[0]
    tokens += ["<begin>", "<end>", nul + nul]
    kinds = [gguf.TokenType.NORMAL] * len(tokens)
    kinds[NUM_BYTES] = kinds[NUM_BYTES + 1] = gguf.TokenType.CONTROL
    unused = [f"<unused {token}>" for token in range(len(tokens), vocab_size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + unused)
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * len(unused))
    writer.add_token_merges([f"{nul} {nul}"])
    writer.add_bos_token_id(NUM_BYTES)
    writer.add_eos_token_id(NUM_BYTES + 1)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
