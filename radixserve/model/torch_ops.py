"""The layer operations in plain torch: the CPU's, and the meaning of the kernels'.

At one token a row a CPU spends a good part of a step on calling operations rather than on
arithmetic, so each is few of them: one rotation for all heads of queries and keys, one norm for
all. Norms of the residual stream are computed in float32 throughout, by fewer operations than
squares and their mean would take; of long chunks some rows at a time, so that what is in float32
stays in the caches.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from radixserve.model.ops import HeadShape, Norm
from radixserve.model.rope import RopeTable, Rotation, rotate

BLOCK_NUMBERS = 1 << 18
"""Numbers that are in float32 at a time: 1 MiB, what a core's own cache holds."""


class TorchOps:
    """``LayerOps`` for the CPU; right on any device."""

    def rms_norm(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        if x.numel() <= BLOCK_NUMBERS:
            return _norm(x.float(), norm).to(x.dtype)
        normed = torch.empty_like(x)
        for first, end in _blocks(x):
            normed[first:end].copy_(_norm(x[first:end].float(), norm))
        return normed

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


def _norm(wide: torch.Tensor, norm: Norm) -> torch.Tensor:
    """``norm`` of float32[..., n], by fewer operations than squares and their mean would take.
    Returns a new tensor."""
    length: torch.Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return (wide * length.hypot_(norm.floor).reciprocal_()).mul_(norm.gain)


def _blocks(x: torch.Tensor) -> Iterator[tuple[int, int]]:
    """The rows of ``x`` in runs of ``BLOCK_NUMBERS`` numbers at most, but at least one row."""
    num_rows = len(x)
    step = max(1, BLOCK_NUMBERS // (x.numel() // num_rows))
    for first in range(0, num_rows, step):
        yield first, min(first + step, num_rows)
