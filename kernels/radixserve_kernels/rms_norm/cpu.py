"""The norm of a row, with or without the residual addition before it, as a kernel for processors.

    sum = x + update                            (rounded to x's dtype; only with an update)
    out = sum / sqrt(mean(sum^2) + eps) * weight

A row is one thread's: read from memory once, and a second time from its cache. Squares, sums and
the product are float32, and rounded once, at the end. How a row is summed depends on its length
only, so a row's result does not depend on its batch; its NaN stay in it.

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
from radixserve_kernels.cpu.numbers import KINDS, load, load_input, store

ALONE = 16_384


@inner
def _norm_row(out, x, update, weight, first, width, eps, kind, has_update):
    literally(kind)
    literally(has_update)
    squares = np.float32(0.0)
    for column in range(width):
        number = load(x, first + column, kind)
        if has_update:
            store(x, first + column, kind, number + load_input(update, first + column, kind))
            # Read back, as it is now rounded.
            number = load(x, first + column, kind)
        squares += number * number
    scale = np.float32(1.0) / np.sqrt(squares / np.float32(width) + np.float32(eps))
    for column in range(width):
        normed = load(x, first + column, kind) * scale * load_input(weight, column, kind)
        store(out, first + column, kind, normed)


@cache
def make_rms_norm(kind: int, has_update: bool) -> Callable[..., None]:
    def rms_norm(out, x, update, weight, num_rows, width, eps):
        if num_rows * width < ALONE:
            for row in range(num_rows):
                _norm_row(out, x, update, weight, row * width, width, eps, kind, has_update)
        else:
            for row in prange(num_rows):
                _norm_row(out, x, update, weight, row * width, width, eps, kind, has_update)

    return kernel(rms_norm)


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
    check_on_cpu(update=update)
    return launch_add_rms_norm(hidden, update, weight, eps)


def launch_rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """``rms_norm`` of tensors known to fit, to ``out`` if it is given: nothing is checked.
    *Mutates* ``out``."""
    return _launch(x, None, weight, eps, out)


def launch_add_rms_norm(
    hidden: torch.Tensor,
    update: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """``add_rms_norm`` of tensors known to fit, to ``out`` if it is given: nothing is checked.
    *Mutates* ``hidden`` and ``out``."""
    return _launch(hidden, update, weight, eps, out)


def _check(x: torch.Tensor, weight: torch.Tensor) -> None:
    # All at once first: to ask one by one, and in words, takes longer than the norm of a few rows.
    if (
        x.dtype in KINDS
        and weight.dtype is x.dtype
        and x.dim() == 2
        and weight.shape == x.shape[1:]
        and x.is_contiguous()
        and weight.is_contiguous()
        and x.is_cpu
        and weight.is_cpu
    ):
        return
    check_shape("x", x, ("T", "hidden"))
    check_dtype("x", x, FLOATS)
    check_contiguous("x", x)
    check_shape("weight", weight, (x.shape[1],))
    check_dtype("weight", weight, (x.dtype,))
    check_contiguous("weight", weight)
    check_on_cpu(x=x, weight=weight)


def _launch(
    x: torch.Tensor,
    update: torch.Tensor | None,
    weight: torch.Tensor,
    eps: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    if out is None:
        out = torch.empty_like(x)
    num_rows, width = x.shape
    run = make_rms_norm(KINDS[x.dtype], update is not None)
    run(
        out.data_ptr(),
        x.data_ptr(),
        0 if update is None else update.data_ptr(),
        weight.data_ptr(),
        num_rows,
        width,
        eps,
    )
    return out
