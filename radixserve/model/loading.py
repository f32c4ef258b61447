"""Weights from files into a model: check everything, then copy everything once.

    safetensors headers ──check against layout──▶ errors, all of them at once
    mapped files ──copy and convert, part by part──▶ fused tensors on the device ──▶ CausalLM
                                              on a CPU: ──LinearMaker, one by one──▶

Nothing is allocated before the check has passed. While loading, memory holds the model, on a CPU
one of its tensors twice, and whatever of the files the operating system cares to cache; each file
is read once.
"""

import logging
import re
from pathlib import Path
from typing import NoReturn

import torch
from tqdm.auto import tqdm

from radixserve.errors import CheckpointError, UnsupportedModelError
from radixserve.model.causal_lm import CausalLM
from radixserve.model.config import ModelConfig
from radixserve.model.layout import (
    EMBEDDING,
    LM_HEAD,
    Part,
    WeightLayout,
    model_layout,
    weight_bytes,
)
from radixserve.model.linear import Linear
from radixserve.model.linear_choice import NOT_QUANTISED, LinearMaker, check_quantization
from radixserve.model.tensor_files import TensorFiles, name_some

logger = logging.getLogger(__name__)

_FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})

# Old checkpoints store the rotary frequencies, which the config determines.
_HARMLESS_LEFTOVER = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")


def load_model(
    directory: Path,
    config: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    max_model_len: int | None = None,
    quantization: str = NOT_QUANTISED,
    spare_bytes: int = 0,
    compiled: bool = False,
    progress: bool = True,
) -> CausalLM:
    """Load a checkpoint's weights, converted to ``dtype``, onto ``device``.

    ``max_model_len`` bounds the positions that the model will be given; None means what the
    checkpoint states. ``quantization``: "none", or on a CPU "int8" or "int4". ``compiled``:
    products on a CPU may be kernels that are compiled as they are needed. ``spare_bytes``: without
    them, what a second copy of tied embeddings may take on a CPU, for faster logits: look-ups need
    the plain table, the product is two to three times as fast with a packed one. ``progress`` draws
    a bar on stderr if that is a terminal.

    *Raises* ``CheckpointError`` naming the tensors that are missing, left over or misshaped, or the
    file that is torn; ``UnsupportedModelError`` for quantised tensors and for a context that the
    model's sliding window does not cover; ``ConfigError`` for one that its positions do not, and
    for a quantisation that there is not for this device and type.
    *Cost*: reads every file once; on a CPU also what ``linear_choice.py`` measures and packs or
    quantises (its docstring has figures).
    """
    length = config.resolve_max_model_len(max_model_len)
    check_quantization(quantization, dtype, device)
    files = TensorFiles(directory)
    check_tensors(files, config)
    layout = model_layout(config)
    maker = LinearMaker(dtype, quantization, compiled=compiled) if device.type == "cpu" else None
    weights: dict[str, torch.Tensor] = {}
    linears: dict[str, Linear] = {}
    with tqdm(
        total=weight_bytes(config, dtype.itemsize),
        desc="Loading weights",
        unit="B",
        unit_scale=True,
        # None: draw only on a terminal.
        disable=None if progress else True,
    ) as bar:
        for weight in layout:
            target = _read(files, weight, dtype, device, bar)
            if maker is None or len(weight.shape) == 1 or weight.name == "embed_tokens":
                weights[weight.name] = target
                continue
            # The layout has the bias before its weight.
            bias = weights.pop(f"{weight.name.removesuffix('.weight')}.bias", None)
            linears[weight.name] = maker.make(target, bias, is_head=weight.name == "lm_head")
    if maker is not None:
        table = weights["embed_tokens"]
        # A compiled product reads the table itself.
        is_free = compiled or quantization != NOT_QUANTISED
        if config.tie_word_embeddings and (is_free or table.nbytes <= spare_bytes):
            linears["lm_head"] = maker.make(table, is_head=True, is_shared=True)
        elif config.tie_word_embeddings:
            logger.info(
                "tied embeddings are not packed: %.2f GiB more exceed the %.2f that are spare",
                table.nbytes / 2**30,
                spare_bytes / 2**30,
            )
        maker.log()
    return CausalLM(
        config, weights, max_model_len=length, linears=linears, quantization=quantization
    )


def _read(
    files: TensorFiles,
    weight: WeightLayout,
    dtype: torch.dtype,
    device: torch.device,
    bar: "tqdm[NoReturn]",
) -> torch.Tensor:
    """One tensor of the model from its parts. *Mutates* ``bar``."""
    target = torch.empty(weight.shape, dtype=dtype, device=device)
    row = 0
    for part in weight.parts:
        source = files.read(part.name)
        if source.dtype != dtype:
            # Convert there: a GPU is faster at it.
            source = source.to(device)
        target[row : row + part.shape[0]].copy_(source)
        row += part.shape[0]
        bar.update(part.num_elements * dtype.itemsize)
    return target


def check_tensors(files: TensorFiles, config: ModelConfig) -> None:
    """Compare what the files hold with what the config asks for.

    *Raises* ``CheckpointError`` naming every kind of disagreement, ``UnsupportedModelError`` for
    tensors of a type that only quantised checkpoints have.
    """
    expected = {part.name: part for weight in model_layout(config) for part in weight.parts}
    stored = files.tensors
    quantised = [
        f"{name} ({stored[name].dtype})"
        for name in expected
        if name in stored and stored[name].dtype not in _FLOAT_DTYPES
    ]
    if quantised:
        raise UnsupportedModelError(
            f"{files.directory}: quantised weights are not supported: {name_some(quantised)}; "
            "use the checkpoint's original in bfloat16, float16 or float32"
        )
    complaints = [
        f"{len(names)} tensors {what}: {name_some(names)}"
        for what, names in (
            ("missing", [name for name in expected if name not in stored]),
            ("left over", _left_over(files, expected, config)),
            ("misshaped", _misshaped(files, expected)),
        )
        if names
    ]
    if complaints:
        raise CheckpointError(
            f"{files.directory} does not fit its own config.json "
            f"({config.architecture}): {'; '.join(complaints)}"
        )


def _left_over(files: TensorFiles, expected: dict[str, Part], config: ModelConfig) -> list[str]:
    names = [
        name
        for name in files.tensors
        if name not in expected and not _HARMLESS_LEFTOVER.fullmatch(name)
    ]
    # Some tied checkpoints store the shared matrix twice. A second one that differs is not it.
    if config.tie_word_embeddings and LM_HEAD in names and EMBEDDING in files.tensors:
        embedding = files.read(EMBEDDING)
        if torch.equal(files.read(LM_HEAD).to(embedding.dtype), embedding):
            names.remove(LM_HEAD)
        else:
            names[names.index(LM_HEAD)] = f"{LM_HEAD} (differs from the embedding it is tied to)"
    return sorted(names)


def _misshaped(files: TensorFiles, expected: dict[str, Part]) -> list[str]:
    return [
        f"{name} (expected {list(part.shape)}, found {list(files.tensors[name].shape)})"
        for name, part in expected.items()
        if name in files.tensors and files.tensors[name].shape != part.shape
    ]
