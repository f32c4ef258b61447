"""e to the power of a number, for loops that are to be vectorised.

With n the integer nearest to x / ln 2, and r = x - n ln 2, at most 0.35 in size,

    e^x = 2^n e^r        where  e^r ~ 1 + r + r^2 p(r)

ln 2 is taken off in two parts, the first so short that n times it is exact; 2^n is added to the
exponent's bits. Its coefficients are those of Cephes' ``expf`` (netlib.org/cephes). The error is
at most one unit in the last place (tests/kernels/test_cpu_exponential.py).
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from radixserve_kernels.cpu.compiling import inner_in_order

_WORD = ir.IntType(32)
_FLOAT = ir.FloatType()

SMALLEST = -87.0
"""Of what is smaller the power is taken to be zero: it is less than 2e-38."""

_INVERSE_LN_2 = np.float32(1.44269504088896341)
_LN_2_HIGH = np.float32(0.693359375)
_LN_2_LOW = np.float32(-2.12194440e-4)
# Adding it leaves the nearest integer in a float32's lowest bits.
_SHIFT = np.float32(12582912.0)


@intrinsic
def _times_power_of_two(typing_context: Any, value: Any, shifted: Any) -> Any:
    """``value * 2^n`` for ``shifted = n + _SHIFT``, where the result is a normal number."""
    signature = types.float32(types.float32, types.float32)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        value, shifted = (builder.bitcast(argument, _WORD) for argument in arguments)
        # Of the integer's bits those that count end up in the exponent; the rest is shifted out.
        exponent = builder.shl(shifted, ir.Constant(_WORD, 23))
        return builder.bitcast(builder.add(value, exponent), _FLOAT)

    return signature, generate


# In another order taking ln 2 off in two parts would become one.
@inner_in_order
def exp_of_negative(x):
    """e^x of a float32 that is not positive: 0 below ``SMALLEST``, NaN of NaN."""
    shifted = x * _INVERSE_LN_2 + _SHIFT
    power = shifted - _SHIFT
    rest = (x - power * _LN_2_HIGH) - power * _LN_2_LOW
    series = np.float32(1.9875691500e-4)
    series = series * rest + np.float32(1.3981999507e-3)
    series = series * rest + np.float32(8.3334519073e-3)
    series = series * rest + np.float32(4.1665795894e-2)
    series = series * rest + np.float32(1.6666665459e-1)
    series = series * rest + np.float32(5.0000001201e-1)
    value = series * (rest * rest) + rest + np.float32(1.0)
    # So that NaN, which is not smaller than anything, is kept.
    return np.float32(0.0) if x < np.float32(SMALLEST) else _times_power_of_two(value, shifted)
