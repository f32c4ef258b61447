"""Lists of launches: the same kernels with the same arguments, in order."""

from functools import cache
from typing import Any

import pytest
import torch

from radixserve_kernels.cpu.calls import FIRST_ARGUMENT, MAX_INTEGERS, Calls
from radixserve_kernels.cpu.compiling import noting, serial_kernel
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
