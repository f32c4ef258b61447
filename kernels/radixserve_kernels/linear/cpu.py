"""Products of few rows with a weight, on a processor. What they mean: ``reference.py``.

With few rows a product takes as long as its weight takes to come from memory. So the weight is read
once, in one go and as it is; 8 and 4 bits are widened in registers, once for six rows.

    a thread's outputs, a block at a time ──▶ rows, six at a time ──▶ tiles of four outputs

so that a block stays in a core's second cache while the rows pass, and six rows in its first while
the block does. With many rows, where arithmetic takes the time, a library's product is as good or
better: the caller knows from how many on.

Each thread takes an equal part of the outputs. A row's result does not depend on the other rows.
"""

from collections.abc import Callable
from functools import cache

import torch
from numba import get_num_threads, prange

from radixserve_kernels.checks import check_contiguous, check_dtype, check_shape
from radixserve_kernels.cpu.compiling import kernel
from radixserve_kernels.cpu.half_bytes import unpack_group
from radixserve_kernels.cpu.machine import Machine, machine
from radixserve_kernels.cpu.numbers import KINDS, load
from radixserve_kernels.cpu.tiles import (
    CHUNK,
    INT4,
    INT8,
    OUTPUTS,
    SAME,
    tile,
)
from radixserve_kernels.linear.reference import GROUP

DTYPES = (torch.float32, torch.bfloat16)

_BLOCK_BYTES = 192 << 10
"""Of weights that all rows meet in turn: what a core's second cache holds beside the rows that come
and go. Half and twice of it are 3 to 10 hundredths slower at 512 rows."""
_FEW_ROWS = 32
_FEW_BLOCK_BYTES = 48 << 10
"""The same for so few rows that memory takes most of the time: only the first six rows ask for
weights, and it should not be long until they do again."""
_AHEAD = 2 * OUTPUTS
"""Weights are asked for so many outputs before they are read."""


def fits(num_outputs: int, num_inputs: int) -> bool:
    """Whether a weight of [out, in] can be multiplied by. In 4 bits, ``in`` is a multiple of 32."""
    return num_outputs >= OUTPUTS and num_inputs >= CHUNK


