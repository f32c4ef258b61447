"""A whole model of the Llama family: token ids in, logits out, keys and values into their pages.

It owns weights and a table of rotary angles, and no state besides: what a forward pass needs to
know of requests, pages and positions is in the batch it is given. It never allocates KV tensors,
never samples, and never reads a device tensor back to the host.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from radixserve.attention.base import AttentionBackend, AttentionShape, ForwardBatch
from radixserve.model.config import ModelConfig
from radixserve.model.layers import Attention, DecoderLayer, GatedMLP, Step
from radixserve.model.linear import Linear, PlainLinear
from radixserve.model.ops import HeadShape, LayerOps, Norm
from radixserve.model.rope import RopeTable

if TYPE_CHECKING:
    from radixserve.model.decode_calls import DecodeCalls

KVTensors = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Per layer: keys and values, each [num_pages, page_size, num_kv_heads, head_dim]."""


class CausalLM:
    """Built from weights laid out as ``layout.model_layout`` says. Inference only."""

    __slots__ = (
        "_embed_tokens",
        "_layers",
        "_lm_head",
        "_norm",
        "_rope",
        "config",
        "quantization",
    )

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, torch.Tensor],
        *,
        max_model_len: int,
        linears: Mapping[str, Linear] | None = None,
        quantization: str = "none",
    ) -> None:
        """``weights`` by the names of the layout, all of one dtype and device; not copied.

        ``linears``: what multiplies by a weight, by the weight's name in the layout ("lm_head" also
        if it is tied); ``weights`` may lack these and their biases. Of those not named here
        the product is plain. ``quantization``: what was done to the weights of ``linears``.
        ``max_model_len`` bounds the positions that ``forward`` may be given.
        """
        self.config = config
        self.quantization = quantization
        linears = linears or {}
        self._embed_tokens = weights["embed_tokens"]
        self._layers = tuple(
            _layer(config, weights, linears, index) for index in range(config.num_layers)
        )
        self._norm = Norm(weights["norm"], config.norm_eps)
        table = "embed_tokens" if config.tie_word_embeddings else "lm_head"
        self._lm_head = linears.get("lm_head") or PlainLinear(weights[table])
        self._rope = RopeTable(
            config.rope, config.head_dim, max_model_len, dtype=self.dtype, device=self.device
        )

    @property
    def device(self) -> torch.device:
        return self._embed_tokens.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of activations, of weights that are not quantised, and of keys and values."""
        return self._embed_tokens.dtype

    @property
    def max_model_len(self) -> int:
        return self._rope.num_positions

    def attention_shape(self, page_size: int) -> AttentionShape:
        """What an attention backend for this model has to be made for."""
        return attention_shape(self.config, page_size)

    def forward(
        self, batch: ForwardBatch, kv: KVTensors, attention: AttentionBackend, ops: LayerOps
    ) -> torch.Tensor:
        """Run the batch's tokens; logits [S, vocab_size], one row for each of ``logits_indices``.

        Every position must be below ``max_model_len``, every token id below ``vocab_size``. Best
        called under ``torch.inference_mode()``, which spares torch some bookkeeping.

        *Mutates* ``kv`` at ``batch.slots``.
        *Cost*: two floating-point operations per parameter and token, besides attention; past the
        last layer's attention, and for the logits, only the S rows are computed.
        """
        return self.logits(self.hidden(batch, kv, attention, ops, attention.plan(batch)))

    def hidden(
        self,
        batch: ForwardBatch,
        kv: KVTensors,
        attention: AttentionBackend,
        ops: LayerOps,
        plan: Any,
    ) -> torch.Tensor:
        """``forward`` up to the last norm, with what ``attention.plan`` made of the batch:
        [S, hidden_size]. Device work only."""
        step = Step(batch, ops, ops.rotation(self._rope, batch.positions), attention, plan)
        hidden = F.embedding(batch.input_ids, self._embed_tokens)
        normed = ops.rms_norm(hidden, self._layers[0].input_norm)
        *body, last = zip(self._layers, kv, strict=True)
        following = (layer.input_norm for layer in self._layers[1:])
        for (layer, (keys, values)), next_norm in zip(body, following, strict=True):
            normed = layer(hidden, normed, next_norm, keys, values, step)
        layer, (keys, values) = last
        return layer.last(hidden, normed, self._norm, keys, values, step)

    def decode_calls(self, kv: KVTensors, max_rows: int) -> "DecodeCalls | None":
        """What computes ``forward`` of decode steps over these tensors in one call, with
        ``CpuAttention``; None where some product is not a compiled kernel, or numba's insides are
        others than are known. Imports numba."""
        # Imported here: others do without it.
        from radixserve.model.decode_calls import DecodeCalls, max_decode_rows  # noqa: PLC0415
        from radixserve_kernels.cpu.calls import can_carry_out  # noqa: PLC0415

        if not max_decode_rows(self._layers) or not can_carry_out():
            return None
        return DecodeCalls(
            self._embed_tokens,
            self._layers,
            self._norm,
            self._lm_head,
            self._rope,
            kv,
            max_rows=max_rows,
            inner_size=self.config.intermediate_size,
        )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """The last product, from ``hidden``'s result: [S, vocab_size]."""
        return self._lm_head(hidden)


def attention_shape(config: ModelConfig, page_size: int) -> AttentionShape:
    """What an attention backend for such a model has to be made for."""
    return AttentionShape(
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        scale=config.head_dim**-0.5,
        page_size=page_size,
    )


def _layer(
    config: ModelConfig,
    weights: Mapping[str, torch.Tensor],
    linears: Mapping[str, Linear],
    index: int,
) -> DecoderLayer:
    prefix = f"layers.{index}"

    def linear(name: str) -> Linear:
        weight, bias = f"{prefix}.{name}.weight", f"{prefix}.{name}.bias"
        return linears.get(weight) or PlainLinear(weights[weight], weights.get(bias))

    def norm(name: str) -> Norm:
        return Norm(weights[f"{prefix}.{name}"], config.norm_eps)

    head_norm = None
    if config.qk_norm:
        per_head = (
            weights[f"{prefix}.q_norm"].expand(config.num_heads, -1),
            weights[f"{prefix}.k_norm"].expand(config.num_kv_heads, -1),
        )
        head_norm = Norm(torch.cat(per_head), config.norm_eps)
    return DecoderLayer(
        input_norm=norm("input_norm"),
        attention=Attention(
            qkv=linear("qkv"),
            o=linear("o"),
            head_norm=head_norm,
            shape=HeadShape(config.num_heads, config.num_kv_heads, config.head_dim),
        ),
        post_attention_norm=norm("post_attention_norm"),
        mlp=GatedMLP(gate_up=linear("gate_up"), down=linear("down")),
    )
