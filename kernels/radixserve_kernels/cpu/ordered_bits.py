"""Numbers as integers of the same order, which loops over them can take the greatest of at once.

    -NaN < -inf < ... < -0 < +0 < ... < +inf < +NaN          -0 is -1, +0 is 0

Comparing floats, a processor's greatest of many is not one instruction wherever there may be a NaN.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

PLUS_INFINITY = 0x7F800000
MINUS_INFINITY = -0x7F800001

_WORD = ir.IntType(32)


@intrinsic
def ordered_bits(typing_context: Any, number: Any) -> Any:
    """int32: where a float32 is in the order."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], _WORD)
        # The others' bits but for the sign, if that is set: the larger they are, the smaller it is.
        sign = builder.ashr(bits, ir.Constant(_WORD, 31))
        return builder.xor(bits, builder.and_(sign, ir.Constant(_WORD, 0x7FFFFFFF)))

    return types.int32(types.float32), generate
