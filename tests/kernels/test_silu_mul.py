"""The gated activation's kernel against float64, and against torch's own at the same dtype."""

import pytest
import torch

from radixserve_kernels.silu_mul.cases import TEST_CASES, SiluMulCase, make_gate_up
from radixserve_kernels.silu_mul.kernel import silu_mul
from radixserve_kernels.silu_mul.reference import silu_mul_reference
from tests.kernels.judging import (
    DEVICE,
    DTYPES,
    assert_as_close_as_torch,
)
from tests.kernels.silu_mul_judge import check_silu_mul, silu_mul_by_torch


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TEST_CASES, ids=str)
def test_gated_activation(case: SiluMulCase, dtype: torch.dtype) -> None:
    check_silu_mul(silu_mul, make_gate_up(case, dtype, DEVICE))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gates_of_every_size(dtype: torch.dtype) -> None:
    gates = [0.0, -0.0, 1e-7, -1e-7, 20.0, -20.0, 88.0, -88.0, 104.0, -104.0, 6e4, -6e4]
    gate = torch.tensor(gates, device=DEVICE).to(dtype)
    for factor in (1.0, -0.5):
        gate_up = torch.cat((gate, torch.full_like(gate, factor)))[None]
        ours, exact = silu_mul(gate_up), silu_mul_reference(gate_up)
        assert ours.isfinite().all()
        # One by one: beside the largest, every error of the others would be small.
        for column in range(len(gates)):
            assert_as_close_as_torch(
                ours[:, column], silu_mul_by_torch(gate_up)[:, column], exact[:, column]
            )


def test_infinite_gates_and_nan_stay_what_they_are() -> None:
    gate_up = torch.tensor([[torch.inf, torch.nan, 1.0, 2.0]], device=DEVICE)
    out = silu_mul(gate_up)
    assert out[0, 0] == torch.inf
    assert out[0, 1].isnan()


def test_what_does_not_fit_is_refused() -> None:
    gate_up = torch.zeros(4, 8, device=DEVICE)
    with pytest.raises(ValueError, match=r"expected shape \[T, 2 \* inner\], got \[8\]"):
        silu_mul(gate_up[0])
    with pytest.raises(ValueError, match="expected an even number of columns, got 7"):
        silu_mul(gate_up[:, :7].contiguous())
    with pytest.raises(ValueError, match="expected a contiguous tensor"):
        silu_mul(gate_up[:, :6])
    with pytest.raises(ValueError, match="got int64"):
        silu_mul(gate_up.long())
