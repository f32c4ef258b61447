"""Integers in memory: tables, offsets and counters, behind addresses as in ``numbers.py``."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_INT = ir.IntType(32)
_LONG = ir.IntType(64)


def _pointer(builder: Any, address: Any, index: Any, element: Any) -> Any:
    return builder.gep(builder.inttoptr(address, element.as_pointer()), [index])


@intrinsic
def load_int32(typing_context: Any, address: Any, index: Any) -> Any:
    """int64: element ``index`` of the int32 behind ``address`` (bytes)."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address, index = arguments
        return builder.sext(builder.load(_pointer(builder, address, index, _INT)), _LONG)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def store_int32(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
    """Put the lower half of ``value`` at element ``index`` of the int32 behind ``address``."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address, index, value = arguments
        builder.store(builder.trunc(value, _INT), _pointer(builder, address, index, _INT))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def store_int64(typing_context: Any, address: Any, index: Any, value: Any) -> Any:
    """Put ``value`` at element ``index`` of the int64 behind ``address``."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address, index, value = arguments
        builder.store(value, _pointer(builder, address, index, _LONG))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def fetch_add(typing_context: Any, address: Any, index: Any, amount: Any) -> Any:
    """int64: what element ``index`` of the int32 behind ``address`` was before ``amount`` was
    added, by one thread at a time.

    What a thread wrote before its turn is seen by those whose turns are later.
    """

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address, index, amount = arguments
        pointer = _pointer(builder, address, index, _INT)
        before = builder.atomic_rmw("add", pointer, builder.trunc(amount, _INT), "acq_rel")
        return builder.sext(before, _LONG)

    return types.int64(types.int64, types.int64, types.int64), generate
