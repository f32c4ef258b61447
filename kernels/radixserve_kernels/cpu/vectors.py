"""Vectors of 16 float32 in LLVM's language, for intrinsics that compute with them.

Functions here are called while a kernel is compiled, and emit instructions. Where processors have
shorter registers than 512 bits, LLVM takes several for a vector.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from radixserve_kernels.cpu.numbers import BFLOAT16, FLOAT16, FLOAT32

LANES = 16

_CACHE_LINE = 64
_BYTE = ir.IntType(8)
HALF_WORD = ir.IntType(16)
WORD = ir.IntType(32)
LONG = ir.IntType(64)
FLOAT = ir.FloatType()
_HALF = ir.HalfType()
VECTOR = ir.VectorType(FLOAT, LANES)
WORDS = ir.VectorType(WORD, LANES)
_SIZES = {FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2}
# Additions keep their order; a product may go into one without being rounded before.
_FUSED = ("contract",)


def exponential(builder: Any, x: Any) -> Any:
    """exp of a vector, none of it positive; 0 below -87, where results leave the normal numbers.

    exp(x) = 2^n exp(r), r = x - n ln 2, by a polynomial of r: off by 2e-7 of itself at most.
    """
    rint = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(VECTOR, [VECTOR]), f"llvm.rint.v{LANES}f32"
    )
    whole = builder.call(rint, [builder.fmul(x, constant(1.4426950408889634))])
    # ln 2 in two parts, of which the first has so few digits that its products are exact.
    rest = multiply_add(builder, whole, constant(-0.693359375), x)
    rest = multiply_add(builder, whole, constant(2.12194440e-4), rest)
    result = constant(1 / 720)
    for coefficient in (1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        result = multiply_add(builder, result, rest, constant(coefficient))
    # An integer that float32 does not have (of NaN, of -inf) is undefined.
    is_normal = builder.fcmp_ordered(">=", x, constant(-87.0))
    power = builder.fptosi(builder.select(is_normal, whole, constant(0.0)), WORDS)
    biased = builder.add(power, ir.Constant(WORDS, [127] * LANES))
    scale = builder.bitcast(builder.shl(biased, ir.Constant(WORDS, [23] * LANES)), VECTOR)
    is_small = builder.fcmp_ordered("<", x, constant(-87.0))
    return builder.select(is_small, constant(0.0), builder.fmul(result, scale))


def power_of_two(builder: Any, x: Any) -> Any:
    """2^x of a vector, none of it positive, off by 3e-6 of itself at most: for weights that are
    going to be rounded to bfloat16. By instructions that ``Machine.has_dots`` stands for.

    2^x = 2^n 2^r, n the integer below x. -inf gives 0; below -149 so do all others.
    """
    mask, imm = ir.IntType(16), WORD
    call = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(VECTOR, [VECTOR, imm, VECTOR, mask, imm]),
        "llvm.x86.avx512.mask.reduce.ps.512",
    )
    everything, as_set = ir.Constant(mask, 0xFFFF), ir.Constant(WORD, 4)
    # 9: what the greatest integer that is not above leaves, no exception told.
    rest = builder.call(call, [x, ir.Constant(WORD, 9), constant(0.0), everything, as_set])
    # Of the polynomials of this degree the one whose relative error is least in [0, 1].
    result = constant(0.013534167916046108)
    for coefficient in (
        0.052011460610467686,
        0.241442756891412,
        0.6930038344699925,
        1.000002593370694,
    ):
        result = multiply_add(builder, result, rest, constant(coefficient))
    scale = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(VECTOR, [VECTOR, VECTOR, VECTOR, mask, imm]),
        "llvm.x86.avx512.mask.scalef.ps.512",
    )
    return builder.call(scale, [result, x, constant(0.0), everything, as_set])


def across(builder: Any, vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """One float of all lanes."""
    distance = LANES
    while distance > 1:
        distance //= 2
        other = shuffle(
            builder, vector, vector, [(lane + distance) % LANES for lane in range(LANES)]
        )
        vector = combine(other, vector)
    return builder.extract_element(vector, ir.Constant(WORD, 0))


def fetch(builder: Any, address: Any, offset: Any, size: int, kind: int) -> None:
    """Fetch the cache lines of a head's ``size`` numbers from element ``offset`` on."""
    place = _BYTE.as_pointer()
    signature = ir.FunctionType(ir.VoidType(), [place, WORD, WORD, WORD])
    prefetch = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    start = builder.add(address, builder.mul(offset, long(_SIZES[kind])))
    for first in range(0, size * _SIZES[kind], _CACHE_LINE):
        line = builder.inttoptr(builder.add(start, long(first)), place)
        # To be read, into the nearest cache, data.
        builder.call(prefetch, [line, *(ir.Constant(WORD, each) for each in (0, 3, 1))])


