"""From float32 to a narrower type, to the nearest and ties to even: on a GPU and interpreted alike.

A GPU's cast rounds so. The interpreter's cast to bfloat16 cuts the low bits off instead (seen with
triton 3.6 and 3.9), which would double a kernel's error where its tests run; so there the bits are
rounded by hand. Kernels end with ``narrow`` wherever they would cast. Its reference is
``Tensor.to``.
"""

import triton
import triton.language as tl

from radixserve_kernels import target

_BY_HAND = tl.constexpr(target.INTERPRETED)


@triton.jit
def narrow(x, dtype: tl.constexpr):
    """``x``, float32 of any shape, in ``dtype``: float16, bfloat16 or float32."""
    if _BY_HAND and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        # Half of what is cut off, less one where the kept part is even: ties go to even.
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # A NaN's bits must not be carried into its sign.
        kept = tl.where(x == x, rounded, 0x7FC0).to(tl.uint16)  # noqa: PLR0124 (false for NaN)
        narrowed = kept.to(tl.bfloat16, bitcast=True)
    else:
        narrowed = x.to(dtype)
    return narrowed
