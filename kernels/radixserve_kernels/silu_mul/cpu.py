"""The gated activation as a kernel for processors: one pass over memory.

    out = gate / (1 + exp(-gate)) * up

Computed in float32 and rounded once, at the end. A row is cut into blocks of ``BLOCK`` numbers, so
that one long row is work for several threads; which numbers a block holds depends on the row's
length only.

*Cost*: bound by memory where rows are many. One thread takes what is less than ``ALONE`` numbers,
because sharing them out costs as much as computing them.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from numba import literally, prange

from radixserve_kernels.checks import (
    FLOATS,
    check_contiguous,
    check_dtype,
    check_on_cpu,
    check_shape,
)
from radixserve_kernels.cpu.compiling import inner, kernel
from radixserve_kernels.cpu.exponential import exp_of_negative
from radixserve_kernels.cpu.numbers import KINDS, load_input, store

ALONE = 8_192

BLOCK = 2_048


@inner
def _gate_block(out, gate_up, row, first, inner_size, kind):
    literally(kind)
    gate_at = 2 * inner_size * row + first
    out_at = inner_size * row + first
    for column in range(min(BLOCK, inner_size - first)):
        gate = load_input(gate_up, gate_at + column, kind)
        up = load_input(gate_up, gate_at + inner_size + column, kind)
        # Of a negative number only, so that it never overflows.
        small = exp_of_negative(-abs(gate))
        silu = gate * (small if gate < np.float32(0.0) else np.float32(1.0))
        store(out, out_at + column, kind, silu / (np.float32(1.0) + small) * up)


@cache
def make_silu_mul(kind: int) -> Callable[..., None]:
    def silu_mul(out, gate_up, num_rows, inner_size):
        num_blocks = (inner_size + BLOCK - 1) // BLOCK
        if num_rows * inner_size < ALONE:
            for row in range(num_rows):
                for block in range(num_blocks):
                    _gate_block(out, gate_up, row, block * BLOCK, inner_size, kind)
        else:
            for item in prange(num_rows * num_blocks):
                row = item // num_blocks
                first = (item - row * num_blocks) * BLOCK
                _gate_block(out, gate_up, row, first, inner_size, kind)

    return kernel(silu_mul)


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """From ``gate_up`` [T, 2 * inner], contiguous, gate first, to [T, inner] of the same dtype.

    float16, bfloat16 or float32. *Raises* ``ValueError`` for a tensor that does not fit.
    """
    check_shape("gate_up", gate_up, ("T", "2 * inner"))
    check_dtype("gate_up", gate_up, FLOATS)
    check_contiguous("gate_up", gate_up)
    check_on_cpu(gate_up=gate_up)
    if gate_up.shape[1] % 2 != 0:
        raise ValueError(f"gate_up: expected an even number of columns, got {gate_up.shape[1]}")
    return launch_silu_mul(gate_up)


def launch_silu_mul(gate_up: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """``silu_mul`` of a tensor known to fit, to ``out`` if it is given: nothing is checked.
    *Mutates* ``out``."""
    num_rows, both = gate_up.shape
    if out is None:
        out = gate_up.new_empty((num_rows, both // 2))
    make_silu_mul(KINDS[gate_up.dtype])(out.data_ptr(), gate_up.data_ptr(), num_rows, both // 2)
    return out
