"""What norms have to be, whichever kernels compute them: against float64 and against torch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from radixserve_kernels.rms_norm.cases import RmsNormCase, RmsNormInputs, make_inputs
from radixserve_kernels.rms_norm.reference import add_rms_norm_reference, rms_norm_reference
from tests.kernels.judging import (
    assert_as_close_as_torch,
    assert_same_bits,
    nan_filled_outputs,
)

EPS = 1e-6


class RmsNormJudge:
    """Of two kernels, called as ``rms_norm_reference`` and ``add_rms_norm_reference`` are."""

    def __init__(
        self,
        rms_norm: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
        add_rms_norm: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor],
    ) -> None:
        self._rms_norm = rms_norm
        self._add_rms_norm = add_rms_norm

    def check_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float = EPS) -> torch.Tensor:
        """Returns the norm."""
        before = x.clone()
        with nan_filled_outputs():
            ours = self._rms_norm(x, weight, eps)
        theirs = F.rms_norm(x, weight.shape, weight, eps)
        assert_as_close_as_torch(ours, theirs, rms_norm_reference(x, weight, eps))
        assert_same_bits(x, before)
        return ours

    def check_sum(self, inputs: RmsNormInputs) -> None:
        """*Mutates* ``inputs.hidden``."""
        hidden, update, weight = inputs.hidden, inputs.update, inputs.weight
        expected, update_before = hidden.clone(), update.clone()
        exact = add_rms_norm_reference(expected, update, weight, EPS)
        with nan_filled_outputs():
            ours = self._add_rms_norm(hidden, update, weight, EPS)
        # The sum itself is torch's to the bit: it is what the next layer adds to.
        assert_same_bits(hidden, expected)
        assert_same_bits(update, update_before)
        assert_as_close_as_torch(ours, F.rms_norm(expected, weight.shape, weight, EPS), exact)

    def check_squares(self, size: float, dtype: torch.dtype, device: torch.device) -> None:
        """Of numbers whose squares half precision cannot hold."""
        inputs = make_inputs(RmsNormCase(4, 1_000), dtype, device)
        signs = torch.where(inputs.hidden < 0, -1.0, 1.0).to(dtype)
        x = signs * torch.tensor(size, device=device).to(dtype)
        # One row of nothing but zeros beside the others.
        x[2] = 0.0
        assert self.check_norm(x, inputs.weight)[2].count_nonzero() == 0

    def check_epsilon(self, device: torch.device) -> None:
        """It counts beside small numbers."""
        inputs = make_inputs(RmsNormCase(2, 96), torch.float32, device)
        for eps in (1e-5, 1e-2, 0.0):
            self.check_norm(inputs.hidden * 1e-3, inputs.weight, eps)
