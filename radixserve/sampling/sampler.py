"""From logits to tokens, for a whole batch at once.

A row's token is a function of its own logits, parameters, history and (seed, position); never of
the rows beside it. Logits are processed in float32, in this order: penalties, bias, bans
(``penalties.py``); temperature; top-k, top-p, min-p (``truncation.py``); then the one uniform
number of (seed, position) picks a token (``noise.py``, ``draw.py``). Temperature 0 takes the
greatest processed logit, the lowest id among equals.

Reported log-probabilities are the model's own: the log-softmax of the raw logits.

Knows neither requests nor the scheduler, and keeps no state from step to step. Ids are within the
vocabulary: intake has seen to that.
"""

from collections.abc import Sequence

import torch

from radixserve.sampling.draw import draw_from_vocabulary
from radixserve.sampling.noise import uniform
from radixserve.sampling.penalties import adjust_logits
from radixserve.sampling.row import SampleRow, changes_logits
from radixserve.sampling.truncation import draw_truncated, needs_ranking
from radixserve.types import SampledToken, TokenLogprob

MAX_PROCESSED_LOGITS = 1 << 21
"""Logits that are processed at a time: bounds the float32 copies and keeps them near the caches."""


class Sampler:
    """Chooses tokens. Stateless but for what it was built for."""

    def __init__(self, vocab_size: int, device: torch.device | str) -> None:
        self._vocab_size = vocab_size
        self._device = torch.device(device)

    def sample(self, logits: torch.Tensor, rows: Sequence[SampleRow]) -> list[SampledToken | None]:
        """Choose one token per row. ``logits``: [S, V], of any floating dtype; not changed.

        An entry is None where there is nothing to choose from: the row's processed logits hold a
        NaN or plus infinity (a broken model), or no token is left. Other rows are unaffected.

        *Cost*: one pass over the logits where every row is greedy and asks for nothing else; a few
        otherwise, and a partial ranking of rows with top-k or top-p.
        """
        plain = [number for number, row in enumerate(rows) if _is_plain(row)]
        other = [number for number, row in enumerate(rows) if not _is_plain(row)]
        sampled: list[SampledToken | None] = [None] * len(rows)
        if plain:
            chosen = self._greedy(logits, [rows[number] for number in plain])
            for number, token_id in zip(plain, chosen, strict=True):
                sampled[number] = None if token_id is None else SampledToken(token_id)
        step = max(1, MAX_PROCESSED_LOGITS // self._vocab_size)
        for first in range(0, len(other), step):
            numbers = other[first : first + step]
            tokens = self._process([rows[number] for number in numbers], logits)
            for number, token in zip(numbers, tokens, strict=True):
                sampled[number] = token
        return sampled

    def _greedy(self, logits: torch.Tensor, rows: Sequence[SampleRow]) -> list[int | None]:
        """The greatest raw logit of every row."""
        indices = [row.logits_row for row in rows]
        if indices != list(range(len(logits))):
            logits = logits[torch.tensor(indices, device=self._device)]
        best, ids = _argmax(logits)
        is_finite = best.isfinite().tolist()
        return [i if ok else None for i, ok in zip(ids.tolist(), is_finite, strict=True)]

    def _process(
        self, rows: Sequence[SampleRow], logits: torch.Tensor
    ) -> list[SampledToken | None]:
        """Rows that need more than the greatest raw logit."""
        indices = torch.tensor([row.logits_row for row in rows], device=self._device)
        raw = logits[indices].float()
        processed = raw
        if any(changes_logits(row) for row in rows):
            processed = raw.clone()
            adjust_logits(processed, rows)
        best, best_ids = _argmax(processed)
        is_sound = best.isfinite()
        chosen = best_ids
        numbers = [n for n, row in enumerate(rows) if row.params.temperature]
        if numbers:
            drawn = torch.tensor(numbers, device=self._device)
            chosen = best_ids.clone()
            chosen[drawn] = self._draw(
                processed[drawn], best[drawn], is_sound[drawn], [rows[n] for n in numbers]
            )
        token_ids = chosen.tolist()
        logprobs = _logprobs(raw, chosen, rows)
        return [
            SampledToken(token_id, logprob) if sound else None
            for token_id, logprob, sound in zip(token_ids, logprobs, is_sound.tolist(), strict=True)
        ]

    def _draw(
        self,
        processed: torch.Tensor,
        best: torch.Tensor,
        is_sound: torch.Tensor,
        rows: Sequence[SampleRow],
    ) -> torch.Tensor:
        """Draw for rows whose temperature is above 0. *Mutates* ``processed``. Returns int64[R]."""
        uniforms = torch.tensor(
            [uniform(row.seed, row.position) for row in rows],
            dtype=torch.float64,
            device=self._device,
        )
        # float64: the smallest temperatures are 0 in float32, and 0 / 0 is no number.
        temperatures = torch.tensor(
            [row.params.temperature for row in rows], dtype=torch.float64, device=self._device
        )
        # The maximum goes first, so that a small temperature sends the rest to minus infinity and
        # nothing to plus infinity.
        scaled = processed.sub_(best.unsqueeze(-1))
        coldest = torch.finfo(torch.float32).tiny
        scaled.div_(temperatures.clamp(min=coldest).float().unsqueeze(-1))
        scaled[~is_sound] = 0.0
        chosen = torch.empty(len(rows), dtype=torch.int64, device=self._device)
        ranked = [n for n, row in enumerate(rows) if needs_ranking(row.params, self._vocab_size)]
        unranked = [
            n for n, row in enumerate(rows) if not needs_ranking(row.params, self._vocab_size)
        ]
        if ranked:
            index = torch.tensor(ranked, device=self._device)
            chosen[index] = draw_truncated(
                scaled[index], [rows[n].params for n in ranked], uniforms[index]
            )
        if unranked:
            index = torch.tensor(unranked, device=self._device)
            weights = scaled[index].exp_()
            min_p = torch.tensor(
                [rows[n].params.min_p for n in unranked], dtype=weights.dtype, device=self._device
            ).unsqueeze(-1)
            weights.masked_fill_(weights < min_p, 0.0)
            chosen[index] = draw_from_vocabulary(weights, uniforms[index])
        return chosen


def _is_plain(row: SampleRow) -> bool:
    """Whether the row's token is the greatest raw logit and nothing else is asked for."""
    params = row.params
    return not params.temperature and params.logprobs is None and not changes_logits(row)


def _argmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Greatest logit of every row and the lowest id that has it. NaN if the row holds one."""
    best = logits.amax(dim=-1)
    ids = (logits == best.unsqueeze(-1)).to(torch.uint8).argmax(dim=-1)
    return best, ids


def _logprobs(
    raw: torch.Tensor, chosen: torch.Tensor, rows: Sequence[SampleRow]
) -> list[TokenLogprob | None]:
    """Log-probabilities of the chosen tokens and the likeliest, for the rows that want them."""
    found: list[TokenLogprob | None] = [None] * len(rows)
    numbers = [n for n, row in enumerate(rows) if row.params.logprobs is not None]
    if not numbers:
        return found
    index = torch.tensor(numbers, device=raw.device)
    wanted = raw[index]
    norm = wanted.logsumexp(dim=-1, keepdim=True)
    token_ids = chosen[index]
    own = (wanted.gather(1, token_ids.unsqueeze(-1)) - norm).squeeze(-1).tolist()
    counts = [rows[n].params.logprobs or 0 for n in numbers]
    values, ids = wanted.topk(min(max(counts), wanted.shape[1]), dim=-1)
    top_values, top_ids = (values - norm).tolist(), ids.tolist()
    for place, (number, token_id) in enumerate(zip(numbers, token_ids.tolist(), strict=True)):
        top = list(zip(top_ids[place], top_values[place], strict=True))[: counts[place]]
        found[number] = TokenLogprob(token_id=token_id, logprob=own[place], top=top)
    return found
