"""Changes to single logits on the device: penalties, then bias, then bans.

The meaning is that of ``penalties.py``. The rows' logits are written anew in float32, with
penalties applied, in one pass; biases and bans are two indexed operations. A step may choose many
times more tokens than it has rows of logits (before its requests fork): ``KernelChooser`` adjusts
as many at a time as ``MAX_ADJUSTED_LOGITS`` allows.
"""

from collections.abc import Sequence

import numpy as np
import torch

from radixserve.device.transfer import Transfer
from radixserve.sampling.edits import apply_edits, collect_edits
from radixserve.sampling.row import SampleRow
from radixserve.sampling.tally_pool import TallyPool
from radixserve_kernels.penalize.kernel import penalize


class KernelPenalties:
    """Keeps the tallies of choices with penalties, while these live."""

    def __init__(self, vocab_size: int, transfer: Transfer) -> None:
        self._vocab_size = vocab_size
        self._transfer = transfer
        self.tally_pool = TallyPool(vocab_size, transfer.device)

    def adjust(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], previous: torch.Tensor | None
    ) -> torch.Tensor:
        """The rows' logits after penalties, bias and bans: float32[len(rows), V].

        ``logits``: fp16, bf16 or fp32 [S, V], not changed; ``previous``: int64[...], where pending
        tokens are found. *Cost*: one packed copy to the device; reads the logits and the tallies of
        rows with penalties, and writes the result.
        """
        logits_rows = np.array([row.logits_row for row in rows], dtype=np.int32)
        params = [row.params for row in rows]
        penalties = np.array(
            (
                [p.repetition_penalty for p in params],
                [p.presence_penalty for p in params],
                [p.frequency_penalty for p in params],
            ),
            dtype=np.float32,
        )
        news = self.tally_pool.collect(rows)
        edits = collect_edits(rows, self._vocab_size)
        there = self._transfer.put(logits_rows, penalties, *news, *edits)
        logits_rows_there, penalties_there, slots = there[:3]
        tallies = self.tally_pool.apply(previous, *there[3 : -len(edits)])
        adjusted = penalize(logits, logits_rows_there, tallies, slots, penalties_there)
        apply_edits(adjusted, *there[-len(edits) :])
        return adjusted
