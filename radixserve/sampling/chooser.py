"""What the sampler asks of its two ways of choosing tokens: on the host, or by kernels."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from radixserve.sampling.row import SampleRow

COLDEST = 1e-30
"""Temperatures below it are taken for it. Zero apart, the smallest are 0 in float32, and a little
above it quotients overflow; here a row is as good as greedy."""


class Chosen(NamedTuple):
    """One token per row, on the device."""

    token_ids: torch.Tensor
    """int64[R], valid ids everywhere."""
    is_sound: torch.Tensor
    """bool[R]: False where the row's processed logits hold a NaN or plus infinity (a broken model),
    or no token is left. There the id means nothing."""


class Chooser(Protocol):
    """Chooses tokens; the meaning is that of ``sampler.py``."""

    def choose(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], previous: torch.Tensor | None
    ) -> Chosen:
        """One token per row. ``logits``: [S, V], not changed; ``previous``: int64[...], where
        pending tokens are found."""
        ...
