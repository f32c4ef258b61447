"""Numbers in memory, of the types that activations have; in float32 while one computes with them.

``load`` and ``store`` are part of the kernel that calls them, and loops over them are vectorised.
What an address points to is a *kind*, a constant of the kernel: kernels are made by a function of
the kind (and of other constants, such as a head's size), and kept:

    @cache
    def make_scale(kind: int) -> Callable[..., None]:
        def scale(x: int, factor: float, count: int) -> None:
            for index in prange(count):
                store(x, index, kind, load(x, index, kind) * factor)

        return kernel(scale)
"""

from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}

_LONG = ir.IntType(64)
_WORD = ir.IntType(32)
_HALF_WORD = ir.IntType(16)
_FLOAT = ir.FloatType()
_HALF = ir.HalfType()


def _pointer(builder: Any, address: Any, index: Any, element: Any) -> Any:
    start = builder.inttoptr(address, element.as_pointer())
    return builder.gep(start, [index])


def _kind_of(kind: Any) -> int:
    # Anything else than a constant has no value yet.
    value: int = kind.literal_value
    return value


def _load(builder: Any, address: Any, index: Any, kind: int, scope: Any) -> Any:
    """float32, from memory of a kind; ``scope``: what ``_inputs`` makes, or None."""
    element = {FLOAT32: _FLOAT, BFLOAT16: _HALF_WORD, FLOAT16: _HALF}[kind]
    number = builder.load(_pointer(builder, address, index, element))
    if scope is not None:
        number.set_metadata("alias.scope", scope)
    if kind == FLOAT32:
        return number
    if kind == FLOAT16:
        return builder.fpext(number, _FLOAT)
    # A bfloat16 is the upper half of a float32.
    wide = builder.shl(builder.zext(number, _WORD), ir.Constant(_WORD, 16))
    return builder.bitcast(wide, _FLOAT)


def _inputs(builder: Any) -> Any:
    """The name that LLVM knows a kernel's inputs by: no ``store`` reaches them."""
    module = builder.module
    domain = module.add_metadata(["radixserve"])
    return module.add_metadata([module.add_metadata(["radixserve inputs", domain])])


@intrinsic(prefer_literal=True)
def load(typing_context: Any, address: Any, index: Any, kind: Any) -> Any:
    """float32: element ``index`` behind ``address`` (bytes), of ``kind``."""
    if not isinstance(kind, types.IntegerLiteral):
        return None
    which = _kind_of(kind)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return _load(builder, arguments[0], arguments[1], which, None)

    return types.float32(types.int64, types.int64, kind), generate


@intrinsic(prefer_literal=True)
def load_input(typing_context: Any, address: Any, index: Any, kind: Any) -> Any:
    """``load`` of memory that no ``store`` of this kernel reaches: its inputs.

    Told so, LLVM need not find out before each loop, which it does for few addresses only.
    """
    if not isinstance(kind, types.IntegerLiteral):
        return None
    which = _kind_of(kind)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return _load(builder, arguments[0], arguments[1], which, _inputs(builder))

    return types.float32(types.int64, types.int64, kind), generate


@intrinsic(prefer_literal=True)
def store(typing_context: Any, address: Any, index: Any, kind: Any, value: Any) -> Any:
    """Put float32 ``value`` at element ``index`` behind ``address``, rounded to nearest even."""
    if not isinstance(kind, types.IntegerLiteral):
        return None
    which = _kind_of(kind)
    signature = types.void(types.int64, types.int64, kind, types.float32)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        address, index, value = arguments[0], arguments[1], arguments[3]
        if which == FLOAT32:
            stored = builder.store(value, _pointer(builder, address, index, _FLOAT))
        elif which == FLOAT16:
            narrow = builder.fptrunc(value, _HALF)
            stored = builder.store(narrow, _pointer(builder, address, index, _HALF))
        else:
            bits = builder.bitcast(value, _WORD)
            odd = builder.and_(builder.lshr(bits, ir.Constant(_WORD, 16)), ir.Constant(_WORD, 1))
            rounded = builder.add(bits, builder.add(odd, ir.Constant(_WORD, 0x7FFF)))
            # Rounding would carry a NaN's lowest bits into infinity, or its sign.
            is_nan = builder.fcmp_unordered("uno", value, value)
            quiet = builder.or_(bits, ir.Constant(_WORD, 0x400000))
            upper = builder.lshr(builder.select(is_nan, quiet, rounded), ir.Constant(_WORD, 16))
            narrow = builder.trunc(upper, _HALF_WORD)
            stored = builder.store(narrow, _pointer(builder, address, index, _HALF_WORD))
        stored.set_metadata("noalias", _inputs(builder))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def load_index(typing_context: Any, address: Any, index: Any) -> Any:
    """int64: element ``index`` of the int64 behind ``address`` (bytes)."""
    signature = types.int64(types.int64, types.int64)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.load(_pointer(builder, arguments[0], arguments[1], _LONG))

    return signature, generate
