"""Choosing tokens on a CPU, where nothing is asynchronous and looking costs nothing.

Rows whose logits nothing changes come first, then those with penalties, biases or bans, of which a
float32 copy is made, a few at a time; last those with masks, which may still be in the making. What
depends on the data (how many candidates a row needs, which rows are sound) is looked up as it
comes. From logits as they are tokens are chosen by torch's operations, or by compiled kernels
(``compiled_rows.py``).
"""

from collections.abc import Sequence
from typing import Protocol

import torch

from radixserve.sampling.chooser import COLDEST, Chosen
from radixserve.sampling.draw import draw_from_vocabulary
from radixserve.sampling.greatest import greatest
from radixserve.sampling.noise import uniform
from radixserve.sampling.params import SamplingParams
from radixserve.sampling.penalties import adjust_logits
from radixserve.sampling.row import SampleRow, changes_logits
from radixserve.sampling.seen_tokens import SeenTokens
from radixserve.sampling.token_mask import forbid_on_host, pack
from radixserve.sampling.truncation import draw_truncated, needs_ranking

MAX_PROCESSED_LOGITS = 1 << 21
"""Logits that are processed at a time: bounds the float32 copies and keeps them near the caches."""


class RowChooser(Protocol):
    """Chooses tokens from logits as they are."""

    def choose(
        self, logits: torch.Tensor, logits_rows: Sequence[int], rows: Sequence[SampleRow]
    ) -> Chosen:
        """A token for every row, from row ``logits_rows[i]`` of the logits, [S, V], which are not
        changed: temperature, truncation and noise are the row's."""
        ...


class HostChooser:
    """Chooses on the CPU. Keeps the seen tokens of choices with penalties, while these live."""

    def __init__(self, vocab_size: int, row_chooser: RowChooser | None = None) -> None:
        """``row_chooser``: by default ``TorchRows``."""
        self._vocab_size = vocab_size
        self._row_chooser = TorchRows() if row_chooser is None else row_chooser
        self.seen_tokens = SeenTokens()

    def choose(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], previous: torch.Tensor | None
    ) -> Chosen:
        """As ``Chooser``.

        *Cost*: one or two passes over the logits where every row is greedy and asks for nothing
        else; a few otherwise, and a partial ranking of rows with top-k or top-p. Waits for masks.
        """
        plain: list[int] = []
        other: list[int] = []
        masked: list[int] = []
        for number, row in enumerate(rows):
            group = masked if row.mask is not None else other if changes_logits(row) else plain
            group.append(number)
        step = max(1, MAX_PROCESSED_LOGITS // self._vocab_size)
        is_drawn = any(row.params.temperature for row in rows)
        if len(plain) == len(rows) and (len(rows) <= step or not is_drawn):
            return self._row_chooser.choose(logits, [row.logits_row for row in rows], rows)
        chosen = Chosen(
            torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows), dtype=torch.bool)
        )
        for group in (plain, other, masked):
            for first in range(0, len(group), step):
                numbers = group[first : first + step]
                some = [rows[number] for number in numbers]
                places: Sequence[int] = [row.logits_row for row in some]
                source = logits
                if group is not plain:
                    source, places = self._adjust(logits, some, previous), range(len(some))
                index = torch.tensor(numbers)
                chosen.token_ids[index], chosen.is_sound[index] = self._row_chooser.choose(
                    source, places, some
                )
        return chosen

    def _adjust(
        self, logits: torch.Tensor, rows: Sequence[SampleRow], previous: torch.Tensor | None
    ) -> torch.Tensor:
        """The rows' logits, float32[R, V], with penalties, biases, bans and masks."""
        adjusted = logits[torch.tensor([row.logits_row for row in rows])].float()
        if any(map(changes_logits, rows)):
            adjust_logits(adjusted, rows, self.seen_tokens, previous)
        masks = [row.mask for row in rows if row.mask is not None]
        if masks:
            forbid_on_host(adjusted, pack(masks))
        return adjusted


class TorchRows:
    """``RowChooser`` by torch and numpy, which are everywhere."""

    def choose(
        self, logits: torch.Tensor, logits_rows: Sequence[int], rows: Sequence[SampleRow]
    ) -> Chosen:
        """As ``RowChooser``. *Cost*: some forty operations where a row is drawn."""
        raw = logits
        if list(logits_rows) != list(range(len(logits))):
            raw = logits[torch.tensor(logits_rows)]
        # Found fastest among the raw ones: temperature does not move it.
        chosen, is_sound = greatest(raw)
        numbers = [number for number, row in enumerate(rows) if row.params.temperature]
        if numbers:
            drawn = torch.tensor(numbers)
            best = raw.gather(1, chosen.unsqueeze(-1)).float()
            scaled = (raw if len(numbers) == len(rows) else raw[drawn]).float() - best[drawn]
            some = [rows[number] for number in numbers]
            chosen[drawn] = _draw(scaled, is_sound[drawn], some)
        return Chosen(chosen, is_sound)


def _draw(scaled: torch.Tensor, is_sound: torch.Tensor, rows: Sequence[SampleRow]) -> torch.Tensor:
    """Draw for rows whose temperature is above 0. Returns int64[R].

    ``scaled``: the logits less their row's greatest, so that a small temperature sends the rest to
    minus infinity and nothing to plus infinity. *Mutates* it.
    """
    params = [row.params for row in rows]
    uniforms = torch.tensor([uniform(row.seed, row.position) for row in rows], dtype=torch.float64)
    # What would change nothing is left out: it is a pass over the logits, or ten small calls.
    if any(p.temperature != 1.0 for p in params):
        temperatures = torch.tensor([max(p.temperature or 0.0, COLDEST) for p in params])
        scaled.div_(temperatures.unsqueeze(-1))
    if not bool(is_sound.all()):
        scaled[~is_sound] = 0.0
    vocab_size = scaled.shape[1]
    ranked = [n for n, one in enumerate(params) if needs_ranking(one, vocab_size)]
    if not ranked:
        return _draw_unranked(scaled, params, uniforms)
    if len(ranked) == len(params):
        return draw_truncated(scaled, params, uniforms)
    chosen = torch.empty(len(params), dtype=torch.int64)
    unranked = [n for n, one in enumerate(params) if not needs_ranking(one, vocab_size)]
    for draw, numbers in ((draw_truncated, ranked), (_draw_unranked, unranked)):
        index = torch.tensor(numbers)
        chosen[index] = draw(scaled[index], [params[n] for n in numbers], uniforms[index])
    return chosen


def _draw_unranked(
    scaled: torch.Tensor, params: Sequence[SamplingParams], uniforms: torch.Tensor
) -> torch.Tensor:
    """Draw for rows without top-k and top-p. *Mutates* ``scaled``. Returns int64[R]."""
    weights = scaled.exp_()
    if any(one.min_p for one in params):
        min_p = torch.tensor([one.min_p for one in params], dtype=weights.dtype).unsqueeze(-1)
        weights.masked_fill_(weights < min_p, 0.0)
    return draw_from_vocabulary(weights, uniforms)
