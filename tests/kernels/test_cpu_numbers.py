"""Numbers in memory and what becomes of them: every 16-bit pattern, both ways, against torch."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from numba import prange
from numba.core.errors import TypingError

from radixserve_kernels.cpu.compiling import kernel
from radixserve_kernels.cpu.numbers import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    KINDS,
    load,
    load_index,
    load_input,
    store,
)
from tests.kernels.judging import assert_same_bits

HALVES = (torch.bfloat16, torch.float16)


@cache
def make_convert(from_kind: int, to_kind: int) -> Callable[..., None]:
    def convert(source, target, count):  # type: ignore[no-untyped-def] # kernels have no types
        for index in prange(count):
            store(target, index, to_kind, load(source, index, from_kind))

    return kernel(convert)


@cache
def make_pick(kind: int) -> Callable[..., None]:
    def pick(source, rows, target, count):  # type: ignore[no-untyped-def] # kernels have no types
        for index in prange(count):
            store(target, index, kind, load_input(source, load_index(rows, index), kind))

    return kernel(pick)


def converted(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    # With a number before and one behind, which are to stay.
    target = torch.full((len(numbers) + 2,), 7.0, dtype=dtype)
    convert = make_convert(KINDS[numbers.dtype], KINDS[dtype])
    convert(numbers.data_ptr(), target.data_ptr() + dtype.itemsize, len(numbers))
    assert target[0] == target[-1] == 7.0
    return target[1:-1]


def assert_same_numbers(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """To the bit, but for which NaN it is."""
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert_same_bits(
        ours.nan_to_num(posinf=torch.inf, neginf=-torch.inf),
        theirs.nan_to_num(posinf=torch.inf, neginf=-torch.inf),
    )


def every_pattern(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_pattern_is_widened(dtype: torch.dtype) -> None:
    numbers = every_pattern(dtype)
    assert_same_numbers(converted(numbers, torch.float32), numbers.float())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_pattern_survives(dtype: torch.dtype) -> None:
    numbers = every_pattern(dtype)
    assert_same_numbers(converted(numbers, dtype), numbers)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_rounding_is_to_nearest_even(dtype: torch.dtype) -> None:
    """Of the middles between neighbours, and of what lies next to a middle."""
    bits = every_pattern(dtype).float()
    numbers = bits[bits.isfinite()].double()
    # float64 holds the middle of any two; float32 holds it too, but for float16's next to none.
    up = torch.nextafter(numbers.to(dtype), torch.tensor(torch.inf, dtype=dtype)).double()
    middles = ((numbers + up) / 2)[up.isfinite()].float()
    above = torch.nextafter(middles, torch.tensor(torch.inf))
    below = torch.nextafter(middles, torch.tensor(-torch.inf))
    wide = torch.cat((middles, above, below))
    assert_same_numbers(converted(wide, dtype), wide.to(dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_any_float32_is_rounded_as_torch_rounds_it(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(-(1 << 31), 1 << 31, (200_000,), generator=generator)
    special = torch.tensor(
        [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65519.9, 65520.0, 3.39e38, -3.4e38, 1e-45]
    )
    # The smallest and the largest NaN, of both signs: all of their payload is shifted out.
    nans = torch.tensor([0x7F800001, 0x7FFFFFFF, -0x7FFFFF, -1], dtype=torch.int32)
    wide = torch.cat((bits.int().view(torch.float32), special, nans.view(torch.float32)))
    assert_same_numbers(converted(wide, dtype), wide.to(dtype))


def test_float32_stays_what_it_is() -> None:
    generator = torch.Generator().manual_seed(2)
    bits = torch.randint(-(1 << 31), 1 << 31, (10_000,), generator=generator).int()
    assert_same_bits(converted(bits.view(torch.float32), torch.float32).view(torch.int32), bits)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32], ids=str)
def test_inputs_are_found_by_indices(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    source = torch.randn(1_000, generator=generator).to(dtype)
    rows = torch.randint(0, 1_000, (333,), generator=generator)
    target = torch.full((333,), torch.nan, dtype=dtype)
    make_pick(KINDS[dtype])(source.data_ptr(), rows.data_ptr(), target.data_ptr(), 333)
    assert_same_bits(target, source[rows])


def test_a_kind_that_is_no_constant_does_not_compile() -> None:
    def convert(source, target, kind):  # type: ignore[no-untyped-def] # kernels have no types
        for index in prange(1):
            store(target, index, FLOAT32, load(source, index, kind))

    assert {BFLOAT16, FLOAT16, FLOAT32} == set(KINDS.values())
    with pytest.raises(TypingError):
        kernel(convert)(0, 0, FLOAT32)
