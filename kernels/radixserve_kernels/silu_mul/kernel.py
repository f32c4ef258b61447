"""The gated activation as one pass over memory.

    out = gate / (1 + exp(-gate)) * up

Computed in float32 and rounded once, at the end. A program takes ``BLOCK`` elements of one row:
small enough that a single token's row spreads over many processors.

*Cost*: bound by memory: reads both halves and writes the result once. Waits for nothing, so it can
be captured in a CUDA graph; no row launches nothing.
"""

import torch
import triton
import triton.language as tl

from radixserve_kernels.checks import (
    FLOATS,
    check_contiguous,
    check_dtype,
    check_place,
    check_shape,
)
from radixserve_kernels.rounding.kernel import narrow

BLOCK = 1_024
"""Elements of the result a program makes: one 16-byte access of two-byte elements a thread."""

NUM_WARPS = 4


@triton.jit
def silu_mul_kernel(
    # Pointers
    out_ptr,  # [T, INNER]
    gate_up_ptr,  # [T, 2 * INNER]
    # Constants
    INNER: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    # One long grid, so that programs next to each other take what lies next to each other.
    num_blocks: tl.constexpr = (INNER + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // num_blocks).to(tl.int64)
    columns = tl.program_id(0) % num_blocks * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = columns < INNER
    gate = tl.load(gate_up_ptr + row * 2 * INNER + columns, mask=inside).to(tl.float32)
    up = tl.load(gate_up_ptr + row * 2 * INNER + INNER + columns, mask=inside).to(tl.float32)
    # Of a negative number only, so that exp never overflows.
    small = tl.exp(-tl.abs(gate))
    silu = gate * tl.where(gate < 0.0, small, 1.0) / (1.0 + small)
    out = narrow(silu * up, out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * INNER + columns, out, mask=inside)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """From ``gate_up`` [T, 2 * inner], contiguous, gate first, to [T, inner] of the same dtype.

    float16, bfloat16 or float32. *Raises* ``ValueError`` for a tensor that does not fit.
    """
    check_shape("gate_up", gate_up, ("T", "2 * inner"))
    check_dtype("gate_up", gate_up, FLOATS)
    check_contiguous("gate_up", gate_up)
    check_place(gate_up=gate_up)
    if gate_up.shape[1] % 2 != 0:
        raise ValueError(f"gate_up: expected an even number of columns, got {gate_up.shape[1]}")
    return launch_silu_mul(gate_up)


def launch_silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """``silu_mul`` of a tensor known to fit: nothing is checked."""
    num_tokens, both = gate_up.shape
    inner = both // 2
    out = gate_up.new_empty((num_tokens, inner))
    if num_tokens == 0 or inner == 0:
        return out
    silu_mul_kernel[(num_tokens * -(-inner // BLOCK),)](
        out,
        gate_up,
        INNER=inner,
        BLOCK=BLOCK,
        num_warps=NUM_WARPS,
        enable_fp_fusion=True,
    )
    return out
