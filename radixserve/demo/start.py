"""What a training may begin with: an exported checkpoint, as ``export.py`` has written it.

Its weights are in bfloat16, and no optimizer's moments are kept with them: such a training is a new
one, which begins with what another has learnt. It keeps the tokenizer that this was learnt with.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from tokenizers import Tokenizer

from radixserve.demo.export import config, weights
from radixserve.demo.network import Network, Shape
from radixserve.demo.tokenizer import SPECIAL_TOKENS, load_tokenizer
from radixserve.errors import CheckpointError

_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_positions": "max_position_embeddings",
}
"""What a ``Shape``'s sizes are called in ``config.json``."""


@dataclass(frozen=True, slots=True)
class Start:
    """A trained network and its tokenizer."""

    network: Network
    tokenizer: Tokenizer
    sha256: str
    """Of its ``model.safetensors``, hexadecimal: which weights these are."""


def read_start(directory: Path) -> Start:
    """Read an exported checkpoint. *Raises* ``CheckpointError`` if it is not a whole one."""
    network = Network(_shape(directory / "config.json"))
    sha256 = _fill(network, directory / "model.safetensors")
    return Start(network, _tokenizer(directory, network.shape), sha256)


def _shape(path: Path) -> Shape:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        sizes = {name: found[key] for name, key in _SIZES.items()}
        if not all(type(size) is int and size > 0 for size in sizes.values()):
            raise ValueError(f"{sizes} should be positive integers")
        shape = Shape(**sizes, rope_theta=found["rope_theta"], norm_eps=found["rms_norm_eps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is not the config of a trained demo model: {error!r}; give the directory of "
            "one"
        ) from error
    ours = config(shape)
    other = sorted(key for key in found | ours if found.get(key) != ours.get(key))
    if other:
        raise CheckpointError(
            f"{path} has another {', '.join(other)} than a training writes; give a checkpoint that "
            "radixserve.demo.train has written"
        )
    return shape


def _fill(network: Network, path: Path) -> str:
    """Copy the file's weights into the network; returns the file's SHA-256."""
    try:
        content = path.read_bytes()
        found = load(content)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}; give the directory of a trained demo model"
        ) from error
    # Views of the network's own parameters.
    wanted = weights(network)
    shapes = {name: tensor.shape for name, tensor in wanted.items()}
    other = sorted(
        name
        for name in {*shapes, *found}
        if name not in found
        or found[name].shape != shapes.get(name)
        or found[name].dtype != torch.bfloat16
    )
    if other:
        raise CheckpointError(
            f"{path} and its config.json differ in {len(other)} tensors (by name, shape or for not "
            f"being bfloat16), such as {other[0]}; give a checkpoint that is whole"
        )
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])
    return hashlib.sha256(content).hexdigest()


def _tokenizer(directory: Path, shape: Shape) -> Tokenizer:
    try:
        tokenizer = load_tokenizer(directory)
    except Exception as error:  # What the library raises is an Exception and nothing more.
        raise CheckpointError(
            f"the tokenizer of {directory} cannot be read: {error}; give the directory of a "
            "trained demo model"
        ) from error
    if tokenizer.get_vocab_size() != shape.vocab_size:
        raise CheckpointError(
            f"the tokenizer of {directory} has {tokenizer.get_vocab_size()} tokens and the model "
            f"{shape.vocab_size}; give a checkpoint that is whole"
        )
    if [tokenizer.id_to_token(id_) for id_ in range(len(SPECIAL_TOKENS))] != [*SPECIAL_TOKENS]:
        raise CheckpointError(
            f"the tokenizer of {directory} does not begin with {', '.join(SPECIAL_TOKENS)}; give a "
            "checkpoint that radixserve.demo.train has written"
        )
    return tokenizer
