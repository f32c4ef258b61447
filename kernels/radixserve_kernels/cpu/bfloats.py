"""bfloat16 in LLVM's language: its type, vectors rounded to it, and products of pairs.

Functions here are called while a kernel is compiled, and emit instructions.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils

_HALF_WORD, _WORD = ir.IntType(16), ir.IntType(32)


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite has no stubs
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


BFLOAT = _BFloat()


def narrow(builder: Any, numbers: Any, *, by_instruction: bool) -> Any:
    """The bits of float32 numbers rounded to bfloat16, to nearest even; a NaN stays one.

    ``by_instruction``: the processor has one for it. Where it has none, LLVM would call a function
    that numba's processes lack, and end the process.
    """
    count = numbers.type.count
    if by_instruction:
        rounded = builder.fptrunc(numbers, ir.VectorType(BFLOAT, count))
        return builder.bitcast(rounded, ir.VectorType(_HALF_WORD, count))
    words = ir.VectorType(_WORD, count)

    def each(number: int) -> Any:
        return ir.Constant(words, [number] * count)

    bits = builder.bitcast(numbers, words)
    odd = builder.and_(builder.lshr(bits, each(16)), each(1))
    rounded = builder.add(bits, builder.add(odd, each(0x7FFF)))
    # Rounding would carry a NaN's lowest bits into infinity, or its sign.
    is_nan = builder.fcmp_unordered("uno", numbers, numbers)
    quiet = builder.or_(bits, each(0x400000))
    upper = builder.lshr(builder.select(is_nan, quiet, rounded), each(16))
    return builder.trunc(upper, ir.VectorType(_HALF_WORD, count))


def narrow_two(builder: Any, first: Any, second: Any) -> Any:
    """The bits of two vectors of 16 float32 numbers as ``narrow`` rounds them, the first's first.

    By an instruction that a processor with ``Machine.has_dots`` has. Numbers below the smallest
    normal one become 0.
    """
    round_two = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VectorType(BFLOAT, 32), [first.type, second.type]),
        "llvm.x86.avx512bf16.cvtne2ps2bf16.512",
    )
    rounded = builder.call(round_two, [second, first])
    return builder.bitcast(rounded, ir.VectorType(_HALF_WORD, 32))


def add_products(builder: Any, total: Any, left: Any, right: Any) -> Any:
    """Add to each of 16 float32 lanes the two products of its pairs of bfloat16.

    ``left``, ``right``: their bits, 64 bytes of any type. For ``Machine.has_dots`` only.
    """
    pairs = ir.VectorType(BFLOAT, 32)
    dot = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(total.type, [total.type, pairs, pairs]),
        "llvm.x86.avx512bf16.dpbf16ps.512",
    )
    return builder.call(dot, [total, builder.bitcast(left, pairs), builder.bitcast(right, pairs)])