class Product:
    """A weight, and what belongs to it, ready to multiply few rows."""

    __slots__ = ("_addresses", "_dtype", "_held", "_multiply", "_num_inputs", "_num_outputs")

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        scales: torch.Tensor | None = None,
        *,
        on: Machine | None = None,
    ) -> None:
        """Tensors as in ``reference.py``, kept and not copied; ``weight`` alone, int8 with scales
        [out], or uint8 with scales [out, in / 32, 2]. All but quantised weights are float32 or
        bfloat16, and of one type.

        ``on``: another processor's tiles, which run here too (None: this one's).
        *Raises* ``ValueError``. *Cost*: compiles for each type of weight and of numbers.
        """
        weight_kind = {torch.int8: INT8, torch.uint8: INT4}.get(weight.dtype, SAME)
        check_shape("weight", weight, ("out", "in"))
        num_outputs, num_inputs = weight.shape
        dtype = weight.dtype
        if weight_kind == INT4:
            num_inputs *= 2
            if num_inputs % GROUP:
                raise ValueError(
                    f"weight: expected a multiple of {GROUP} inputs in 4 bits, got {num_inputs}"
                )
        if weight_kind != SAME:
            if scales is None:
                raise ValueError("scales: expected a tensor beside a quantised weight, got None")
            groups = (num_inputs // GROUP, 2) if weight_kind == INT4 else ()
            check_shape("scales", scales, (num_outputs, *groups))
            dtype = scales.dtype
        if not fits(num_outputs, num_inputs):
            raise ValueError(
                f"weight: expected at least {OUTPUTS} outputs and {CHUNK} inputs, got "
                f"{num_outputs} and {num_inputs}"
            )
        check_dtype(
            "weight" if scales is None else "scales", weight if scales is None else scales, DTYPES
        )
        held = {"weight": weight}
        if scales is not None:
            held["scales"] = scales
        if bias is not None:
            check_shape("bias", bias, (num_outputs,))
            check_dtype("bias", bias, (dtype,))
            held["bias"] = bias
        for name, tensor in held.items():
            check_contiguous(name, tensor)
        self._held = tuple(held.values())
        self._dtype = dtype
        self._num_outputs, self._num_inputs = num_outputs, num_inputs
        self._addresses = (
            weight.data_ptr(),
            0 if scales is None else scales.data_ptr(),
            0 if bias is None else bias.data_ptr(),
        )
        self._multiply = make_linear(KINDS[dtype], weight_kind, on or machine())

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """[T, in], contiguous, of the scales' or the weight's type, to [T, out]: ``out``,
        contiguous and of the same type, or a new one.

        *Mutates* ``out``. *Cost*: 8 us beside the product itself.
        """
        assert x.dtype == self._dtype
        assert x.is_contiguous()
        assert x.shape[1] == self._num_inputs
        count = x.shape[0]
        if out is None:
            out = x.new_empty((count, self._num_outputs))
        assert out.shape == (count, self._num_outputs)
        if count:
            self._multiply(
                x.data_ptr(),
                *self._addresses,
                out.data_ptr(),
                count,
                self._num_outputs,
                self._num_inputs,
                get_num_threads(),
            )
        return out


@cache
def make_linear(kind: int, weight_kind: int, on: Machine) -> Callable[..., None]:
    """The kernel for numbers of ``kind`` (``numbers.py``) and a kind of weights (``tiles.py``)."""
    lanes, most = on.lanes, on.most_rows
    # Literals of one type: numba tells a bool from an int.
    has_dots = 1 if on.has_dots else 0
    size = 4 if kind == KINDS[torch.float32] else 2
    # Bits of a weight, and bytes of an output's scales: so many, and so many for 32 inputs.
    bits = {SAME: 8 * size, INT8: 8, INT4: 4}[weight_kind]
    scale_bytes = size if weight_kind == INT8 else 0
    group_bytes = 2 * size if weight_kind == INT4 else 0

    def linear(
        x: int,
        weight: int,
        scales: int,
        bias: int,
        out: int,
        num_rows: int,
        num_outputs: int,
        num_inputs: int,
        num_parts: int,
    ) -> None:
        num_groups = (num_outputs + OUTPUTS - 1) // OUTPUTS
        num_tiles = (num_rows + most - 1) // most
        x_stride, out_stride = num_inputs * size, num_outputs * size
        weight_stride = num_inputs * bits // 8
        block_bytes = _FEW_BLOCK_BYTES if num_rows <= _FEW_ROWS else _BLOCK_BYTES
        block_size = max(1, block_bytes // (weight_stride * OUTPUTS)) * OUTPUTS
        scale_stride = scale_bytes + num_inputs // CHUNK * group_bytes
        for part in prange(num_parts):
            start = num_groups * part // num_parts * OUTPUTS
            end = num_groups * (part + 1) // num_parts * OUTPUTS
            for block in range(start, end, block_size):
                for index in range(num_tiles):
                    # As even as can be: two tiles of four rows are faster than six and two.
                    row = num_rows * index // num_tiles
                    rows = num_rows * (index + 1) // num_tiles - row
                    # Only the first rows find the weights in memory.
                    ahead = 0 if index else _AHEAD * weight_stride
                    x_rows = x + row * x_stride
                    for group in range(block, min(block + block_size, end), OUTPUTS):
                        # The last outputs may be computed twice, to the same bits.
                        first = min(group, num_outputs - OUTPUTS)
                        w = weight + first * weight_stride
                        s = scales + first * scale_stride
                        b = 0 if bias == 0 else bias + first * size
                        o = out + row * out_stride + first * size
                        # fmt: off
                        if rows == 1:
                            tile(x_rows, x_stride, w, weight_stride, num_inputs, s, scale_stride,
                                 b, o, out_stride, ahead, 1, kind, weight_kind, lanes, has_dots)
                        elif rows == 2:
                            tile(x_rows, x_stride, w, weight_stride, num_inputs, s, scale_stride,
                                 b, o, out_stride, ahead, 2, kind, weight_kind, lanes, has_dots)
                        elif rows == 3:
                            tile(x_rows, x_stride, w, weight_stride, num_inputs, s, scale_stride,
                                 b, o, out_stride, ahead, 3, kind, weight_kind, lanes, has_dots)
                        elif rows == 4:
                            tile(x_rows, x_stride, w, weight_stride, num_inputs, s, scale_stride,
                                 b, o, out_stride, ahead, 4, kind, weight_kind, lanes, has_dots)
                        elif rows == 5:
                            tile(x_rows, x_stride, w, weight_stride, num_inputs, s, scale_stride,
                                 b, o, out_stride, ahead, 5, kind, weight_kind, lanes, has_dots)
                        else:
                            tile(x_rows, x_stride, w, weight_stride, num_inputs, s, scale_stride,
                                 b, o, out_stride, ahead, 6, kind, weight_kind, lanes, has_dots)
                        # fmt: on

    return kernel(linear)


def unpack_int4(packed: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    """The weights that half bytes mean (``reference.py``), rounded to the type of their scales.

    ``packed``: uint8[out, in / 2]; ``scales``: [out, in / 32, 2]; ``out``: [out, in]. All are
    contiguous. *Mutates* ``out``.
    """
    assert packed.is_contiguous()
    assert scales.is_contiguous()
    assert out.is_contiguous()
    assert out.dtype == scales.dtype
    assert out.numel() == 2 * packed.numel() == GROUP // 2 * scales.numel()
    unpack = make_unpack_int4(KINDS[out.dtype], machine())
    unpack(packed.data_ptr(), scales.data_ptr(), out.data_ptr(), *scales.shape[:2])


@cache
def make_unpack_int4(kind: int, on: Machine) -> Callable[..., None]:
    """The kernel for numbers of ``kind``."""
    has_dots = 1 if on.has_dots else 0
    group_bytes = GROUP * (4 if kind == KINDS[torch.float32] else 2)

    def unpack(packed: int, scales: int, out: int, num_outputs: int, num_groups: int) -> None:
        for output in prange(num_outputs):
            for group in range(output * num_groups, (output + 1) * num_groups):
                scale = load(scales, 2 * group, kind)
                zero = load(scales, 2 * group + 1, kind)
                some = packed + GROUP // 2 * group
                unpack_group(some, scale, zero, out + group_bytes * group, kind, has_dots)

    return kernel(unpack)
