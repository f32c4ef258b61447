"""The layer operations as Triton kernels: one launch each, nothing rounded within.

What they mean is ``torch_ops.py``'s. Importing this module needs Triton; running them needs a GPU,
or its interpreter. Stateless; no operation waits for the device or reads from it, so all are safe
inside a CUDA graph. Rows that pad a graph's batch carry slot -1 and any position within the table.
"""

from dataclasses import dataclass

import torch

from radixserve.model.ops import HeadShape, Norm
from radixserve.model.rope import RopeTable
from radixserve_kernels.kv_store.kernel import kv_store
from radixserve_kernels.rms_norm.kernel import add_rms_norm, rms_norm
from radixserve_kernels.silu_mul.kernel import silu_mul


@dataclass(frozen=True, slots=True)
class TableRotation:
    """Where the kernel finds a token's angles: it reads the table itself."""

    angles: torch.Tensor
    """[num_positions, D]: cosines of the D/2 pairs, then their sines."""
    positions: torch.Tensor
    """int64[T]"""


class TritonOps:
    """``LayerOps`` for GPUs."""

    def rms_norm(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        return rms_norm(x, norm.weight, norm.eps)

    def add_rms_norm(self, hidden: torch.Tensor, update: torch.Tensor, norm: Norm) -> torch.Tensor:
        return add_rms_norm(hidden, update, norm.weight, norm.eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return silu_mul(gate_up)

    def rotation(self, table: RopeTable, positions: torch.Tensor) -> TableRotation:
        """*Cost*: none."""
        return TableRotation(table.angles, positions)

    def rotate_and_store(
        self,
        qkv: torch.Tensor,
        shape: HeadShape,
        norm: Norm | None,
        rotation: TableRotation,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        query = kv_store(
            qkv,
            None if norm is None else norm.weight,
            0.0 if norm is None else norm.eps,
            rotation.angles,
            rotation.positions,
            keys,
            values,
            slots,
        )
        assert query.shape[1:] == (shape.num_heads, shape.head_dim)
        return query
