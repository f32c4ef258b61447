"""A checkpoint's shape and meaning, read from its own ``config.json``. No torch here.

Whatever in a config would change the model's answers is either understood or refused: there is no
field that is quietly treated as if it said something else. What is refused because nobody has
built it is an ``UnsupportedModelError``; what is malformed or contradicts itself is a
``CheckpointError``. Fields are named as in the rest of this repository, not as in the file.
"""

from dataclasses import dataclass
from pathlib import Path

from radixserve.errors import CheckpointError, ConfigError, UnsupportedModelError
from radixserve.model.family import Family
from radixserve.model.generation_config import (
    read_eos_token_ids,
    read_generation_config,
    read_sampling_defaults,
)
from radixserve.model.json_config import REQUIRED, JsonConfig, read_json
from radixserve.model.registry import find_family
from radixserve.model.rope_parameters import RopeParameters, read_rope_parameters
from radixserve.model.unsupported import refuse_unsupported
from radixserve.sampling.params import SamplingDefaults

FILE_NAME = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One model of the Llama family."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    tie_word_embeddings: bool
    """The output layer is the embedding itself."""
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """Every head of queries and keys is normalised before it is rotated."""
    rope: RopeParameters
    max_position_embeddings: int
    """The context, in tokens, that the checkpoint states."""
    sliding_window: int | None
    """Some layer sees no more than this many tokens; None: all layers see all."""
    dtype: str | None
    """The type that the weights were saved in ("bfloat16"), if the config says."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    """Union of ``config.json`` and ``generation_config.json``, ascending."""
    sampling_defaults: SamplingDefaults

    @classmethod
    def from_dir(cls, directory: Path) -> "ModelConfig":
        """Read ``config.json`` and, if there is one, ``generation_config.json``.

        *Raises* ``UnsupportedModelError``, ``CheckpointError``.
        """
        config = read_json(directory / FILE_NAME)
        return _read(config, read_generation_config(directory), find_family(config))

    def resolve_max_model_len(self, wanted: int | None) -> int:
        """The longest context, in tokens, to serve: ``wanted``, or else what the checkpoint states.

        Positions beyond what the rotary embedding is defined for, and contexts in which a sliding
        window would begin to hide tokens, are refused rather than answered wrongly. Up to the
        window's length, sliding and full attention are the same.

        *Raises* ``ConfigError`` if ``wanted`` exceeds what the positions allow,
        ``UnsupportedModelError`` if the context exceeds the sliding window.
        """
        limit = self.rope.longest_context(self.max_position_embeddings)
        if wanted is not None and wanted > limit:
            raise ConfigError(
                f"max_model_len is {wanted}; this model's positions end at {limit} tokens "
                f"(max_position_embeddings {self.max_position_embeddings}, "
                f"rope type {self.rope.rope_type}); ask for at most that"
            )
        length = self.max_position_embeddings if wanted is None else wanted
        if self.sliding_window is not None and length > self.sliding_window:
            raise UnsupportedModelError(
                f"{self.architecture} has a sliding window of {self.sliding_window} tokens, "
                f"shorter than the context of {length}; sliding windows are not supported yet: "
                f"set max_model_len to at most {self.sliding_window}, where they make no difference"
            )
        return length


def _read(config: JsonConfig, generation: JsonConfig, family: Family) -> ModelConfig:
    refuse_unsupported(config)
    defaults = family.defaults
    hidden_size = config.integer("hidden_size")
    num_heads = config.integer("num_attention_heads")
    # An absent number of KV heads means the family's default; null means no grouping.
    num_kv_heads = num_heads
    if "num_key_value_heads" not in config:
        num_kv_heads = defaults.get("num_key_value_heads", num_heads)
    num_kv_heads = config.integer("num_key_value_heads", num_kv_heads)
    if num_heads % num_kv_heads:
        raise config.wrong("num_key_value_heads", f"a divisor of the {num_heads} attention heads")
    max_position_embeddings = config.integer(
        "max_position_embeddings", defaults["max_position_embeddings"]
    )
    vocab_size = config.integer("vocab_size")
    traits = family.read_traits(config)
    dtype = config.get("dtype") or config.get("torch_dtype")
    bos = config.get("bos_token_id") if "bos_token_id" in config else defaults.get("bos_token_id")
    return ModelConfig(
        architecture=family.architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=_read_head_dim(config, family, hidden_size, num_heads),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        tie_word_embeddings=config.flag("tie_word_embeddings", default=False),
        qkv_bias=traits.qkv_bias,
        o_bias=traits.o_bias,
        mlp_bias=traits.mlp_bias,
        qk_norm=traits.qk_norm,
        rope=read_rope_parameters(config, max_position_embeddings),
        max_position_embeddings=max_position_embeddings,
        sliding_window=traits.sliding_window,
        dtype=dtype if isinstance(dtype, str) else None,
        bos_token_id=bos if isinstance(bos, int) and 0 <= bos < vocab_size else None,
        eos_token_ids=read_eos_token_ids(
            config, generation, default=defaults.get("eos_token_id"), vocab_size=vocab_size
        ),
        sampling_defaults=read_sampling_defaults(generation),
    )


def _read_head_dim(config: JsonConfig, family: Family, hidden_size: int, num_heads: int) -> int:
    derived = hidden_size // num_heads if hidden_size % num_heads == 0 else REQUIRED
    head_dim = config.integer("head_dim", family.defaults.get("head_dim", derived), minimum=2)
    if head_dim % 2:
        raise CheckpointError(
            f"{config.source}: heads have {head_dim} dimensions; rotary positions "
            "need an even number"
        )
    return head_dim
