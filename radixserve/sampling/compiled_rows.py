"""Tokens from logits on a CPU by kernels compiled for it (``radixserve_kernels/sample/cpu.py``).

Which tokens, is what torch's operations say (``host_chooser.py``); the two ways differ in the order
of float64 sums, which decides a draw about once in 10^15. The kernels take a third of the time for
one row, a fifth where rows are ranked. Only this module of the sampler imports numba.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from radixserve.sampling.chooser import COLDEST, Chosen
from radixserve.sampling.greatest import greatest
from radixserve.sampling.noise import uniform
from radixserve.sampling.row import SampleRow
from radixserve_kernels.cpu.compiling import match_threads
from radixserve_kernels.sample.cpu import draw_tokens, find_greatest, scale_rows

FEW_LOGITS = 1 << 18
"""So many are looked through by a kernel's one thread before numpy has begun: it makes some ten
calls, and takes fewer instructions a logit."""


class CompiledRows:
    """Chooses tokens from logits as they are. Keeps memory for as many as were drawn from at once.

    Not thread-safe.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(2, 0, dtype=torch.float32)

    def choose(
        self, logits: torch.Tensor, logits_rows: Sequence[int], rows: Sequence[SampleRow]
    ) -> Chosen:
        """A token for every row, from row ``logits_rows[i]`` of the logits, fp16, bf16 or fp32
        [S, V]: temperature, truncation and noise are the row's.

        *Cost*: 10 us, and a pass over the logits; for rows that are drawn six, exponentials among
        them, and what ranking takes.
        """
        temperatures = [row.params.temperature or 0.0 for row in rows]
        drawn = [number for number, temperature in enumerate(temperatures) if temperature]
        if not drawn and list(logits_rows) == list(range(len(logits))):
            if logits.numel() > FEW_LOGITS:
                return greatest(logits)
            found = find_greatest(logits)
            return Chosen(torch.from_numpy(np.maximum(found, 0)), torch.from_numpy(found >= 0))
        match_threads()
        vocab_size = logits.shape[1]
        places = np.full(len(rows), -1, dtype=np.int64)
        places[drawn] = np.arange(len(drawn))
        scaled, weights = self._take(len(drawn), vocab_size)
        found = scale_rows(
            logits,
            np.array(logits_rows, dtype=np.int64),
            np.array([max(one, COLDEST) for one in temperatures], dtype=np.float32),
            places,
            scaled,
        )
        is_sound = found >= 0
        token_ids = np.maximum(found, 0)
        if drawn:
            # Torch's, so that both ways draw with the same weights.
            torch.exp(scaled, out=weights)
            token_ids[drawn] = _draw(scaled, weights, [rows[number] for number in drawn])
        return Chosen(torch.from_numpy(token_ids), torch.from_numpy(is_sound))

    def _take(self, num_rows: int, vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Two times float32[R, V], valid until the next call."""
        size = num_rows * vocab_size
        if self._memory.shape[1] < size:
            with torch.inference_mode(False):
                self._memory = torch.empty(2, size, dtype=torch.float32)
        shape = (num_rows, vocab_size)
        return self._memory[0, :size].view(shape), self._memory[1, :size].view(shape)


def _draw(
    scaled: torch.Tensor, weights: torch.Tensor, rows: Sequence[SampleRow]
) -> npt.NDArray[np.int64]:
    params, vocab_size = [row.params for row in rows], scaled.shape[1]
    return draw_tokens(
        scaled.numpy(),
        weights.numpy(),
        np.array([min(p.top_k or vocab_size, vocab_size) for p in params], dtype=np.int64),
        np.array([p.top_p for p in params], dtype=np.float64),
        np.array([p.min_p for p in params], dtype=np.float64),
        np.array([uniform(row.seed, row.position) for row in rows], dtype=np.float64),
    )
