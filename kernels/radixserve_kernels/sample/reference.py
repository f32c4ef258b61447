"""The meaning of sampling, written to be read: sort, keep, draw, one row at a time.

With ``M`` the row's greatest logit, ``t`` its temperature and everything in float32,

    s[v] = (x[v] - M) / t          w[v] = exp(s[v])

tokens are ranked by (s, descending; id, ascending), and cut down in this order:

- top-k keeps the first k;
- top-p keeps, of those, the shortest run whose weights reach the share p of the weights of those;
- min-p keeps, of those, tokens with ``w >= min_p``.

The first is always kept. The token is the first, in the order of ids, at which the sum of the kept
weights exceeds ``u`` times their whole sum, ``u`` being the row's uniform number. Sums are taken in
float64. Temperature 0 takes the greatest logit, the lowest id among equals. A row whose greatest
logit is not finite (or which holds a NaN) is unsound: there is nothing to choose from.

Knows no seed and no request. Sorts, reads every number on the host, and is slow.
"""

import torch


def sample_reference(
    logits: torch.Tensor,
    logits_rows: torch.Tensor,
    temperatures: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one token per row. Arguments and results as ``kernel.sample_tokens``.

    ``logits``: floating[S, V]; the others [R]. Returns int64[R] (0 in unsound rows) and bool[R].
    """
    num_rows, vocab_size = len(logits_rows), logits.shape[1]
    token_ids = torch.zeros(num_rows, dtype=torch.int64)
    is_sound = torch.zeros(num_rows, dtype=torch.bool)
    for row in range(num_rows):
        x = logits[logits_rows[row]].float().cpu()
        best = x.max()
        is_sound[row] = bool(best.isfinite())
        if not is_sound[row]:
            continue
        if temperatures[row] == 0:
            token_ids[row] = int((x == best).nonzero()[0])
            continue
        weights, is_kept = kept_reference(
            x, float(temperatures[row]), int(top_k[row]), float(top_p[row]), float(min_p[row])
        )
        until = (weights * is_kept).cumsum(0)
        token = int((until > float(uniforms[row]) * until[-1]).to(torch.uint8).argmax())
        token_ids[row] = min(token, vocab_size - 1)
    return token_ids.to(logits.device), is_sound.to(logits.device)


def kept_reference(
    x: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one row, float32[V]: the weights, float64[V], and which tokens may be drawn, bool[V]."""
    scaled = (x - x.max()) / torch.tensor(temperature, dtype=torch.float32)
    order = scaled.sort(descending=True, stable=True).indices
    weights = scaled.exp()
    ranked = weights[order].double()
    ranked[top_k:] = 0.0
    before = ranked.cumsum(0) - ranked
    is_kept = torch.arange(len(x)) < top_k
    if top_p < 1.0:
        is_kept &= before < top_p * ranked.sum()
    is_kept &= weights[order] >= torch.tensor(min_p, dtype=torch.float32)
    is_kept[0] = True
    return weights.double(), torch.empty_like(is_kept).scatter_(0, order, is_kept)
