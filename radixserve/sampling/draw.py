"""From weights and one uniform number to a token: the inverse of the cumulative distribution.

Sums are taken in float64, so that rounding decides a draw about once in 10^15. A token of weight 0
is never drawn.
"""

import torch

BLOCK = 256
"""Tokens summed together: a walk over the vocabulary is over its blocks, then inside one."""


def draw_from_vocabulary(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw in the order of token ids. Weights float32[R, V], not all 0 in any row; uniforms
    float64[R] in (0, 1). Returns int64[R].

    *Cost*: one pass over the weights; a cumulative sum over V would cost several.
    """
    num_rows, vocab_size = weights.shape
    num_blocks = -(-vocab_size // BLOCK)
    if vocab_size % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, num_blocks * BLOCK - vocab_size))
    blocks = weights.view(num_rows, num_blocks, BLOCK)
    until = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)  # [R, num_blocks]
    targets = (uniforms * until[:, -1]).unsqueeze(-1)  # [R, 1]
    block = _first_beyond(until, targets)
    before = until.gather(1, (block - 1).clamp(min=0)) * (block > 0)
    inside = blocks.gather(1, block.unsqueeze(-1).expand(-1, 1, BLOCK)).squeeze(1)
    within = inside.to(torch.float64).cumsum(dim=-1)
    return (block * BLOCK + _first_beyond(within, targets - before)).squeeze(-1)


def draw_from_candidates(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Draw in the order given. Weights float64[R, C], not all 0 in any row. Returns int64[R]."""
    until = weights.cumsum(dim=-1)
    targets = (uniforms * until[:, -1]).unsqueeze(-1)
    return _first_beyond(until, targets).squeeze(-1)


def _first_beyond(until: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The first index whose cumulative weight exceeds the target. [R, C], [R, 1] -> int64[R, 1].

    Such an index has a weight above 0. Targets that rounding put at or beyond the end are pulled
    back below it, so that there is one.
    """
    last = until[:, -1:]
    targets = torch.minimum(targets, torch.nextafter(last, torch.zeros_like(last)))
    return torch.searchsorted(until, targets, right=True)
