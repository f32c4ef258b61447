"""Changes to single logits on the CPU: penalties, then bias, then bans.

The meaning is transformers' and vLLM's: the repetition penalty looks at prompt and answer and
divides positive logits, multiplies negative ones; presence and frequency penalties look at the
answer only and are subtracted, once and once per occurrence; a bias is added; a banned token gets
minus infinity. Applied in this order, before temperature.

Penalties go row by row through the tokens that it has seen, with numpy, whose calls cost least. All
rows' biases and bans are applied in two indexed operations.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from radixserve.sampling.edits import apply_edits, collect_edits
from radixserve.sampling.row import SampleRow, counts_prompt, has_penalties
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
    all_values: npt.NDArray[np.float32] = logits.numpy()
    # Logits may be anything; the sampler judges what comes of them.
    with np.errstate(over="ignore", invalid="ignore"):
        for row, values in zip(rows, all_values, strict=True):
            if not has_penalties(row):
                continue
            seen = seen_tokens.up_to_date(row, previous)
            params = row.params
            if counts_prompt(row):
                repetition = np.float32(params.repetition_penalty)
                for tokens in (seen.prompt.tokens, seen.tokens_beyond_prompt):
                    old = values[tokens]
                    values[tokens] = np.where(old > 0, old / repetition, old * repetition)
            if params.presence_penalty or params.frequency_penalty:
                amounts = params.presence_penalty + params.frequency_penalty * seen.counts
                values[seen.tokens] -= amounts.astype(np.float32)
