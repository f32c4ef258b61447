"""Biases and bans: single logits of a step that are added to, or become minus infinity.

Collected on the host as flat arrays over all rows, applied on any device by two indexed operations.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from radixserve.sampling.row import SampleRow


class Edits(NamedTuple):
    """An index is ``row * V + token``. Each occurs once among the biases."""

    bias_index: npt.NDArray[np.int64]
    biases: npt.NDArray[np.float32]
    ban_index: npt.NDArray[np.int64]


def collect_edits(rows: Sequence[SampleRow], vocab_size: int) -> Edits:
    """Every row's biases and bans. *Cost* of order of their number."""
    bias_index: list[int] = []
    biases: list[float] = []
    ban_index: list[int] = []
    for number, row in enumerate(rows):
        start = number * vocab_size
        bias_index += [start + token_id for token_id in row.params.logit_bias]
        biases += row.params.logit_bias.values()
        ban_index += [start + token_id for token_id in row.banned_ids]
    return Edits(
        np.array(bias_index, dtype=np.int64),
        np.array(biases, dtype=np.float32),
        np.array(ban_index, dtype=np.int64),
    )


def apply_edits(
    logits: torch.Tensor, bias_index: torch.Tensor, biases: torch.Tensor, ban_index: torch.Tensor
) -> None:
    """*Mutates* ``logits``, float32[R, V], contiguous. Never waits for the device."""
    flat = logits.view(-1)
    if len(bias_index):
        flat.scatter_add_(0, bias_index, biases)
    if len(ban_index):
        flat.index_fill_(0, ban_index, -torch.inf)
