"""Log-probabilities of tokens that are known: a prompt scored, computed on the device, told later.

A chunk of a prompt has a row of logits for each of its tokens, and a large vocabulary makes these
gigabytes. So they are made a few rows at a time, from the hidden states, and only their
log-probabilities are kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from radixserve.device.transfer import Fetch, Transfer
from radixserve.ids import TokenArray
from radixserve.sampling.logprobs import MAX_LOGITS, LogprobTensors, logprobs_of, told
from radixserve.types import TokenLogprob


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """Tokens of one prompt to be scored."""

    token_ids: TokenArray
    count: int
    """How many of the likeliest tokens at each place are wanted besides."""


class Scores:
    """The log-probabilities of one launch: on the host when waited for."""

    def __init__(self, rows: Sequence[ScoreRow], fetch: Fetch) -> None:
        self._rows = rows
        self._fetch = fetch

    def wait(self) -> list[tuple[TokenLogprob, ...]]:
        """By row, one per token."""
        tensors = LogprobTensors(*self._fetch.wait())
        token_ids = [token_id for row in self._rows for token_id in row.token_ids.tolist()]
        counts = [row.count for row in self._rows for _ in range(len(row.token_ids))]
        entries = iter(told(tensors, token_ids, counts))
        return [tuple(next(entries) for _ in row.token_ids) for row in self._rows]


def launch_scores(
    hidden: torch.Tensor,
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    rows: Sequence[ScoreRow],
    transfer: Transfer,
    *,
    vocab_size: int,
) -> Scores:
    """Begin to score the rows' tokens, at least one.

    ``hidden``: [K, hidden_size], the states after the tokens before them, row by row; ``logits_of``
    makes [k, vocab_size] of k of them. Never waits for a GPU. *Cost*: the model's last product over
    K rows, and a few passes over its result.
    """
    wanted = np.concatenate([row.token_ids for row in rows]).astype(np.int64)
    (chosen,) = transfer.put(wanted)
    count = min(max(row.count for row in rows), vocab_size)
    step = max(1, MAX_LOGITS // vocab_size)
    parts = [
        logprobs_of(
            logits_of(hidden[first : first + step]).float(), chosen[first : first + step], count
        )
        for first in range(0, len(wanted), step)
    ]
    return Scores(rows, transfer.fetch(*(torch.cat(each) for each in zip(*parts, strict=True))))
