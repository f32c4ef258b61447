"""The gated activation compiled for processors, against float64 and against torch's own."""

import pytest
import torch

from radixserve_kernels.silu_mul.cases import TEST_CASES, SiluMulCase, make_gate_up
from radixserve_kernels.silu_mul.cpu import ALONE, BLOCK, silu_mul
from radixserve_kernels.silu_mul.reference import silu_mul_reference
from tests.kernels.judging import (
    DTYPES,
    assert_same_bits,
)
from tests.kernels.silu_mul_judge import check_silu_mul

pytestmark = pytest.mark.usefixtures("two_threads")

CPU = torch.device("cpu")
# Once more: as long as a block, a little longer, and rows enough for several threads.
CASES = (*TEST_CASES, SiluMulCase(3, BLOCK), SiluMulCase(2, BLOCK + 1), SiluMulCase(9, ALONE // 7))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_silu_mul(case: SiluMulCase, dtype: torch.dtype) -> None:
    check_silu_mul(silu_mul, make_gate_up(case, dtype, CPU))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gates_of_every_size(dtype: torch.dtype) -> None:
    """Where exp overflows, where it vanishes, and where it is one: for each gate by itself, so that
    large results do not hide the errors of small ones."""
    gate = torch.linspace(-100.0, 100.0, 4_001).to(dtype)
    gate_up = torch.cat((gate, torch.ones_like(gate))).unsqueeze(0)
    exact, size = silu_mul_reference(gate_up), gate.double().abs().clamp(min=1.0)
    our_error = (silu_mul(gate_up).double() - exact).abs()
    # One rounding of the result, and powers that are taken to be zero.
    step = torch.finfo(dtype).eps / 2 * exact.abs() * (1.0 if dtype != torch.float32 else 6.0)
    assert bool((our_error <= step + 2 * torch.finfo(dtype).tiny * size).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_a_number_stays_where_it_is(dtype: torch.dtype) -> None:
    gate_up = make_gate_up(SiluMulCase(2, 96), dtype, CPU)
    expected = silu_mul(gate_up)
    gate_up[0, 5], gate_up[0, 96 + 7] = torch.nan, torch.nan
    gate_up[0, 9], gate_up[0, 96 + 9] = torch.inf, 1.0
    # As the definition has it: -inf / (1 + inf).
    gate_up[0, 11] = -torch.inf
    ours = silu_mul(gate_up)
    assert ours[0].isnan().nonzero().flatten().tolist() == [5, 7, 11]
    assert float(ours[0, 9]) == torch.inf
    ours[0, [5, 7, 9, 11]] = expected[0, [5, 7, 9, 11]]
    assert_same_bits(ours, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("inner", [1_001, BLOCK + 77])
def test_a_row_does_not_depend_on_its_batch(inner: int, dtype: torch.dtype) -> None:
    """Whether one thread computes them or several."""
    num_rows = ALONE // inner + 2
    gate_up = make_gate_up(SiluMulCase(num_rows, inner), dtype, CPU)
    together = silu_mul(gate_up)
    for row in (0, 2, num_rows - 1):
        assert_same_bits(silu_mul(gate_up[row : row + 1]), together[row : row + 1])


def test_what_does_not_fit_is_refused() -> None:
    gate_up = torch.zeros(4, 8)
    with pytest.raises(ValueError, match=r"gate_up: expected shape \[T, 2 \* inner\], got \[8\]"):
        silu_mul(gate_up[0])
    with pytest.raises(ValueError, match="gate_up: expected float16 or bfloat16 or float32"):
        silu_mul(gate_up.double())
    with pytest.raises(ValueError, match="gate_up: expected a contiguous tensor, got shape"):
        silu_mul(gate_up[:, :4])
    with pytest.raises(ValueError, match="gate_up: expected an even number of columns, got 7"):
        silu_mul(torch.zeros(4, 7))
    with pytest.raises(ValueError, match="gate_up: expected a tensor on the CPU, got one on meta"):
        silu_mul(gate_up.to("meta"))
