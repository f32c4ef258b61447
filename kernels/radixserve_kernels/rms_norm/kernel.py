"""The norm of a row, with or without the residual addition before it, as one kernel.

    sum = x + update                            (rounded to x's dtype; only with an update)
    out = sum / sqrt(mean(sum^2) + eps) * weight

One program a row. A row of up to ``MAX_BLOCK`` elements is read once and kept in registers; a
longer one is read twice. Squares, sums and the product are float32, and rounded once, at the end.
How a row is summed depends on its length only, so a row's result does not depend on its batch.

*Cost*: bound by memory: reads and writes every tensor once. Waits for nothing, so it can be
captured in a CUDA graph; no row launches nothing.
"""

from functools import cache

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

MAX_BLOCK = 16_384
"""The longest row, in elements, that one program keeps in registers: 32 a thread."""

LOOP_BLOCK = 8_192
"""How much of a longer row a program takes at a time."""

_ELEMENTS_PER_THREAD = 16
_MAX_WARPS = 16


@triton.jit
def rms_norm_kernel(
    # Pointers
    out_ptr,  # [T, HIDDEN]
    x_ptr,  # [T, HIDDEN]
    update_ptr,  # [T, HIDDEN], read only if HAS_UPDATE
    weight_ptr,  # [HIDDEN]
    # Scalars
    eps,
    # Constants
    HIDDEN: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    HAS_UPDATE: tl.constexpr,  # noqa: N803
):
    start = tl.program_id(0).to(tl.int64) * HIDDEN
    columns = tl.arange(0, BLOCK)
    if BLOCK >= HIDDEN:
        inside = columns < HIDDEN
        # Asked for first, so that it is under way while the row is summed.
        weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
        x = _stream(x_ptr + start, update_ptr + start, columns, inside, HAS_UPDATE)  # [BLOCK]
        scale = tl.rsqrt(tl.sum(x * x, axis=0) / HIDDEN + eps)
        out = narrow(x * scale * weight, out_ptr.dtype.element_ty)
        tl.store(out_ptr + start + columns, out, mask=inside)
    else:
        squares = tl.zeros([BLOCK], dtype=tl.float32)
        for first in range(0, HIDDEN, BLOCK):
            inside = first + columns < HIDDEN
            x = _stream(x_ptr + start, update_ptr + start, first + columns, inside, HAS_UPDATE)
            squares += x * x
        scale = tl.rsqrt(tl.sum(squares, axis=0) / HIDDEN + eps)
        # The sums that the first pass stored are read back, by other threads perhaps.
        tl.debug_barrier()
        for first in range(0, HIDDEN, BLOCK):
            inside = first + columns < HIDDEN
            weight = tl.load(weight_ptr + first + columns, mask=inside, other=0.0).to(tl.float32)
            x = tl.load(x_ptr + start + first + columns, mask=inside, other=0.0).to(tl.float32)
            out = narrow(x * scale * weight, out_ptr.dtype.element_ty)
            tl.store(out_ptr + start + first + columns, out, mask=inside)


@triton.jit
def _stream(x_ptr, update_ptr, columns, inside, HAS_UPDATE: tl.constexpr):  # noqa: N803
    """A row's elements in float32, zero outside; with an update, of the sum just stored."""
    x = tl.load(x_ptr + columns, mask=inside, other=0.0)
    if HAS_UPDATE:
        update = tl.load(update_ptr + columns, mask=inside, other=0.0)
        x = narrow(x.to(tl.float32) + update.to(tl.float32), x.dtype)
        tl.store(x_ptr + columns, x, mask=inside)
    return x.to(tl.float32)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The norm of ``x`` [T, hidden], contiguous, by ``weight`` [hidden] of the same dtype.

    Returns a new tensor like ``x``, which may be float16, bfloat16 or float32.
    *Raises* ``ValueError`` for tensors that do not fit.
    """
    _check(x, weight)
    return _launch(x, None, weight, eps)


def add_rms_norm(
    hidden: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """Add ``update`` to ``hidden`` and return the sum's norm: both [T, hidden], contiguous.

    The norm is of the sum as ``hidden``'s dtype holds it. Returns a new tensor like ``hidden``.
    *Mutates* ``hidden``: it holds the sum.
    *Raises* ``ValueError`` for tensors that do not fit.
    """
    _check(hidden, weight)
    check_shape("update", update, tuple(hidden.shape))
    check_dtype("update", update, (hidden.dtype,))
    check_contiguous("update", update)
    check_place(x=hidden, update=update)
    return launch_add_rms_norm(hidden, update, weight, eps)


def launch_add_rms_norm(
    hidden: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """``add_rms_norm`` of tensors known to fit: nothing is checked. *Mutates* ``hidden``."""
    return _launch(hidden, update, weight, eps)


def _check(x: torch.Tensor, weight: torch.Tensor) -> None:
    check_shape("x", x, ("T", "hidden"))
    check_dtype("x", x, FLOATS)
    check_contiguous("x", x)
    check_shape("weight", weight, (x.shape[1],))
    check_dtype("weight", weight, (x.dtype,))
    check_contiguous("weight", weight)
    check_place(x=x, weight=weight)


def _launch(
    x: torch.Tensor, update: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    out = torch.empty_like(x)
    num_tokens, hidden = x.shape
    if num_tokens == 0 or hidden == 0:
        return out
    block = block_size(hidden)
    rms_norm_kernel[(num_tokens,)](
        out,
        x,
        x if update is None else update,
        weight,
        eps,
        HIDDEN=hidden,
        BLOCK=block,
        HAS_UPDATE=update is not None,
        num_warps=num_warps(block),
        enable_fp_fusion=True,
    )
    return out


@cache
def block_size(hidden: int) -> int:
    """How many elements of a row of ``hidden`` a program takes at a time."""
    return int(triton.next_power_of_2(hidden)) if hidden <= MAX_BLOCK else LOOP_BLOCK


def num_warps(block: int) -> int:
    """Enough for two 16-byte accesses of two-byte elements a thread."""
    return max(1, min(_MAX_WARPS, block // (32 * _ELEMENTS_PER_THREAD)))
