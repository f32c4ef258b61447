"""The layer operations as kernels compiled for this machine's processor: one call each.

What they mean is ``torch_ops.py``'s, but for that nothing is rounded within. Importing this module
imports numba; the first call of each operation compiles it, where no earlier process has.
Stateless. A token whose slot is negative is stored nowhere.

As in ``triton_ops.py`` the first norm of a step and its first layer's ``rotate_and_store`` check
what they are given, and all else launches unchecked, for the same reasons.
"""

from dataclasses import dataclass

import torch

from radixserve.model.ops import HeadShape, Norm
from radixserve.model.rope import RopeTable
from radixserve_kernels.cpu.compiling import match_threads
from radixserve_kernels.kv_store.cpu import StepStore, prepare_kv_store
from radixserve_kernels.rms_norm.cpu import launch_add_rms_norm, rms_norm
from radixserve_kernels.silu_mul.cpu import launch_silu_mul


@dataclass(slots=True)
class TableRotation:
    """Where the kernel finds a token's angles: it reads the table itself. One step's."""

    angles: torch.Tensor
    """[num_positions, D]: cosines of the D/2 pairs, then their sines."""
    positions: torch.Tensor
    """int64[T]"""
    step: StepStore | None = None
    """What the step's first layer has found to fit."""


class CpuOps:
    """``LayerOps`` for processors."""

    def rms_norm(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        return rms_norm(x, norm.weight, norm.eps)

    def add_rms_norm(self, hidden: torch.Tensor, update: torch.Tensor, norm: Norm) -> torch.Tensor:
        return launch_add_rms_norm(hidden, update, norm.weight, norm.eps)

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        return launch_silu_mul(gate_up)

    def rotation(self, table: RopeTable, positions: torch.Tensor) -> TableRotation:
        """*Mutates* how many threads kernels that this thread calls share their work among: as many
        as torch's operations."""
        match_threads()
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
        weight = None if norm is None else norm.weight
        if rotation.step is None:
            rotation.step = prepare_kv_store(
                qkv,
                weight,
                0.0 if norm is None else norm.eps,
                rotation.angles,
                rotation.positions,
                keys,
                values,
                slots,
            )
            expected = (len(qkv), shape.num_heads, shape.head_dim)
            assert rotation.step.query_shape == expected
        return rotation.step.store(qkv, weight, keys, values)
