"""Log-probabilities of chosen tokens and of the likeliest ones: computed on the device, told later.

They are the model's own: the log-softmax of the raw logits, before penalties, bias, temperature and
truncation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from radixserve.device.transfer import Transfer
from radixserve.sampling.row import SampleRow
from radixserve.types import TokenLogprob

MAX_LOGITS = 1 << 24
"""Logits that are normalised at a time: bounds their float32 copy to 64 MiB."""


class LogprobTensors(NamedTuple):
    """Of the rows that want log-probabilities, in their order."""

    own: torch.Tensor
    """float32[L], of the chosen token."""
    top: torch.Tensor
    """float32[L, C], of the likeliest, C being the most that any row wants."""
    top_ids: torch.Tensor
    """int64[L, C]."""


def wants_logprobs(rows: Sequence[SampleRow]) -> list[int]:
    """Numbers of the rows that want log-probabilities."""
    return [number for number, row in enumerate(rows) if row.params.logprobs is not None]


def launch_logprobs(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    rows: Sequence[SampleRow],
    numbers: Sequence[int],
    transfer: Transfer,
) -> LogprobTensors:
    """For the rows with these ``numbers``, at least one. ``token_ids``: int64[R], chosen.

    *Cost*: a few passes over their logits, and a partial ranking. Never waits for the device.
    """
    logits_rows, places = transfer.put(
        np.array([rows[number].logits_row for number in numbers], dtype=np.int64),
        np.array(numbers, dtype=np.int64),
    )
    chosen = token_ids.index_select(0, places)
    vocab_size = logits.shape[1]
    count = min(max(rows[number].params.logprobs or 0 for number in numbers), vocab_size)
    step = max(1, MAX_LOGITS // vocab_size)
    parts = [
        _logprobs(logits, logits_rows[first : first + step], chosen[first : first + step], count)
        for first in range(0, len(numbers), step)
    ]
    return LogprobTensors(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _logprobs(
    logits: torch.Tensor, logits_rows: torch.Tensor, chosen: torch.Tensor, count: int
) -> LogprobTensors:
    return logprobs_of(logits.index_select(0, logits_rows).float(), chosen, count)


def logprobs_of(raw: torch.Tensor, chosen: torch.Tensor, count: int) -> LogprobTensors:
    """Of the tokens ``chosen``, int64[L], by the raw logits float32 [L, V], and of the ``count``
    likeliest. Never waits for the device."""
    norm = raw.logsumexp(dim=-1, keepdim=True)
    own = (raw.gather(1, chosen.unsqueeze(-1)) - norm).squeeze(-1)
    values, ids = raw.topk(count, dim=-1)
    return LogprobTensors(own, values - norm, ids)


def told(
    tensors: LogprobTensors, token_ids: Sequence[int], counts: Sequence[int]
) -> list[TokenLogprob]:
    """The same as plain data. ``tensors`` are on the host; ``counts``: how many each row wants."""
    found = []
    for token_id, count, own, top, top_ids in zip(
        token_ids, counts, *(tensor.tolist() for tensor in tensors), strict=True
    ):
        best = list(zip(top_ids, top, strict=True))[:count]
        found.append(TokenLogprob(token_id=token_id, logprob=own, top=best))
    return found
