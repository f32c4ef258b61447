"""The layer operations in plain torch: what those of kernels mean, and what runs without kernels.

Norms of the residual stream are computed in float32 throughout and rounded once.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from radixserve.model.ops import HeadShape, Norm
from radixserve.model.rope import RopeTable, Rotation, rotate


class TorchOps:
    """``LayerOps`` for any device."""

    def rms_norm(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        wide = x.float()
        scale = (wide.square().mean(dim=-1, keepdim=True) + norm.eps).rsqrt()
        return (wide * scale * norm.weight).to(x.dtype)

    def add_rms_norm(self, hidden: torch.Tensor, update: torch.Tensor, norm: Norm) -> torch.Tensor:
        return self.rms_norm(hidden.add_(update), norm)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        # Not in place: the result is then contiguous, as the next product wants it.
        return F.silu(gate).mul_(up)

    def rotation(self, table: RopeTable, positions: torch.Tensor) -> Rotation:
        return table.at(positions)

    def rotate_and_store(
        self,
        qkv: torch.Tensor,
        shape: HeadShape,
        norm: Norm | None,
        rotation: Rotation,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        num_heads, num_kv_heads, head_dim = shape.num_heads, shape.num_kv_heads, shape.head_dim
        heads = qkv.view(-1, num_heads + 2 * num_kv_heads, head_dim)
        rotated, value = heads[:, : num_heads + num_kv_heads], heads[:, num_heads + num_kv_heads :]
        if norm is not None:
            rotated = F.rms_norm(rotated, (head_dim,), None, norm.eps).mul_(norm.weight)
        rotated = rotate(rotated, rotation)
        query, key = rotated[:, :num_heads], rotated[:, num_heads:]
        keys.view(-1, num_kv_heads, head_dim).index_copy_(0, slots, key)
        values.view(-1, num_kv_heads, head_dim).index_copy_(0, slots, value)
        return query
