"""Which tensors a model holds, and of which checkpoint tensors each is made. Data only, no torch.

What one multiplication can do is one tensor here: queries, keys and values are stacked into one
matrix, and so are the gate and the up projection.

    checkpoint                          model
    ...self_attn.q_proj.weight  ┐
    ...self_attn.k_proj.weight  ├──▶    layers.0.qkv.weight      rows: all q heads, k heads, v heads
    ...self_attn.v_proj.weight  ┘
    ...mlp.gate_proj.weight     ┬──▶    layers.0.gate_up.weight  rows: gate, up
    ...mlp.up_proj.weight       ┘

The loader checks a checkpoint against this list before it allocates anything, then fills it; sizes
are known from it before a byte is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from radixserve.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the checkpoint."""

    name: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class WeightLayout:
    """One tensor of the model: its parts, stacked along the first dimension in this order."""

    name: str
    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])


EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"


def model_layout(config: ModelConfig) -> tuple[WeightLayout, ...]:
    """Every tensor of the model, in the order in which checkpoints tend to store them.

    With tied embeddings there is no ``lm_head``.
    """
    hidden = config.hidden_size
    weights = [WeightLayout("embed_tokens", (Part(EMBEDDING, (config.vocab_size, hidden)),))]
    for index in range(config.num_layers):
        weights.extend(_layer_layout(config, index))
    weights.append(WeightLayout("norm", (Part("model.norm.weight", (hidden,)),)))
    if not config.tie_word_embeddings:
        weights.append(WeightLayout("lm_head", (Part(LM_HEAD, (config.vocab_size, hidden)),)))
    return tuple(weights)


def count_parameters(config: ModelConfig) -> int:
    """How many numbers the model holds; tied embeddings count once."""
    return sum(part.num_elements for weight in model_layout(config) for part in weight.parts)


def weight_bytes(config: ModelConfig, bytes_per_parameter: int) -> int:
    """What the weights take in memory, known before loading, unless they are quantised."""
    return count_parameters(config) * bytes_per_parameter


def _layer_layout(config: ModelConfig, index: int) -> Iterator[WeightLayout]:
    hidden, inner = config.hidden_size, config.intermediate_size
    q_rows, kv_rows = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    source, target = f"model.layers.{index}", f"layers.{index}"

    def linear(name: str, rows: dict[str, int], columns: int, bias: bool) -> Iterator[WeightLayout]:
        # The bias first: whoever reads in this order can make the product when the weight comes.
        if bias:
            biases = tuple(Part(f"{source}.{part}.bias", (count,)) for part, count in rows.items())
            yield WeightLayout(f"{target}.{name}.bias", biases)
        weights = tuple(
            Part(f"{source}.{part}.weight", (count, columns)) for part, count in rows.items()
        )
        yield WeightLayout(f"{target}.{name}.weight", weights)

    def norm(name: str, part: str, size: int) -> WeightLayout:
        return WeightLayout(f"{target}.{name}", (Part(f"{source}.{part}.weight", (size,)),))

    yield norm("input_norm", "input_layernorm", hidden)
    qkv = {"self_attn.q_proj": q_rows, "self_attn.k_proj": kv_rows, "self_attn.v_proj": kv_rows}
    yield from linear("qkv", qkv, hidden, config.qkv_bias)
    if config.qk_norm:
        yield norm("q_norm", "self_attn.q_norm", config.head_dim)
        yield norm("k_norm", "self_attn.k_norm", config.head_dim)
    yield from linear("o", {"self_attn.o_proj": hidden}, q_rows, config.o_bias)
    yield norm("post_attention_norm", "post_attention_layernorm", hidden)
    gate_up = {"mlp.gate_proj": inner, "mlp.up_proj": inner}
    yield from linear("gate_up", gate_up, hidden, config.mlp_bias)
    yield from linear("down", {"mlp.down_proj": hidden}, inner, config.mlp_bias)
