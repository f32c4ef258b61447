"""The parts of a decoder layer, on flat batches: [T, hidden], no batch dimension, no padding.

Inference only: nothing here records gradients, and a layer adds into the residual stream it is
given. At one token a row a CPU spends a good part of a step on calling operations rather than on
arithmetic, so each part is few of them: one product for queries, keys and values, one for gate and
up, one rotation for all heads.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from radixserve.attention.base import AttentionBackend, ForwardBatch
from radixserve.model.rope import Rotation, rotate


@dataclass(frozen=True, slots=True)
class Step:
    """What all layers share in one forward pass."""

    batch: ForwardBatch
    rotation: Rotation
    backend: AttentionBackend
    plan: Any
    """What ``backend.plan`` made of the batch."""


@dataclass(frozen=True, slots=True)
class Linear:
    """``x @ weight.T + bias``, for x [rows, in]."""

    weight: torch.Tensor
    """[out, in]"""
    bias: torch.Tensor | None = None
    """[out]"""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """``x / rms(x) * weight`` over the last dimension; the mean square is taken in float32."""

    weight: torch.Tensor
    """[hidden]"""
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMSNorm of every query head and every key head, in one go, each with its own weight."""

    weight: torch.Tensor
    """[heads, D]: the queries' weight once per query head, then the keys' once per key head."""
    eps: float

    def __call__(self, heads: torch.Tensor) -> torch.Tensor:
        """``heads``: [T, heads, D], may be strided. Returns a new tensor."""
        return F.rms_norm(heads, heads.shape[-1:], None, self.eps).mul_(self.weight)


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query self-attention."""

    qkv: Linear
    o: Linear
    head_norm: HeadNorm | None
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def __call__(
        self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """From normed hidden states [T, hidden] to [T, num_heads * D], before the output product.

        *Mutates* ``keys`` and ``values``: this step's are stored at the batch's slots.
        """
        heads = self.qkv(x).view(-1, self.num_heads + 2 * self.num_kv_heads, self.head_dim)
        num_rotated = self.num_heads + self.num_kv_heads
        rotated, value = heads[:, :num_rotated], heads[:, num_rotated:]
        if self.head_norm is not None:
            rotated = self.head_norm(rotated)
        rotated = rotate(rotated, step.rotation)
        query, key = rotated[:, : self.num_heads], rotated[:, self.num_heads :]
        return step.backend.forward(query, key, value, keys, values, step.batch, step.plan)


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """``down(silu(gate(x)) * up(x))``, for x [rows, hidden]."""

    gate_up: Linear
    down: Linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        # Not in place: the result is then contiguous, as the next product wants it.
        return self.down(F.silu(gate).mul_(up))


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    input_norm: RMSNorm
    attention: Attention
    post_attention_norm: RMSNorm
    mlp: GatedMLP

    def __call__(
        self,
        hidden: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        step: Step,
        rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states [T, hidden] after this layer.

        With ``rows`` (int64[S]) only those tokens go on past attention, and the result is
        [S, hidden]: behind the last layer nobody needs the others.

        *Mutates* ``hidden`` (the result may be the same tensor), ``keys`` and ``values``.
        """
        attended = self.attention(self.input_norm(hidden), keys, values, step)
        if rows is not None:
            hidden, attended = hidden.index_select(0, rows), attended.index_select(0, rows)
        hidden = hidden.add_(self.attention.o(attended))
        return hidden.add_(self.mlp(self.post_attention_norm(hidden)))
