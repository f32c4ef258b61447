"""Top-k, top-p and min-p: which tokens may be drawn.

Tokens are ranked by (logit, descending; id, ascending), which settles every tie, on every device.
After temperature, in this order, as transformers does it:

- top-k keeps the first k;
- top-p keeps, of those, the shortest run whose probabilities (renormalised over them) reach p;
- min-p keeps, of those, tokens at least ``min_p`` times as likely as the likeliest.

So what is kept is a prefix of the ranking, and the first token is always in it. The ranking only
decides what is kept; the draw is in the order of ids.

This is the CPU's way. Ranking a whole vocabulary is slow: a row is first tried with its few best
candidates, and with more only if what it keeps may not end among them. The outcome never depends on
how many were looked at. How many are needed is read from the data at every turn, which on a GPU
would wait for it: there the kernels of ``radixserve_kernels.sample`` do the same.
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
    is 0). ``uniforms``: float64[R]. Returns int64[R].
    """
    num_rows, vocab_size = scaled.shape
    device = scaled.device
    top_k = torch.tensor([p.top_k or vocab_size for p in params], device=device)
    top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=device)
    min_p = torch.tensor([p.min_p for p in params], dtype=torch.float64, device=device)
    limits = torch.stack((top_k.double(), top_p, min_p), dim=-1)
    # What top-p is a share of, in rows without top-k; with it, the sum over the k best.
    total = scaled.exp().sum(dim=-1, dtype=torch.float64)
    chosen = torch.empty(num_rows, dtype=torch.int64, device=device)
    pending = torch.arange(num_rows, device=device)
    counts = iter((*(count for count in NUM_CANDIDATES if count < vocab_size), vocab_size))
    while len(pending):
        drawn, is_settled = _draw_among(
            scaled[pending], next(counts), limits[pending], total[pending], uniforms[pending]
        )
        chosen[pending[is_settled]] = drawn[is_settled]
        pending = pending[~is_settled]
    return chosen


def _draw_among(
    scaled: torch.Tensor,
    count: int,
    limits: torch.Tensor,
    total: torch.Tensor,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw with the ``count`` best candidates of every row: tokens, and whether that was enough.

    ``limits``: float64[R, 3], the rows' top-k, top-p and min-p. Tokens of rows for which it was not
    enough mean nothing. With the whole vocabulary it always is.
    """
    vocab_size = scaled.shape[1]
    top_k, top_p, min_p = limits.unsqueeze(-1).unbind(dim=1)  # [R, 1] each
    values, ids, num_certain = _rank(scaled, count)
    in_top_k = torch.arange(count, device=scaled.device) < top_k
    weights = values.double().exp() * in_top_k
    whole = torch.where(top_k < vocab_size, weights.sum(dim=-1, keepdim=True), total[:, None])
    before = weights.cumsum(dim=-1) - weights
    # Rounding must not let top-p 1 drop anything.
    in_top_p = (before < top_p * whole) | (top_p >= 1.0)
    is_kept = in_top_k & in_top_p & (weights >= min_p)
    is_kept[:, 0] = True
    # The sum over the k best is only known if they are all here.
    has_whole = ((top_k <= count) | (top_k >= vocab_size)).squeeze(-1)
    is_settled = has_whole & (is_kept.sum(dim=-1) <= num_certain)
    weights = weights * is_kept
    if count == vocab_size:
        # Back into the order of ids, which all are here.
        return draw_from_candidates(weights.scatter(1, ids, weights), uniforms), is_settled
    ids, order = ids.sort(dim=-1)
    drawn = draw_from_candidates(weights.gather(1, order), uniforms)
    return ids.gather(1, drawn.unsqueeze(-1)).squeeze(-1), is_settled


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