def load_wide(builder: Any, address: Any, index: Any, width: int, kind: int) -> Any:
    """``width`` numbers of ``kind`` as float32, in lanes of which those behind them are 0."""
    element = {FLOAT32: FLOAT, BFLOAT16: HALF_WORD, FLOAT16: _HALF}[kind]
    place = at_index(builder, address, element, index)
    numbers = builder.load(
        builder.bitcast(place, ir.VectorType(element, width).as_pointer()), align=_SIZES[kind]
    )
    floats = ir.VectorType(FLOAT, width)
    if kind == FLOAT16:
        numbers = builder.fpext(numbers, floats)
    elif kind == BFLOAT16:
        # The upper half of a float32.
        words = ir.VectorType(WORD, width)
        upper = builder.shl(builder.zext(numbers, words), ir.Constant(words, [16] * width))
        numbers = builder.bitcast(upper, floats)
    if width == LANES:
        return numbers
    zeros = ir.Constant(floats, [0.0] * width)
    return shuffle(builder, numbers, zeros, [min(lane, width) for lane in range(LANES)])


def store_wide(
    builder: Any, address: Any, index: Any, width: int, vector: Any, kind: int = FLOAT32
) -> None:
    """The first ``width`` lanes, rounded to nearest even."""
    if width != LANES:
        vector = shuffle(builder, vector, vector, range(width))
    element = {FLOAT32: FLOAT, BFLOAT16: HALF_WORD, FLOAT16: _HALF}[kind]
    narrow = ir.VectorType(element, width)
    if kind == FLOAT16:
        vector = builder.fptrunc(vector, narrow)
    elif kind == BFLOAT16:
        words = ir.VectorType(WORD, width)

        def all_lanes(number: int) -> Any:
            return ir.Constant(words, [number] * width)

        bits = builder.bitcast(vector, words)
        odd = builder.and_(builder.lshr(bits, all_lanes(16)), all_lanes(1))
        rounded = builder.add(bits, builder.add(odd, all_lanes(0x7FFF)))
        # Rounding would carry a NaN's lowest bits into infinity, or its sign.
        is_nan = builder.fcmp_unordered("uno", vector, vector)
        quiet = builder.or_(bits, all_lanes(0x400000))
        upper = builder.lshr(builder.select(is_nan, quiet, rounded), all_lanes(16))
        vector = builder.trunc(upper, narrow)
    place = builder.bitcast(at_index(builder, address, element, index), narrow.as_pointer())
    builder.store(vector, place, align=_SIZES[kind])


def at_index(builder: Any, address: Any, element: Any, index: Any) -> Any:
    """A pointer to element ``index`` behind ``address``."""
    return builder.gep(builder.inttoptr(address, element.as_pointer()), [index])


def pieces_of(size: int) -> list[tuple[int, int]]:
    """(first, width) of the vectors that a head is cut into; the last may be narrow."""
    return [(first, min(LANES, size - first)) for first in range(0, size, LANES)]


def in_all_lanes(builder: Any, number: Any) -> Any:
    none = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    one = builder.insert_element(none, number, ir.Constant(WORD, 0))
    return shuffle(builder, one, none, [0] * LANES)


def shuffle(builder: Any, left: Any, right: Any, lanes: Sequence[int]) -> Any:
    mask = ir.Constant(ir.VectorType(WORD, len(lanes)), list(lanes))
    return builder.shuffle_vector(left, right, mask)


def multiply_add(builder: Any, left: Any, right: Any, total: Any) -> Any:
    product = builder.fmul(left, right, flags=_FUSED)
    return builder.fadd(product, total, flags=_FUSED)


def constant(number: float) -> Any:
    return ir.Constant(VECTOR, [number] * LANES)


def long(number: int) -> Any:
    return ir.Constant(LONG, number)


def are_literals(*arguments: Any) -> bool:
    return all(isinstance(argument, types.IntegerLiteral) for argument in arguments)
