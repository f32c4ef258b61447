"""Changes to single logits on the CPU: penalties, then bias, then bans.

The meaning is transformers' and vLLM's: the repetition penalty looks at prompt and answer and
divides positive logits, multiplies negative ones; presence and frequency penalties look at the
answer only and are subtracted, once and once per occurrence; a bias is added; a banned token gets
minus infinity. Applied in this order, before temperature.

Each is a handful of (row, token) entries; all rows' entries are applied in one indexed operation.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from radixserve.sampling.edits import apply_edits, collect_edits
from radixserve.sampling.row import SampleRow, has_penalties
from radixserve.sampling.seen_tokens import SeenTokens


def adjust_logits(
    logits: torch.Tensor,
    rows: Sequence[SampleRow],
    seen_tokens: SeenTokens,
    previous: torch.Tensor | None = None,
) -> None:
    """Apply every row's penalties, bias and bans. ``logits``: float32[len(rows), V], contiguous;
    ``previous``: int64[...], where pending tokens are found.

    *Mutates* ``logits``, and ``seen_tokens``. *Cost* of order of the distinct tokens that rows with
    penalties have seen.
    """
    _penalize(logits, rows, seen_tokens, previous)
    edits = collect_edits(rows, logits.shape[1])
    apply_edits(logits, *(torch.from_numpy(array) for array in edits))


def _penalize(
    logits: torch.Tensor,
    rows: Sequence[SampleRow],
    seen_tokens: SeenTokens,
    previous: torch.Tensor | None,
) -> None:
    places: list[npt.NDArray[np.int64]] = []
    repetitions: list[npt.NDArray[np.float32]] = []
    amounts: list[npt.NDArray[np.float32]] = []
    for number, row in enumerate(rows):
        if not has_penalties(row):
            continue
        seen = seen_tokens.up_to_date(row, previous)
        params = row.params
        places.append(seen.tokens + number * logits.shape[1])
        repetition = np.float32(params.repetition_penalty)
        repetitions.append(np.full(len(seen.tokens), repetition))
        counts = seen.tallies >> 1
        amount = params.presence_penalty * (counts > 0) + params.frequency_penalty * counts
        amounts.append(amount.astype(np.float32))
    if not places:
        return
    index = torch.from_numpy(np.concatenate(places))
    repetition_of = torch.from_numpy(np.concatenate(repetitions))
    amount_of = torch.from_numpy(np.concatenate(amounts))
    flat = logits.view(-1)
    old = flat[index]
    flat[index] = torch.where(old > 0, old / repetition_of, old * repetition_of) - amount_of
