"""Lists of launches: the same kernels with the same arguments, in order."""

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from numba import types

from radixserve_kernels.cpu import calls as calls_module
from radixserve_kernels.cpu import compiling
from radixserve_kernels.cpu.calls import (
    FIRST_ARGUMENT,
    MAX_INTEGERS,
    Calls,
    can_carry_out,
    machine_code,
)
from radixserve_kernels.cpu.compiling import Call, noting, serial_kernel
from radixserve_kernels.cpu.numbers import FLOAT32, store
from radixserve_kernels.linear.cpu import Product


# fmt: off
@cache
def make_most() -> Any:
    def most(out, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12,  # type: ignore[no-untyped-def] # kernels have no types
             a13, a14, a15, a16, a17, a18, a19, a20, a21, a22, a23, x):
        for index, number in enumerate((a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12,
                                        a13, a14, a15, a16, a17, a18, a19, a20, a21, a22, a23)):
            store(out, index, FLOAT32, number)
        store(out, 23, FLOAT32, x)

    return serial_kernel(most)
# fmt: on


@cache
def make_least() -> Any:
    def least(out):  # type: ignore[no-untyped-def] # kernels have no types
        store(out, 0, FLOAT32, 7.0)

    return serial_kernel(least)


def test_every_argument_is_where_it_belongs() -> None:
    """The fewest, and the most, whose last is a float."""
    out, other = torch.zeros(MAX_INTEGERS), torch.zeros(1)
    numbers = range(1, MAX_INTEGERS)
    with noting() as calls:
        make_most()(out.data_ptr(), *numbers, 0.25)
        make_least()(other.data_ptr())
    assert not out.any(), "noted, and not carried out"
    Calls(calls).run()
    assert out.tolist() == [*numbers, 0.25]
    assert other.tolist() == [7.0]


def test_launches_keep_their_order_and_take_what_has_been_changed() -> None:
    weights = [torch.randn(8, 32), torch.randn(32, 8)]
    weights[1] = torch.cat([weights[1], torch.zeros(32, 24)], dim=1)
    first, second = (Product(weight) for weight in weights)
    x, between, out = torch.randn(2, 32), torch.zeros(2, 32), torch.zeros(2, 32)
    narrow = torch.zeros(2, 8)
    with noting() as noted:
        first(x, narrow)
        second(between, out)
    calls = Calls(noted)
    calls.run()
    assert torch.equal(narrow, first(x))
    assert torch.equal(out, second(between))
    other = torch.randn(2, 32)
    calls.table[0, FIRST_ARGUMENT] = other.data_ptr()
    calls.table[1, FIRST_ARGUMENT] = x.data_ptr()
    calls.run()
    assert torch.equal(narrow, first(other))
    assert torch.equal(out, second(x))


def test_launches_are_noted_by_one_at_a_time_and_then_no_more() -> None:
    with noting() as outer, pytest.raises(AssertionError, match="being noted already"), noting():
        pass
    assert outer == []
    out = torch.zeros(1)
    make_least()(out.data_ptr())
    assert outer == []
    assert out.tolist() == [7.0]


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Whether lists can be carried out, and where code lies, is found out anew."""
    for each in (can_carry_out, machine_code):
        each.cache_clear()
    yield
    for each in (can_carry_out, machine_code):
        each.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_lists_are_carried_out_with_this_numba(caplog: pytest.LogCaptureFixture) -> None:
    assert can_carry_out()
    assert not caplog.records


class OtherKernel:
    """A kernel by a numba that does not tell where code lies."""

    def __init__(self, address: int | None) -> None:
        self.dispatcher = self.library = self.fndesc = self
        self.overloads = {(types.int64, types.int64): self}
        self.llvm_func_name = "put"
        if address is not None:
            self.get_pointer_to_function = lambda _: address

    def compile(self, _signature: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        assert compiling._notes.calls is not None
        compiling._notes.calls.append(Call(self, arguments))  # type: ignore[arg-type]  # it stands for one


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("address", "words"), [(None, "get_pointer_to_function"), (0, "no machine code is known")]
)
def test_another_numba_carries_out_none_and_is_told_of(
    address: int | None,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No null pointer is called."""
    caplog.set_level(logging.WARNING, logger="radixserve.kernels")
    monkeypatch.setattr(calls_module, "make_put", lambda: OtherKernel(address))
    assert not can_carry_out()
    assert not can_carry_out()
    (record,) = caplog.records
    assert "launched kernel by kernel" in record.getMessage()
    assert words in record.getMessage()
