"""Moving bytes within a kernel."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


@intrinsic(prefer_literal=True)
def copy_bytes(typing_context: Any, to: Any, source: Any, size: Any) -> Any:
    """Copy ``size`` bytes, a literal; the two addresses' memory is apart."""
    if not isinstance(size, types.IntegerLiteral):
        return None
    count = size.literal_value

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        to, source = (builder.inttoptr(address, byte) for address in arguments[:2])
        cgutils.raw_memcpy(builder, to, source, ir.Constant(ir.IntType(64), count), 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, size), generate
