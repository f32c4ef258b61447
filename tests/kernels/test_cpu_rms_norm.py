"""The norm compiled for processors, against float64 and against torch's own at the same dtype."""

import pytest
import torch

from radixserve_kernels.rms_norm.cases import TEST_CASES, RmsNormCase, make_inputs
from radixserve_kernels.rms_norm.cpu import ALONE, add_rms_norm, rms_norm
from tests.kernels.judging import (
    DTYPES,
    assert_same_bits,
)
from tests.kernels.rms_norm_judge import EPS, RmsNormJudge

pytestmark = pytest.mark.usefixtures("two_threads")

JUDGE = RmsNormJudge(rms_norm, add_rms_norm)
CPU = torch.device("cpu")
# Once more, with rows enough for several threads.
CASES = (*TEST_CASES, RmsNormCase(ALONE // 96 + 1, 96), RmsNormCase(3, ALONE))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_norm(case: RmsNormCase, dtype: torch.dtype) -> None:
    inputs = make_inputs(case, dtype, CPU)
    JUDGE.check_norm(inputs.hidden, inputs.weight)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_norm_of_a_sum(case: RmsNormCase, dtype: torch.dtype) -> None:
    JUDGE.check_sum(make_inputs(case, dtype, CPU))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [6e4, 1e-3, 6e-8, 0.0], ids=str)
def test_squares_that_half_precision_cannot_hold(size: float, dtype: torch.dtype) -> None:
    JUDGE.check_squares(size, dtype, CPU)


def test_epsilon_counts() -> None:
    JUDGE.check_epsilon(CPU)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_rows", [7, ALONE // 1_001 + 1])
def test_a_row_does_not_depend_on_its_batch(num_rows: int, dtype: torch.dtype) -> None:
    """Whether one thread computes them or several."""
    inputs = make_inputs(RmsNormCase(num_rows, 1_001), dtype, CPU)
    together = add_rms_norm(inputs.hidden.clone(), inputs.update, inputs.weight, EPS)
    for row in (0, 3, num_rows - 1):
        only = slice(row, row + 1)
        hidden, update = inputs.hidden[only].clone(), inputs.update[only]
        assert_same_bits(add_rms_norm(hidden, update, inputs.weight, EPS), together[only])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_a_number_stays_in_its_row(bad: float, dtype: torch.dtype) -> None:
    inputs = make_inputs(RmsNormCase(3, 1_000), dtype, CPU)
    expected = rms_norm(inputs.hidden, inputs.weight, EPS)
    inputs.hidden[1, 500] = bad
    ours = rms_norm(inputs.hidden, inputs.weight, EPS)
    assert bool(ours[1, 500].isnan())
    # Of infinity the others' norm is zero.
    assert bool((ours[1, :500] == 0 if bad == torch.inf else ours[1].isnan()).all())
    assert_same_bits(ours[::2], expected[::2])


def test_what_does_not_fit_is_refused() -> None:
    x, weight = torch.zeros(4, 8), torch.zeros(8)
    with pytest.raises(ValueError, match=r"x: expected shape \[T, hidden\], got \[4, 2, 8\]"):
        rms_norm(x[:, None].expand(4, 2, 8), weight, EPS)
    with pytest.raises(ValueError, match="x: expected float16 or bfloat16 or float32, got float64"):
        rms_norm(x.double(), weight, EPS)
    with pytest.raises(ValueError, match="x: expected a contiguous tensor, got shape"):
        rms_norm(x[:, :4], weight[:4], EPS)
    with pytest.raises(ValueError, match=r"weight: expected shape \[8\], got \[7\]"):
        rms_norm(x, weight[:7], EPS)
    with pytest.raises(ValueError, match="weight: expected a contiguous tensor, got shape"):
        rms_norm(x, torch.zeros(16)[::2], EPS)
    with pytest.raises(ValueError, match="weight: expected float32, got bfloat16"):
        rms_norm(x, weight.bfloat16(), EPS)
    with pytest.raises(ValueError, match=r"update: expected shape \[4, 8\], got \[3, 8\]"):
        add_rms_norm(x, x[:3], weight, EPS)
    with pytest.raises(ValueError, match="update: expected float32, got float16"):
        add_rms_norm(x, x.half(), weight, EPS)
    with pytest.raises(ValueError, match="update: expected a contiguous tensor, got shape"):
        add_rms_norm(x, torch.zeros(8, 4).t(), weight, EPS)
    with pytest.raises(ValueError, match="x: expected a tensor on the CPU, got one on meta"):
        rms_norm(x.to("meta"), weight, EPS)
    with pytest.raises(ValueError, match="weight: expected a tensor on the CPU, got one on meta"):
        rms_norm(x, weight.to("meta"), EPS)
    with pytest.raises(ValueError, match="update: expected a tensor on the CPU, got one on meta"):
        add_rms_norm(x, x.to("meta"), weight, EPS)
