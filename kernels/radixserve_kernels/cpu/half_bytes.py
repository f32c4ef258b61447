"""Groups of 32 half bytes, with a scale and a zero each, to the numbers that they mean.

    16 bytes ──▶ lower halves: numbers 0 to 15    number = (half - 8) * scale + zero
             ──▶ upper halves: numbers 16 to 31

Written in LLVM's terms: from loops its compiler makes one number at a time.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from radixserve_kernels.cpu.bfloats import narrow
from radixserve_kernels.cpu.numbers import BFLOAT16

_BYTE, _WORD, _LONG = (ir.IntType(bits) for bits in (8, 32, 64))
_HALF = 16
# May become one instruction that rounds once.
_FUSED = ("contract",)


@intrinsic(prefer_literal=True)
def unpack_group(
    typing_context: Any, packed: Any, scale: Any, zero: Any, out: Any, kind: Any, has_dots: Any
) -> Any:
    """Put the 32 numbers of the 16 bytes at ``packed`` to the address ``out``, rounded to ``kind``.

    ``scale`` and ``zero`` are float32; ``kind``, float32 or bfloat16, and ``has_dots``, as of a
    ``Machine``, are constants.
    """
    if not all(isinstance(each, types.IntegerLiteral) for each in (kind, has_dots)):
        return None
    is_narrow, by_instruction = kind.literal_value == BFLOAT16, bool(has_dots.literal_value)
    floats = types.float32
    signature = types.void(types.int64, floats, floats, types.int64, kind, has_dots)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        packed, scale, zero, out = arguments[:4]
        place = builder.inttoptr(packed, ir.VectorType(_BYTE, _HALF).as_pointer())
        some = builder.load(place, align=1)
        lower, upper = (ir.Constant(some.type, [number] * _HALF) for number in (15, 4))
        for index, halves in enumerate((builder.and_(some, lower), builder.lshr(some, upper))):
            words = builder.zext(halves, ir.VectorType(_WORD, _HALF))
            signed = builder.sub(words, ir.Constant(words.type, [8] * _HALF))
            numbers = builder.sitofp(signed, ir.VectorType(ir.FloatType(), _HALF))
            numbers = builder.fmul(numbers, _splat(builder, scale), flags=_FUSED)
            numbers = builder.fadd(numbers, _splat(builder, zero), flags=_FUSED)
            if is_narrow:
                numbers = narrow(builder, numbers, by_instruction=by_instruction)
            start = builder.add(out, ir.Constant(_LONG, index * _HALF * (2 if is_narrow else 4)))
            builder.store(numbers, builder.inttoptr(start, numbers.type.as_pointer()), align=1)
        return context.get_dummy_value()

    return signature, generate


def _splat(builder: Any, number: Any) -> Any:
    none = ir.Constant(ir.VectorType(number.type, _HALF), ir.Undefined)
    one = builder.insert_element(none, number, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(one, none, ir.Constant(ir.VectorType(_WORD, _HALF), [0] * _HALF))
