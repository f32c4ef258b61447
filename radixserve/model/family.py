"""What tells one model family from another, as data.

The families here share one skeleton: pre-norm decoder layers with grouped-query attention, rotary
positions and a gated SiLU feed-forward. They differ in a few traits, which each family's file reads
from the checkpoint's config, and in what an absent config field means. A family whose layers need
another skeleton gets layers of its own, not another trait.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from radixserve.errors import CheckpointError, UnsupportedModelError
from radixserve.model.json_config import JsonConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """How a family's layers depart from the skeleton."""

    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    """Normalise every head of queries and keys before rotating them."""
    sliding_window: int | None = None
    """Tokens, itself included, that a token of any layer sees; None: all before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture name and how its config is read."""

    architecture: str
    read_traits: Callable[[JsonConfig], Traits]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What absent config fields mean; the values are those of transformers' config class."""


def refuse_sliding_layers(config: JsonConfig) -> None:
    """*Raises* ``UnsupportedModelError`` if the config gives any layer a kind of its own."""
    kinds = layer_kinds(config)
    if kinds - {"full_attention"}:
        raise UnsupportedModelError(
            f"{config.source}: layer_types holds {', '.join(sorted(kinds))}; "
            "only full_attention is supported for this architecture"
        )


def layer_kinds(config: JsonConfig) -> frozenset[str]:
    """The distinct entries of ``layer_types``. *Raises* ``CheckpointError`` if it is malformed."""
    kinds = config.get("layer_types")
    if kinds is None:
        return frozenset()
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise config.wrong("layer_types", "a list of strings")
    return frozenset(kinds)


def qwen_sliding_window(config: JsonConfig, *, num_layers: int) -> int | None:
    """The window of Qwen2 and Qwen3, which some layers may have and others not.

    It counts only with ``use_sliding_window``, and for the layers that ``layer_types`` (or, without
    it, ``max_window_layers``) says. *Raises* ``UnsupportedModelError`` for other kinds of layers,
    ``CheckpointError`` for layers that slide without a window.
    """
    window = None
    if config.flag("use_sliding_window", default=False):
        window = config.integer("sliding_window", 4096)
    kinds = layer_kinds(config)
    unknown = kinds - {"full_attention", "sliding_attention"}
    if unknown:
        raise UnsupportedModelError(
            f"{config.source}: layer_types holds {', '.join(sorted(unknown))}; "
            "supported are full_attention and sliding_attention"
        )
    if kinds:
        slides = "sliding_attention" in kinds
    else:
        slides = num_layers > config.integer("max_window_layers", 28, minimum=0)
    if "sliding_attention" in kinds and window is None:
        raise CheckpointError(
            f"{config.source}: layer_types names sliding_attention, but use_sliding_window is not "
            "set; the file contradicts itself"
        )
    return window if slides else None
