"""Top-k, top-p and min-p: which tokens may be drawn.

Tokens are ranked by (logit, descending; id, ascending), which settles every tie, on every device.
After temperature, in this order, as transformers does it:

- top-k keeps the first k;
- top-p keeps, of those, the shortest run whose probabilities (renormalised over them) reach p;
- min-p keeps, of those, tokens at least ``min_p`` times as likely as the likeliest.

So what is kept is a prefix of the ranking, and the first token is always in it. Ranking a whole
vocabulary is slow: a row is first tried with its few best candidates, and with more only if what it
keeps may not end among them. The outcome never depends on how many were looked at.
"""

from collections.abc import Sequence

import torch

from radixserve.sampling.draw import draw_from_candidates
from radixserve.sampling.params import SamplingParams

NUM_CANDIDATES = (64, 1024)
"""How many candidates are tried before the whole vocabulary is ranked."""


def needs_ranking(params: SamplingParams, vocab_size: int) -> bool:
    """Whether top-k or top-p can drop anything. (min-p needs no ranking: it is a threshold.)"""
    assert params.top_k is not None, "params are resolved"
    assert params.top_p is not None, "params are resolved"
    return 0 < params.top_k < vocab_size or params.top_p < 1.0


def draw_truncated(
    scaled: torch.Tensor, params: Sequence[SamplingParams], uniforms: torch.Tensor
) -> torch.Tensor:
    """Draw a token for every row from what its parameters keep.

    ``scaled``: float32[R, V], logits divided by temperature, less their row's maximum (so the best
    is 0). ``uniforms``: float64[R]. Returns int64[R], on the device.
    """
    num_rows, vocab_size = scaled.shape
    device = scaled.device
    top_k = torch.tensor([p.top_k or vocab_size for p in params], device=device)
    top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)
    min_p = torch.tensor([p.min_p for p in params], dtype=torch.float64, device=device)
    # The denominator of rows without top-k; with it, their kept candidates are the whole.
    total = scaled.exp().sum(dim=-1, dtype=torch.float64)
    chosen = torch.empty(num_rows, dtype=torch.int64, device=device)
    pending = torch.arange(num_rows, device=device)
    for limit in (*NUM_CANDIDATES, vocab_size):
        count = min(limit, vocab_size)
        values, ids, num_certain = _rank(scaled[pending], count)
        weights = values.to(torch.float64).exp()
        k, rank = top_k[pending].unsqueeze(-1), torch.arange(count, device=device)
        in_top_k = rank < k
        weights = weights * in_top_k
        # Where top-k reaches beyond the candidates, so does its sum: the row cannot be settled
        # here, unless top-k keeps everything.
        whole = torch.where(
            top_k[pending] < vocab_size, weights.sum(dim=-1), total[pending]
        ).unsqueeze(-1)
        before = weights.cumsum(dim=-1) - weights
        p = top_p[pending].unsqueeze(-1)
        is_kept = (
            in_top_k
            & ((before < p * whole) | (p >= 1.0))
            & (weights >= min_p[pending].unsqueeze(-1))
        )
        is_kept[:, 0] = True
        reaches = (top_k[pending] <= count) | (top_k[pending] >= vocab_size)
        is_settled = reaches & (is_kept.sum(dim=-1) <= num_certain)
        drawn = draw_from_candidates(weights * is_kept, uniforms[pending])
        settled = pending[is_settled]
        chosen[settled] = ids.gather(1, drawn.unsqueeze(-1)).squeeze(-1)[is_settled]
        pending = pending[~is_settled]
        if len(pending) == 0:
            break
    return chosen


def _rank(scaled: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The ``count`` best of every row, ranked: values, ids, and how many of them are certain.

    Equal values at the end of the candidates may have equals that were left out; those are not
    certain.
    """
    if count == scaled.shape[1]:
        values, ids = scaled.sort(dim=-1, descending=True, stable=True)
        return values, ids, torch.full_like(ids[:, 0], count)
    values, ids = scaled.topk(count, dim=-1)
    ids, order = ids.sort(dim=-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(1, order), (values > values[:, -1:]).sum(dim=-1)
