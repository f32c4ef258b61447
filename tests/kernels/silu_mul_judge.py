"""What the gated activation has to be, whichever kernel computes it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from radixserve_kernels.silu_mul.reference import silu_mul_reference
from tests.kernels.judging import assert_as_close_as_torch, assert_same_bits, nan_filled_outputs


def silu_mul_by_torch(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def check_silu_mul(silu_mul: Callable[[torch.Tensor], torch.Tensor], gate_up: torch.Tensor) -> None:
    """A kernel, called as ``silu_mul_reference`` is, against float64 and against torch's own."""
    before = gate_up.clone()
    with nan_filled_outputs():
        ours = silu_mul(gate_up)
    assert ours.is_contiguous()
    assert_as_close_as_torch(ours, silu_mul_by_torch(gate_up), silu_mul_reference(gate_up))
    assert_same_bits(gate_up, before)
