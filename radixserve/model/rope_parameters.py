"""Which rotary embedding a checkpoint asks for, read from its config. No torch here.

Two spellings say the same thing: ``rope_theta`` beside a ``rope_scaling`` object (older
checkpoints) and one ``rope_parameters`` object that holds both (transformers 5). The type is called
``rope_type`` or, older still, ``type``. Absent fields mean what transformers takes them to mean.

A key that is not known here may change the meaning of the embedding, so it is refused.
*Source*: transformers, ``modeling_rope_utils.py``.
"""

from dataclasses import dataclass
from typing import Literal, cast, get_args

from radixserve.errors import CheckpointError, UnsupportedModelError
from radixserve.model.json_config import JsonConfig

RopeType = Literal["default", "linear", "dynamic", "yarn", "llama3"]

_DEFAULT_THETA = 10_000.0
_LONGEST = 2**31 - 1
_KNOWN_KEYS = frozenset(
    {
        "rope_type",
        "type",
        "rope_theta",
        "factor",
        "partial_rotary_factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
        # A note by YaRN's authors on how the checkpoint was made; nobody reads it.
        "finetuned",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeParameters:
    """One rotary embedding. Fields that the type does not use keep their neutral defaults."""

    rope_type: RopeType = "default"
    theta: float = _DEFAULT_THETA
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    """llama3, yarn: the context, in tokens, before it was stretched."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    attention_factor: float | None = None
    """yarn: scales cos and sin; None derives it from ``factor`` and the mscales."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def longest_context(self, max_position_embeddings: int) -> int:
        """How many tokens the embedding is defined for, given what the config states.

        ``linear`` and ``yarn`` stretch what was trained by ``factor``; whether a config's
        ``max_position_embeddings`` is the length before or after differs from checkpoint to
        checkpoint. The others end at ``max_position_embeddings``. For ``dynamic`` this is a hard
        end: beyond it every key's rotation depends on the length of the whole sequence, so keys
        that were rotated when the sequence was shorter, as all keys in a cache are, would be wrong.
        """
        if self.rope_type == "linear":
            return min(int(max_position_embeddings * self.factor), _LONGEST)
        if self.rope_type == "yarn":
            stretched = min(int(self.original_max_position_embeddings * self.factor), _LONGEST)
            return max(max_position_embeddings, stretched)
        return max_position_embeddings


def read_rope_parameters(config: JsonConfig, max_position_embeddings: int) -> RopeParameters:
    """Read either spelling from a ``config.json``.

    *Raises* ``UnsupportedModelError`` for an unknown type or key, ``CheckpointError`` for a field
    that is missing or malformed.
    """
    rope = _rope_object(config)
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    if rope_type not in get_args(RopeType):
        raise UnsupportedModelError(
            f"{rope.source}: rope type {rope_type!r} is not supported; "
            f"supported are {', '.join(get_args(RopeType))}"
        )
    unknown = sorted(
        key for key in rope.fields if key not in _KNOWN_KEYS and rope.get(key) is not None
    )
    if unknown:
        raise UnsupportedModelError(
            f"{rope.source}: {', '.join(unknown)} is not supported and may change the positions' "
            "meaning; if it does not matter for this checkpoint, remove it from the file"
        )
    for holder in (config, rope):
        if holder.number("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedModelError(
                f"{holder.source}: partial_rotary_factor is {holder.get('partial_rotary_factor')}; "
                "rotating a part of each head is not supported"
            )
    theta = rope.number("rope_theta", config.number("rope_theta", _DEFAULT_THETA))
    if theta <= 1:
        raise CheckpointError(f"{rope.source}: rope_theta is {theta}; it must exceed 1")
    if rope_type == "default":
        return RopeParameters(theta=theta)
    if rope_type in ("linear", "dynamic"):
        return RopeParameters(
            rope_type=cast(RopeType, rope_type), theta=theta, factor=rope.number("factor")
        )
    original = config.integer(
        "original_max_position_embeddings",
        rope.integer("original_max_position_embeddings", max_position_embeddings),
    )
    if rope_type == "llama3":
        parameters = RopeParameters(
            rope_type="llama3",
            theta=theta,
            factor=rope.number("factor"),
            original_max_position_embeddings=original,
            low_freq_factor=rope.number("low_freq_factor"),
            high_freq_factor=rope.number("high_freq_factor"),
        )
        if parameters.high_freq_factor <= parameters.low_freq_factor:
            raise rope.wrong("high_freq_factor", "greater than low_freq_factor")
        return parameters
    return RopeParameters(
        rope_type="yarn",
        theta=theta,
        factor=rope.number("factor", max_position_embeddings / original),
        original_max_position_embeddings=original,
        attention_factor=(
            None if rope.get("attention_factor") is None else rope.number("attention_factor")
        ),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        # As in transformers, a zero here counts as absent.
        mscale=rope.number("mscale") if rope.get("mscale") else None,
        mscale_all_dim=rope.number("mscale_all_dim") if rope.get("mscale_all_dim") else None,
        truncate=rope.flag("truncate", default=True),
    )


def _rope_object(config: JsonConfig) -> JsonConfig:
    """The object that describes the embedding, whichever of the two spellings it has."""
    scaling, parameters = config.child("rope_scaling"), config.child("rope_parameters")
    if not scaling.fields:
        return parameters
    disagree = [
        key
        for key, value in scaling.fields.items()
        if parameters.fields and key != "type" and parameters.get(key) != value
    ]
    if disagree:
        raise CheckpointError(
            f"{config.source}: rope_scaling and rope_parameters disagree on {', '.join(disagree)}; "
            "remove one of them"
        )
    return parameters if parameters.fields else scaling
