"""Features of a config that change a model's answers and that nobody has built here.

Other architectures brought most of these fields, but a config that merely claims to be a Llama may
carry any of them. Each entry says at which values the field changes nothing.
"""

from dataclasses import dataclass
from typing import Any

from radixserve.errors import UnsupportedModelError
from radixserve.model.json_config import JsonConfig


@dataclass(frozen=True, slots=True)
class _Feature:
    """One config field: it is harmless if absent, null or one of ``neutral``."""

    key: str
    neutral: tuple[Any, ...]
    what: str
    remedy: str


_OTHER_MODEL = "use a checkpoint of a supported architecture without it"

_FEATURES = (
    _Feature(
        "quantization_config",
        (),
        "quantised weights",
        "use the checkpoint's original in bfloat16, float16 or float32",
    ),
    _Feature(
        "compression_config",
        (),
        "compressed weights",
        "use the checkpoint's original in bfloat16, float16 or float32",
    ),
    _Feature("hidden_act", ("silu", "swish"), "this activation function", _OTHER_MODEL),
    _Feature(
        "pretraining_tp",
        (1,),
        "the split summation of tensor-parallel pretraining",
        "set it to 1 in config.json if you accept results that differ in rounding",
    ),
    _Feature("is_causal", (True,), "attention to later tokens", _OTHER_MODEL),
    _Feature("attn_logit_softcapping", (), "soft-capped attention scores", _OTHER_MODEL),
    _Feature("final_logit_softcapping", (), "soft-capped logits", _OTHER_MODEL),
    _Feature("query_pre_attn_scalar", (), "another scale of the attention scores", _OTHER_MODEL),
    _Feature("attention_multiplier", (), "another scale of the attention scores", _OTHER_MODEL),
    _Feature("attention_chunk_size", (), "chunked attention", _OTHER_MODEL),
    _Feature("embedding_multiplier", (1,), "scaled embeddings", _OTHER_MODEL),
    _Feature("residual_multiplier", (1,), "scaled residuals", _OTHER_MODEL),
    _Feature("logits_scaling", (1,), "scaled logits", _OTHER_MODEL),
    _Feature("logit_scale", (1,), "scaled logits", _OTHER_MODEL),
    _Feature("use_mrope", (False,), "multimodal rotary positions", _OTHER_MODEL),
    _Feature("no_rope_layers", ([],), "layers without positions", _OTHER_MODEL),
    _Feature("num_experts", (0, 1), "a mixture of experts", _OTHER_MODEL),
    _Feature("num_local_experts", (0, 1), "a mixture of experts", _OTHER_MODEL),
)


def refuse_unsupported(config: JsonConfig) -> None:
    """*Raises* ``UnsupportedModelError`` naming the first field that asks for something unbuilt."""
    for feature in _FEATURES:
        value = config.get(feature.key)
        if value is not None and value not in feature.neutral:
            raise UnsupportedModelError(
                f"{config.source}: {feature.key} is {str(value)[:120]!r}: {feature.what} "
                f"is not supported; {feature.remedy}"
            )
