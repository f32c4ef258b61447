"""Launches of kernels as a list, carried out by one call: to a processor what a graph is to a GPU.

A launch from Python takes 2 to 10 us beside the kernel, more within a step, whose weights have
driven Python's own memory out of the caches. A list is what launchers have *noted* instead of
launching (``compiling.noting``), a row each:

    kernel | integers | floats | arguments                    int64[calls, FIELDS]

``kernel`` is the address of its machine code, ``integers`` says how many arguments it has, and
``floats`` is 1 if a float64 follows them, by its bits.

The kernels are the very same ones, so results are too. Addresses are taken as they were noted:
whoever notes keeps the memory behind them.

It knows some of numba's insides: where machine code lies, and how it is called. ``can_carry_out``
says whether the numba at hand has them.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from radixserve_kernels.cpu.compiling import Call, Kernel, noting, serial_kernel
from radixserve_kernels.cpu.integers import store_int64

# The name is that of the whole engine's log, whose level people set.
logger = logging.getLogger("radixserve.kernels")

MAX_INTEGERS = 24
"""Arguments of a kernel; a float may follow."""
FIRST_ARGUMENT = 3
FIELDS = FIRST_ARGUMENT + MAX_INTEGERS + 1

_LONG = ir.IntType(64)
_DOUBLE = ir.DoubleType()


class Calls:
    """A list of launches that can be carried out again and again, with arguments changed."""

    __slots__ = ("_address", "_kept", "table")

    def __init__(self, calls: Sequence[Call]) -> None:
        """*Cost*: compiles what has not been."""
        self.table = np.zeros((len(calls), FIELDS), dtype=np.int64)
        """int64[calls, FIELDS]: what arguments may be changed in."""
        for row, call in zip(self.table, calls, strict=True):
            row[:] = encoded(call)
        # Their machine code is theirs.
        self._kept = tuple(call.kernel for call in calls)
        self._address = self.table.ctypes.data

    def run(self) -> None:
        """Carry them out, in order. *Cost*: that of the kernels, and 1 us."""
        make_carry_out()(self._address, len(self.table))


@cache
def can_carry_out() -> bool:
    """Whether lists can be carried out in this process; if not, the log says why, once.

    *Cost*: compiles a kernel that puts a number down, and what carries it out.
    """
    found = np.zeros(1, dtype=np.int64)
    try:
        with noting() as calls:
            make_put()(found.ctypes.data, 7)
        Calls(calls).run()
        if found[0] != 7:
            raise RuntimeError(f"a kernel that was to put 7 down put {found[0]}")
    except Exception as error:
        logger.warning(
            "with numba %s decode steps of few rows are launched kernel by kernel, slower: %r",
            numba.__version__,
            error,
        )
        return False
    return True


def encoded(call: Call) -> npt.NDArray[np.int64]:
    """A launch as a row of the table."""
    row = np.zeros(FIELDS, dtype=np.int64)
    has_float = isinstance(call.arguments[-1], float)
    num_integers = len(call.arguments) - has_float
    assert 0 < num_integers <= MAX_INTEGERS, num_integers
    end = FIRST_ARGUMENT + num_integers
    code = machine_code(call.kernel, num_integers, has_float=has_float)
    row[:FIRST_ARGUMENT] = code, num_integers, has_float
    row[FIRST_ARGUMENT:end] = call.arguments[:num_integers]
    if has_float:
        row[end : end + 1] = np.array(call.arguments[-1:], dtype=np.float64).view(np.int64)
    return row


@cache
def machine_code(kernel: Kernel, num_integers: int, *, has_float: bool) -> int:
    """Where a kernel of such arguments lies. *Raises* ``LookupError`` if numba does not say.
    *Cost*: compiles it, if that has not been done."""
    dispatcher: Any = kernel.dispatcher
    signature = (types.int64,) * num_integers + (types.float64,) * has_float
    dispatcher.compile(signature)
    compiled = dispatcher.overloads[signature]
    address: int = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    if not address:
        raise LookupError(f"no machine code is known for {compiled.fndesc.llvm_func_name}")
    return address


@cache
def make_put() -> Kernel:
    """The kernel that lists are tried with."""

    def put(to: int, number: int) -> None:
        store_int64(to, 0, number)

    return serial_kernel(put)


@cache
def make_carry_out() -> Kernel:
    """The kernel that launches others."""

    def carry_out(table: int, num_calls: int) -> None:
        for index in range(num_calls):
            _call(table + index * FIELDS * 8)

    return serial_kernel(carry_out)


@intrinsic
def _call(typing_context: Any, row: Any) -> Any:
    """Launch what a row of the table says.

    Functions of every number of arguments are spelled out, since how arguments are passed is the
    platform's affair. Kernels raise nothing, so what they return is not looked at.
    """

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        fields = builder.inttoptr(arguments[0], _LONG.as_pointer())

        def field(index: int) -> Any:
            return builder.load(builder.gep(fields, [ir.Constant(_LONG, index)]))

        kernel, num_integers, has_float = (field(index) for index in range(FIRST_ARGUMENT))
        which = builder.add(builder.shl(num_integers, ir.Constant(_LONG, 1)), has_float)
        end = builder.append_basic_block("called")
        switch = builder.switch(which, end)
        result = cgutils.alloca_once(builder, context.call_conv.get_return_type(types.void).pointee)
        error = None
        for count in range(1, MAX_INTEGERS + 1):
            for floats in (0, 1):
                case = builder.append_basic_block(f"arguments{count}_{floats}")
                switch.add_case(ir.Constant(_LONG, 2 * count + floats), case)
                builder.position_at_end(case)
                wanted = [types.int64] * count + [types.float64] * floats
                function = context.call_conv.get_function_type(types.void, wanted)
                if error is None:
                    error = cgutils.alloca_once(builder, function.args[1].pointee)
                given = [field(FIRST_ARGUMENT + index) for index in range(count)]
                if floats:
                    given.append(builder.bitcast(field(FIRST_ARGUMENT + count), _DOUBLE))
                callee = builder.inttoptr(kernel, function.as_pointer())
                builder.call(callee, [result, error, *given])
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(types.int64), generate
