"""The steps of a decoder layer that are not matrix products or attention, behind one interface.

What they mean is said in torch (``torch_ops.py``). A chain of small operations costs a call and a
pass over memory each, so where kernels run each is one of them: compiled for the processor
(``cpu_ops.py``), or Triton's (``triton_ops.py``). All mean the same: sums in float32, one rounding
to the tensors' dtype at the end.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch

from radixserve.model.rope import RopeTable


@dataclass(frozen=True, slots=True)
class Norm:
    """The weights of ``x / rms(x) * weight`` over the last dimension, where ``rms(x)`` is
    ``sqrt(mean(x ** 2) + eps)``."""

    weight: torch.Tensor
    """[hidden], or [heads, D] for the heads of queries and keys: the queries' weight once per query
    head, then the keys' once per key head."""
    eps: float


@dataclass(frozen=True, slots=True)
class HeadShape:
    """What a row of the qkv projection holds: query heads, key heads, value heads."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


class LayerOps(Protocol):
    """Stateless, and safe inside a CUDA graph."""

    def rms_norm(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        """``x``: [T, hidden], contiguous. Returns a new tensor."""
        ...

    def add_rms_norm(self, hidden: torch.Tensor, update: torch.Tensor, norm: Norm) -> torch.Tensor:
        """Add ``update`` to the residual stream and return the sum's norm; both [T, hidden].

        *Mutates* ``hidden``: it holds the sum, rounded to its dtype, of which the norm is taken.
        """
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """``silu(gate) * up`` of [T, 2 * inner], gate first. Returns [T, inner], contiguous."""
        ...

    def rotation(self, table: RopeTable, positions: torch.Tensor) -> Any:
        """What ``rotate_and_store`` wants to know of this step's positions: made once per step."""
        ...

    def rotate_and_store(
        self,
        qkv: torch.Tensor,
        shape: HeadShape,
        norm: Norm | None,
        rotation: Any,
        keys: torch.Tensor,
        values: torch.Tensor,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        """From the qkv projection, [T, (num_heads + 2 * num_kv_heads) * D], to rotated queries,
        [T, num_heads, D], and keys and values in their pages.

        ``norm``, if there is one, is taken of every query and key head before the rotation.
        ``keys``, ``values``: [num_pages, page_size, num_kv_heads, D]; token ``t`` goes to slot
        ``slots[t]`` (int64[T]: page * page_size + offset).

        *Mutates* ``keys`` and ``values``.
        """
        ...
