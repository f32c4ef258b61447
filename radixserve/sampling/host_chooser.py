"""Choosing tokens on a CPU, where nothing is asynchronous and looking costs nothing.

Rows that need no more than the greatest raw logit get no more. The others are processed in float32,
a few at a time; last come those with masks, which may still be in the making. What depends on the
data (how many candidates a row needs, which rows are sound) is looked up as it comes.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from radixserve.sampling.chooser import COLDEST, Chosen
from radixserve.sampling.draw import draw_from_vocabulary
from radixserve.sampling.noise import uniform
from radixserve.sampling.penalties import adjust_logits
from radixserve.sampling.row import SampleRow, changes_logits
from radixserve.sampling.seen_tokens import SeenTokens
from radixserve.sampling.token_mask import forbid_on_host, pack
from radixserve.sampling.truncation import draw_truncated, needs_ranking

MAX_PROCESSED_LOGITS = 1 << 21
"""Logits that are processed at a time: bounds the float32 copies and keeps them near the caches."""

_INFINITIES = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00}
"""The bits of plus infinity in the types of two bytes."""


class HostChooser:
    """Chooses on the CPU. Keeps the seen tokens of choices with penalties, while these live."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.seen_tokens = SeenTokens()

    def choose(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], previous: torch.Tensor | None
    ) -> Chosen:
        """As ``Chooser``.

        *Cost*: one or two passes over the logits where every row is greedy and asks for nothing
        else; a few otherwise, and a partial ranking of rows with top-k or top-p. Waits for masks.
        """
        plain = [number for number, row in enumerate(rows) if _is_plain(row)]
        indices = [rows[number].logits_row for number in plain]
        everything = indices == list(range(len(logits)))
        if everything and len(plain) == len(rows):
            return _greatest(logits)
        chosen = Chosen(
            torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows), dtype=torch.bool)
        )
        masked = [number for number, row in enumerate(rows) if row.mask is not None]
        other = [n for n, row in enumerate(rows) if row.mask is None and not _is_plain(row)]
        if plain:
            greatest = _greatest(logits if everything else logits[torch.tensor(indices)])
            _fill(chosen, plain, greatest.token_ids, greatest.is_sound)
        step = max(1, MAX_PROCESSED_LOGITS // self._vocab_size)
        for group in (other, masked):
            for first in range(0, len(group), step):
                numbers = group[first : first + step]
                ids, is_sound = self._process([rows[n] for n in numbers], logits, previous)
                _fill(chosen, numbers, ids, is_sound)
        return chosen

    def _process(
        self, rows: Sequence[SampleRow], logits: torch.Tensor, previous: torch.Tensor | None
    ) -> Chosen:
        """Rows that need more than the greatest raw logit: all of them have masks, or none has."""
        processed = logits[torch.tensor([row.logits_row for row in rows])].float()
        if any(changes_logits(row) for row in rows):
            adjust_logits(processed, rows, self.seen_tokens, previous)
        masks = [row.mask for row in rows if row.mask is not None]
        if masks:
            forbid_on_host(processed, pack(masks))
        best, chosen = _argmax(processed)
        is_sound = best.isfinite()
        numbers = [n for n, row in enumerate(rows) if row.params.temperature]
        if len(numbers) == len(rows):
            chosen = self._draw(processed, best, is_sound, rows)
        elif numbers:
            drawn = torch.tensor(numbers)
            chosen[drawn] = self._draw(
                processed[drawn], best[drawn], is_sound[drawn], [rows[n] for n in numbers]
            )
        return Chosen(chosen, is_sound)

    def _draw(
        self,
        processed: torch.Tensor,
        best: torch.Tensor,
        is_sound: torch.Tensor,
        rows: Sequence[SampleRow],
    ) -> torch.Tensor:
        """Draw for rows whose temperature is above 0. *Mutates* ``processed``. Returns int64[R]."""
        uniforms = torch.tensor(
            [uniform(row.seed, row.position) for row in rows], dtype=torch.float64
        )
        temperatures = torch.tensor([max(row.params.temperature or 0.0, COLDEST) for row in rows])
        # The maximum goes first, so that a small temperature sends the rest to minus infinity and
        # nothing to plus infinity.
        scaled = processed.sub_(best.unsqueeze(-1))
        scaled.div_(temperatures.unsqueeze(-1))
        scaled[~is_sound] = 0.0
        chosen = torch.empty(len(rows), dtype=torch.int64)
        needs = [needs_ranking(row.params, self._vocab_size) for row in rows]
        ranked = [n for n, does in enumerate(needs) if does]
        unranked = [n for n, does in enumerate(needs) if not does]
        if ranked:
            index = torch.tensor(ranked)
            chosen[index] = draw_truncated(
                scaled[index], [rows[n].params for n in ranked], uniforms[index]
            )
        if unranked:
            index = torch.tensor(unranked)
            weights = scaled[index].exp_()
            min_p = torch.tensor(
                [rows[n].params.min_p for n in unranked], dtype=weights.dtype
            ).unsqueeze(-1)
            weights.masked_fill_(weights < min_p, 0.0)
            chosen[index] = draw_from_vocabulary(weights, uniforms[index])
        return chosen


def _is_plain(row: SampleRow) -> bool:
    """Whether the row's token is the greatest raw logit and nothing else is asked for."""
    return row.mask is None and not row.params.temperature and not changes_logits(row)


def _greatest(logits: torch.Tensor) -> Chosen:
    """The lowest id of the greatest logit of every row, [R, V] of any floating type.

    Numbers of two bytes are compared as integers, for which they need no widening: those above zero
    are in the order of their bits. Rows without one, and rows with a NaN, are looked at as numbers.
    """
    infinity = _INFINITIES.get(logits.dtype)
    if infinity is None:
        best, ids = _argmax(logits)
        return Chosen(ids, best.isfinite())
    bits: npt.NDArray[np.int16] = logits.view(torch.int16).numpy()
    best_ids = bits.argmax(axis=-1)
    best_bits = np.take_along_axis(bits, best_ids[:, np.newaxis], axis=-1)[:, 0]
    # A NaN with its sign set is a large negative number's neighbour, and only shows without signs.
    has_no_nan = bits.view(np.uint16).max(axis=-1) <= infinity + 0x8000
    is_sound = (best_bits > 0) & (best_bits < infinity) & has_no_nan
    chosen = Chosen(torch.from_numpy(best_ids), torch.from_numpy(is_sound))
    doubtful = np.flatnonzero(~is_sound)
    if len(doubtful):
        best, ids = _argmax(logits[torch.from_numpy(doubtful)])
        _fill(chosen, doubtful.tolist(), ids, best.isfinite())
    return chosen


def _argmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Greatest logit of every row, float32[R], and the lowest id that has it, int64[R]. NaN and
    the lowest id that is one, if the row holds one.

    By numpy, a few rows at a time: on a CPU it takes a tenth of the time that torch does.
    """
    num_rows, vocab_size = logits.shape
    best = np.empty(num_rows, dtype=np.float32)
    ids = np.empty(num_rows, dtype=np.int64)
    step = max(1, MAX_PROCESSED_LOGITS // vocab_size)
    for first in range(0, num_rows, step):
        some = slice(first, first + step)
        values: npt.NDArray[np.float32] = logits[some].float().numpy()
        ids[some] = values.argmax(axis=-1)
        best[some] = np.take_along_axis(values, ids[some, np.newaxis], axis=-1)[:, 0]
    return torch.from_numpy(best), torch.from_numpy(ids)


def _fill(
    chosen: Chosen, numbers: Sequence[int], token_ids: torch.Tensor, is_sound: torch.Tensor
) -> None:
    index = torch.tensor(numbers)
    chosen.token_ids[index] = token_ids
    chosen.is_sound[index] = is_sound
