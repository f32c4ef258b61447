"""Products of few rows against float64, as this processor computes them and as others do."""

import math
import os
import subprocess
import sys
from functools import cache

import pytest
import torch

from radixserve_kernels.cpu.machine import Machine, machine
from radixserve_kernels.linear.cpu import Product, fits, unpack_int4
from radixserve_kernels.linear.reference import (
    GROUP,
    linear_reference,
    weight_of_int4,
    weight_of_int8,
)
from tests.kernels.judging import assert_same_bits, nan_filled_outputs

pytestmark = pytest.mark.usefixtures("two_threads")

DTYPES = (torch.float32, torch.bfloat16)
KINDS = ("same", "int8", "int4")
OTHERS = (("same", Machine(8, False)), ("int8", Machine(8, False)))
"""With half of the lanes, without products of pairs. Each is compiled: not all."""
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
"""Of a result relative to the greatest: half a unit in bfloat16's last place, and the sums' own."""
COUNTS = (*range(1, 10), 13, 64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def weight_of(
    kind: str, shape: tuple[int, int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """As it is kept, its scales, and what it means: off centre, and of different sizes."""
    num_outputs, num_inputs = shape
    sizes = torch.linspace(0.2, 3.0, num_outputs) / math.sqrt(num_inputs)
    if kind == "same":
        weight = (random(*shape) * sizes.unsqueeze(1) + 0.01).to(dtype)
        return weight, None, weight
    if kind == "int8":
        quantised = (random(*shape) * 50 + 3).round().clamp(-127, 127).to(torch.int8)
        scales = (sizes / 127).to(dtype)
        return quantised, scales, weight_of_int8(quantised, scales)
    packed = (random(num_outputs, num_inputs // 2) * 1e6).long().to(torch.uint8)
    groups = random(2, num_outputs, num_inputs // GROUP, seed=1) * sizes.view(1, -1, 1) / 8
    pairs = groups.permute(1, 2, 0).contiguous().to(dtype)
    return packed, pairs, weight_of_int4(packed, pairs)


def check(kind: str, dtype: torch.dtype, shape: tuple[int, int], on: Machine | None) -> None:
    """Every number of rows, with and without a bias."""
    weight, scales, meant = weight_of(kind, shape, dtype)
    # Half bytes with their scales may be rounded to bfloat16 before they are multiplied.
    limit = ROUNDING[dtype] * (2 if kind == "int4" else 1)
    for bias in (None, random(shape[0], seed=2).to(dtype)):
        product = Product(weight, bias, scales, on=on)
        for count in COUNTS:
            x = random(count, shape[1], seed=count).to(dtype)
            with nan_filled_outputs():
                found = product(x)
            expected = linear_reference(x, meant, bias)
            assert found.dtype == dtype
            assert found.shape == expected.shape
            error = (found.double() - expected).abs().max() / expected.abs().max()
            assert float(error) < limit, (count, bias is None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(96, 64), (4, 32), (5, 160), (101, 77), (70, 815)], ids=str)
def test_products(kind: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    # In 4 bits inputs come in groups.
    num_inputs = -(-shape[1] // GROUP) * GROUP if kind == "int4" else shape[1]
    check(kind, dtype, (shape[0], num_inputs), None)


@pytest.mark.parametrize(("kind", "on"), OTHERS, ids=str)
def test_products_as_other_processors_compute_them(kind: str, on: Machine) -> None:
    check(kind, torch.bfloat16, (37, 96 if kind == "int4" else 77), on)


@pytest.mark.parametrize("on", [None, Machine(8, False)], ids=str)
def test_a_result_in_the_middle_goes_to_the_even_side(on: Machine | None) -> None:
    weight = torch.zeros(8, 32)
    weight[:, 0] = 1 + torch.arange(8) / 128
    weight[:, 1] = 1 / 256
    x = torch.ones(1, 32)
    found = Product(weight.bfloat16(), on=on)(x.bfloat16())
    assert torch.equal(found, (x @ weight.T).bfloat16())


OLD = """
import torch
from tests.kernels import test_linear_cpu
assert test_linear_cpu.machine() == test_linear_cpu.Machine(4, False)
test_linear_cpu.check("int4", torch.bfloat16, (37, 96), None)
test_linear_cpu.test_half_bytes_are_unpacked(torch.bfloat16)
"""


def test_numbers_are_rounded_by_processors_that_have_no_instruction_for_it() -> None:
    """What LLVM spells out for them must be there: an absent function ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", OLD],
        env=os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_in_any_company(kind: str, dtype: torch.dtype) -> None:
    weight, scales, _ = weight_of(kind, (70, 96), dtype)
    product = Product(weight, None, scales)
    x = random(40, 96, seed=3).to(dtype)
    alone = torch.cat([product(row.unsqueeze(0)) for row in x])
    for count in (2, 5, 8, 40):
        assert_same_bits(product(x[:count]), alone[:count])
    x[3, 5], x[4, 95], x[6, 0] = torch.nan, torch.inf, -torch.inf
    found = product(x)
    assert bool(found[3].isnan().all())
    assert not bool(found[[4, 6]].isfinite().any())
    sound = [row for row in range(40) if row not in (3, 4, 6)]
    assert_same_bits(found[sound], alone[sound])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_beside_the_weight_counts(kind: str) -> None:
    """What lies before and behind is read by nobody, or its NaN would be in some result."""
    dtype = torch.bfloat16
    shape = (9, 96 if kind == "int4" else 45)
    weight, scales, meant = weight_of(kind, shape, dtype)
    x = torch.full((6, shape[1]), torch.nan, dtype=dtype)
    x[1:5] = random(4, shape[1], seed=1).to(dtype)
    if kind == "same":
        around = torch.full((3, *shape), torch.nan, dtype=dtype)
        around[1] = weight
        weight = around[1]
    out = Product(weight, None, scales)(x[1:5])
    expected = linear_reference(x[1:5], meant, None)
    assert float((out.double() - expected).abs().max() / expected.abs().max()) < 8e-3


def test_this_processor_is_known() -> None:
    capability = torch.backends.cpu.get_cpu_capability()
    assert machine().lanes == {"AVX512": 16, "AVX2": 8}.get(capability, 4)
    if torch.cpu._is_avx512_bf16_supported():
        assert machine().has_dots


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_half_bytes_are_unpacked(dtype: torch.dtype) -> None:
    packed, scales, meant = weight_of("int4", (37, 96), dtype)
    assert scales is not None
    out = torch.full((37, 96), torch.nan, dtype=dtype)
    unpack_int4(packed, scales, out)
    # Rounded once, and the product and the sum before it perhaps too.
    torch.testing.assert_close(out.double(), meant, rtol=ROUNDING[dtype], atol=1e-6)


def test_no_rows_give_none() -> None:
    weight, _, _ = weight_of("same", (96, 64), torch.float32)
    assert Product(weight)(torch.empty(0, 64)).shape == (0, 96)


def test_what_does_not_fit_is_refused() -> None:
    weight = torch.zeros(8, 64)
    assert fits(4, 32)
    assert not fits(3, 32)
    assert not fits(4, 31)
    with pytest.raises(ValueError, match="at least 4 outputs and 32 inputs, got 3 and 64"):
        Product(weight[:3])
    with pytest.raises(ValueError, match="expected a contiguous tensor"):
        Product(weight[:, :40])
    with pytest.raises(ValueError, match="weight: expected float32 or bfloat16, got float16"):
        Product(weight.half())
    with pytest.raises(ValueError, match=r"bias: expected shape \[8\], got \[7\]"):
        Product(weight, torch.zeros(7))
    with pytest.raises(ValueError, match="bias: expected float32, got bfloat16"):
        Product(weight, torch.zeros(8).bfloat16())
    with pytest.raises(ValueError, match="scales: expected a tensor beside a quantised weight"):
        Product(weight.to(torch.int8))
    with pytest.raises(ValueError, match=r"scales: expected shape \[8\], got \[8, 1\]"):
        Product(weight.to(torch.int8), scales=torch.ones(8, 1))
    with pytest.raises(ValueError, match=r"scales: expected shape \[8, 4, 2\], got \[8\]"):
        Product(weight.to(torch.uint8), scales=torch.ones(8))
    with pytest.raises(ValueError, match="a multiple of 32 inputs in 4 bits, got 80"):
        Product(weight[:, :40].to(torch.uint8), scales=torch.ones(8, 2, 2))
