"""How kernels are judged: against exact results, and relative to torch at the same dtype."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from radixserve_kernels import target

DEVICE = torch.device("cpu" if target.INTERPRETED else "cuda")
DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_FLOOR = 2.0**-22
"""Of the largest result: two roundings of a float32, which nobody can be blamed for."""


def assert_as_close_as_torch(ours: torch.Tensor, theirs: torch.Tensor, exact: torch.Tensor) -> None:
    """Our largest and our mean error are at most twice torch's. NaN never passes."""
    assert ours.shape == theirs.shape == exact.shape
    assert ours.dtype == theirs.dtype
    if exact.numel() == 0:
        return
    floor = _FLOOR * float(exact.abs().max())
    our_error, their_error = (ours.double() - exact).abs(), (theirs.double() - exact).abs()
    assert float(our_error.max()) <= 2 * float(their_error.max()) + floor
    assert float(our_error.mean()) <= 2 * float(their_error.mean()) + floor


def assert_same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to the bit, NaN included."""
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert torch.equal(ours.contiguous().view(torch.uint8), theirs.contiguous().view(torch.uint8))


@contextmanager
def nan_filled_outputs() -> Iterator[None]:
    """Within, tensors that torch makes without filling them are full of NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3, dtype=torch.bfloat16, device=DEVICE).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)
