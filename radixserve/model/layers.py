"""The parts of a decoder layer, on flat batches: [T, hidden], no batch dimension, no padding.

Inference only: nothing here records gradients. The residual stream ``hidden`` runs past the layers;
each adds to it and hands on what the next one reads, the stream's norm:

    hidden ──────────────────(+)──────────────────────(+)────────▶ hidden
    normed ▶ attention ▶ o ───┘ norm ▶ gate_up, down ──┘ next norm ▶ normed

so that every addition and the norm behind it are one operation (``ops.add_rms_norm``).
"""

from dataclasses import dataclass
from typing import Any

import torch

from radixserve.attention.base import AttentionBackend, ForwardBatch
from radixserve.model.linear import Linear
from radixserve.model.ops import HeadShape, LayerOps, Norm


@dataclass(frozen=True, slots=True)
class Step:
    """What all layers share in one forward pass."""

    batch: ForwardBatch
    ops: LayerOps
    rotation: Any
    """What ``ops.rotation`` made of the positions."""
    attention: AttentionBackend
    plan: Any
    """What ``attention.plan`` made of the batch."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query self-attention."""

    qkv: Linear
    o: Linear
    head_norm: Norm | None
    shape: HeadShape

    def __call__(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """From normed hidden states [T, hidden] to [T, num_heads * D], before the output product.

        *Mutates* ``keys`` and ``values``: this step's are stored at the batch's slots.
        """
        query = step.ops.rotate_and_store(
            self.qkv(x),
            self.shape,
            self.head_norm,
            step.rotation,
            keys,
            values,
            step.batch.slots,
        )
        return step.attention.forward(query, keys, values, step.batch, step.plan)


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """``down(silu(gate(x)) * up(x))``, for x [rows, hidden].

    On a CPU oneDNN could take silu and the product by ``up`` into two products' ends, and the
    residual sum into ``down``'s; measured, both are slower (0.3 and 0.2 ms of 3.2 at 1 row).
    """

    gate_up: Linear
    down: Linear

    def __call__(self, x: torch.Tensor, ops: LayerOps) -> torch.Tensor:
        return self.down(ops.silu_mul(self.gate_up(x)))


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    input_norm: Norm
    attention: Attention
    post_attention_norm: Norm
    mlp: GatedMLP

    def __call__(
        self,
        hidden: torch.Tensor,
        normed: torch.Tensor,
        next_norm: Norm,
        keys: torch.Tensor,
        values: torch.Tensor,
        step: Step,
    ) -> torch.Tensor:
        """Add this layer's share to ``hidden`` [T, hidden]; returns the sum's ``next_norm``.

        ``normed`` is ``hidden`` behind this layer's ``input_norm``.
        *Mutates* ``hidden``, ``keys`` and ``values``.
        """
        attended = self.attention(normed, keys, values, step)
        return self._behind_attention(hidden, attended, next_norm, step.ops)

    def last(
        self,
        hidden: torch.Tensor,
        normed: torch.Tensor,
        next_norm: Norm,
        keys: torch.Tensor,
        values: torch.Tensor,
        step: Step,
    ) -> torch.Tensor:
        """The same where nobody needs any tokens behind attention but the batch's
        ``logits_indices``, int64[S]. Returns [S, hidden]."""
        attended = self.attention(normed, keys, values, step)
        rows = step.batch.logits_indices
        return self._behind_attention(
            hidden.index_select(0, rows), attended.index_select(0, rows), next_norm, step.ops
        )

    def _behind_attention(
        self, hidden: torch.Tensor, attended: torch.Tensor, next_norm: Norm, ops: LayerOps
    ) -> torch.Tensor:
        normed = ops.add_rms_norm(hidden, self.attention.o(attended), self.post_attention_norm)
        return ops.add_rms_norm(hidden, self.mlp(normed, ops), next_norm)
