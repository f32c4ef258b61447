"""Choosing tokens by kernels, queued on the device without ever waiting for it.

Three launches choose the tokens of all rows, greedy or drawn, truncated or not (``sample``). Only
if some row has penalties, bias or bans, the logits of all rows are adjusted first, and tokens
chosen from them, a slice of rows after the other. Rows with masks are apart from all this: nothing
is done to the others on their account. Their logits are adjusted, masked and chosen from last.
"""

from collections.abc import Sequence

import numpy as np
import torch

from radixserve.device.transfer import Transfer
from radixserve.sampling.chooser import COLDEST, Chosen
from radixserve.sampling.kernel_penalties import KernelPenalties
from radixserve.sampling.noise import uniform
from radixserve.sampling.row import SampleRow, changes_logits
from radixserve.sampling.token_mask import forbid, pack
from radixserve_kernels.sample.kernel import sample_tokens

MAX_ADJUSTED_LOGITS = 1 << 24
"""Logits that are adjusted at a time: bounds their float32 copy to 64 MiB (at least one row)."""


class KernelChooser:
    """Chooses on the device. Keeps the tallies of choices with penalties, while these live."""

    def __init__(self, vocab_size: int, transfer: Transfer) -> None:
        self._vocab_size = vocab_size
        self._transfer = transfer
        self.penalties = KernelPenalties(vocab_size, transfer)

    def choose(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], previous: torch.Tensor | None
    ) -> Chosen:
        """As ``Chooser``. ``logits``: fp16, bf16 or fp32.

        *Cost*: one packed copy to the device and the kernels' own. In a step in which some row
        changes its logits, these for every slice of ``MAX_ADJUSTED_LOGITS``; also
        ``KernelPenalties.adjust``, and 4 bytes per logit of one slice. The same for the rows with
        masks, which are waited for on the host, and 2 bytes more per logit.
        """
        masked = [number for number, row in enumerate(rows) if row.mask is not None]
        if not masked:
            return self._choose_unmasked(logits, rows, previous)
        unmasked = [number for number, row in enumerate(rows) if row.mask is None]
        parts = []
        if unmasked:
            parts.append(self._choose_unmasked(logits, [rows[n] for n in unmasked], previous))
        parts.append(self._choose_adjusted(logits, [rows[n] for n in masked], previous))
        (places,) = self._transfer.put(np.argsort(np.array(unmasked + masked, dtype=np.int64)))
        return Chosen(
            *(torch.cat(tensors).index_select(0, places) for tensors in zip(*parts, strict=True))
        )

    def _choose_unmasked(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], previous: torch.Tensor | None
    ) -> Chosen:
        if not any(changes_logits(row) for row in rows):
            return self._choose(logits, [row.logits_row for row in rows], rows)
        return self._choose_adjusted(logits, rows, previous)

    def _choose_adjusted(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], previous: torch.Tensor | None
    ) -> Chosen:
        """From logits with penalties, biases, bans, and masks if these rows have any."""
        self.penalties.tally_pool.make_room(rows)
        step = max(1, MAX_ADJUSTED_LOGITS // self._vocab_size)
        parts = []
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            # The adjusted logits get no name, which would keep them while the next are made.
            parts.append(self._choose(self._adjust(logits, some, previous), range(len(some)), some))
        return Chosen(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _adjust(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], previous: torch.Tensor | None
    ) -> torch.Tensor:
        adjusted = self.penalties.adjust(logits, rows, previous)
        masks = [row.mask for row in rows if row.mask is not None]
        if masks:
            forbid(adjusted, *self._transfer.put(pack(masks)))
        return adjusted

    def _choose(
        self, logits: torch.Tensor, logits_rows: Sequence[int], rows: Sequence[SampleRow]
    ) -> Chosen:
        params = [row.params for row in rows]
        temperatures = [p.temperature and max(p.temperature, COLDEST) for p in params]
        top_k = [min(p.top_k or self._vocab_size, self._vocab_size) for p in params]
        uniforms = [uniform(row.seed, row.position) for row in rows]
        there = self._transfer.put(
            np.array(logits_rows, dtype=np.int32),
            np.array(temperatures, dtype=np.float32),
            np.array(top_k, dtype=np.int32),
            np.array([p.top_p for p in params], dtype=np.float64),
            np.array([p.min_p for p in params], dtype=np.float32),
            np.array(uniforms, dtype=np.float64),
        )
        return Chosen(*sample_tokens(logits, *there))
