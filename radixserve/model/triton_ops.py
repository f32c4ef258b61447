"""The layer operations as Triton kernels: one launch each, nothing rounded within.

What they mean is ``torch_ops.py``'s. Importing this module needs Triton; running them needs a GPU,
or its interpreter. Stateless; no operation waits for the device or reads from it, so all are safe
inside a CUDA graph. Rows that pad a graph's batch carry slot -1 and any position within the table.

Checking arguments takes the host as long as launching, and a step has hundreds of launches. So the
first norm of a step and its first layer's ``rotate_and_store`` check what they are given, and all
else launches unchecked. That is safe because a model's layers are alike (loading a model checks the
shape of every weight, and all have one dtype and device), the layers' pages are one tensor's, and
what reaches the other operations is the product of such weights, which torch makes contiguous, or
the residual stream that the first norm has checked.
"""

from dataclasses import dataclass

import torch

from radixserve.model.ops import HeadShape, Norm
from radixserve.model.rope import RopeTable
from radixserve_kernels.kv_store.kernel import kv_store, launch_kv_store
from radixserve_kernels.rms_norm.kernel import launch_add_rms_norm, rms_norm
from radixserve_kernels.silu_mul.kernel import launch_silu_mul


@dataclass(slots=True)
class TableRotation:
    """Where the kernel finds a token's angles: it reads the table itself. One step's."""

    angles: torch.Tensor
    """[num_positions, D]: cosines of the D/2 pairs, then their sines."""
    positions: torch.Tensor
    """int64[T]"""
    is_checked: bool = False
    """Whether the step's first layer has passed the checks."""


class TritonOps:
    """``LayerOps`` for GPUs."""

    def rms_norm(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        return rms_norm(x, norm.weight, norm.eps)

    def add_rms_norm(self, hidden: torch.Tensor, update: torch.Tensor, norm: Norm) -> torch.Tensor:
        return launch_add_rms_norm(hidden, update, norm.weight, norm.eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return launch_silu_mul(gate_up)

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
        store = launch_kv_store if rotation.is_checked else kv_store
        query = store(
            qkv,
            None if norm is None else norm.weight,
            0.0 if norm is None else norm.eps,
            rotation.angles,
            rotation.positions,
            keys,
            values,
            slots,
        )
        if not rotation.is_checked:
            assert query.shape[1:] == (shape.num_heads, shape.head_dim)
            rotation.is_checked = True
        return query
