"""The norm kernel against float64, and against torch's own at the same dtype."""

import pytest
import torch

from radixserve_kernels.rms_norm.cases import TEST_CASES, RmsNormCase, make_inputs
from radixserve_kernels.rms_norm.kernel import (
    LOOP_BLOCK,
    MAX_BLOCK,
    add_rms_norm,
    block_size,
    num_warps,
    rms_norm,
)
from tests.kernels.judging import (
    DEVICE,
    DTYPES,
    assert_same_bits,
)
from tests.kernels.rms_norm_judge import EPS, RmsNormJudge

JUDGE = RmsNormJudge(rms_norm, add_rms_norm)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TEST_CASES, ids=str)
def test_norm(case: RmsNormCase, dtype: torch.dtype) -> None:
    inputs = make_inputs(case, dtype, DEVICE)
    JUDGE.check_norm(inputs.hidden, inputs.weight)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TEST_CASES, ids=str)
def test_norm_of_a_sum(case: RmsNormCase, dtype: torch.dtype) -> None:
    JUDGE.check_sum(make_inputs(case, dtype, DEVICE))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [6e4, 1e-3, 6e-8, 0.0], ids=str)
def test_squares_that_half_precision_cannot_hold(size: float, dtype: torch.dtype) -> None:
    JUDGE.check_squares(size, dtype, DEVICE)


def test_epsilon_counts() -> None:
    JUDGE.check_epsilon(DEVICE)


@pytest.mark.parametrize("hidden", [1_000, MAX_BLOCK + 1])
def test_a_row_does_not_depend_on_its_batch(hidden: int) -> None:
    inputs = make_inputs(RmsNormCase(7, hidden), torch.bfloat16, DEVICE)
    together = rms_norm(inputs.hidden, inputs.weight, EPS)
    for row in (0, 3, 6):
        alone = rms_norm(inputs.hidden[row : row + 1], inputs.weight, EPS)
        assert_same_bits(alone[0], together[row])


def test_a_row_is_kept_in_registers_as_long_as_it_fits() -> None:
    assert [block_size(hidden) for hidden in (64, 1_000, 5_120, MAX_BLOCK)] == [
        64,
        1_024,
        8_192,
        MAX_BLOCK,
    ]
    assert block_size(MAX_BLOCK + 1) == LOOP_BLOCK
    assert [num_warps(block) for block in (64, 1_024, 4_096, MAX_BLOCK)] == [1, 2, 8, 16]


def test_what_does_not_fit_is_refused() -> None:
    x, weight = torch.zeros(4, 8, device=DEVICE), torch.zeros(8, device=DEVICE)
    with pytest.raises(ValueError, match=r"x: expected shape \[T, hidden\], got \[4, 2, 8\]"):
        rms_norm(x[:, None].expand(4, 2, 8), weight, EPS)
    with pytest.raises(ValueError, match="x: expected float16 or bfloat16 or float32, got float64"):
        rms_norm(x.double(), weight, EPS)
    with pytest.raises(ValueError, match="x: expected a contiguous tensor, got shape"):
        rms_norm(x[:, :4], weight[:4], EPS)
    with pytest.raises(ValueError, match=r"weight: expected shape \[8\], got \[7\]"):
        rms_norm(x, weight[:7], EPS)
    with pytest.raises(ValueError, match="weight: expected float32, got bfloat16"):
        rms_norm(x, weight.bfloat16(), EPS)
    with pytest.raises(ValueError, match=r"update: expected shape \[4, 8\], got \[3, 8\]"):
        add_rms_norm(x, x[:3], weight, EPS)
    with pytest.raises(ValueError, match=r"x: expected a tensor on .*, got one on meta"):
        rms_norm(x.to("meta"), weight, EPS)
    with pytest.raises(ValueError, match=r"weight: expected a tensor on .*, as x is, got .* meta"):
        rms_norm(x, weight.to("meta"), EPS)
