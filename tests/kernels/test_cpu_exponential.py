"""The exponential that loops are vectorised with, against float64."""

from collections.abc import Callable
from functools import cache

import torch
from numba import prange

from radixserve_kernels.cpu.compiling import kernel
from radixserve_kernels.cpu.exponential import SMALLEST, exp_of_negative
from radixserve_kernels.cpu.numbers import FLOAT32, load, store
from tests.kernels.judging import assert_same_bits


@cache
def make_exp() -> Callable[..., None]:
    def exponentiate(x, out, count):  # type: ignore[no-untyped-def] # kernels have no types
        for index in prange(count):
            store(out, index, FLOAT32, exp_of_negative(load(x, index, FLOAT32)))

    return kernel(exponentiate)


def exponential(x: torch.Tensor) -> torch.Tensor:
    out = torch.full_like(x, torch.nan)
    make_exp()(x.data_ptr(), out.data_ptr(), len(x))
    return out


def in_last_places(ours: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """The error in units of the last place of a float32."""
    _, exponent = torch.frexp(exact)
    return (ours.double() - exact).abs() * torch.exp2(24.0 - exponent.double())


def test_the_error_is_at_most_that_of_the_last_place() -> None:
    # From -0.0 up to SMALLEST every 2,999th of the numbers there are.
    last = torch.tensor(SMALLEST).view(torch.int32).item()
    first = torch.tensor(-0.0).view(torch.int32).item()
    x = torch.arange(int(first), int(last) + 1, 2_999, dtype=torch.int32).view(torch.float32)
    assert len(x) > 300_000
    assert bool((x[-1] < -86.9) & (x <= 0).all())
    error = in_last_places(exponential(x), x.double().exp())
    assert float(error.max()) <= 1.0


def test_both_ends_and_nan() -> None:
    x = torch.tensor([0.0, -0.0, -1e-40, SMALLEST, -87.0001, -88.0, -1e30, -torch.inf, torch.nan])
    ours = exponential(x)
    assert ours[:3].tolist() == [1.0, 1.0, 1.0]
    assert float(in_last_places(ours[3:4], x[3:4].double().exp())) <= 1.0
    assert ours[4:8].tolist() == [0.0] * 4
    assert bool(ours[8].isnan())


def test_a_number_does_not_depend_on_those_beside_it() -> None:
    x = -torch.rand(517, generator=torch.Generator().manual_seed(1)) * 80
    together = exponential(x)
    assert_same_bits(torch.cat([exponential(x[n : n + 1]) for n in range(len(x))]), together)
