"""Causal attention for training on processors: exact, and made of matrix products.

torch's fused attention spends most of a step of a model this small on a processor: on two cores,
forward and backward of 8,192 tokens take 51 ms in rows of 128 and 168 ms in rows of 2,048. Products
of whole pieces take 18 and 95. Queries are cut into pieces of ``PIECE``; each looks at the keys up
to its own end, so about half of the square is never computed. Probabilities are kept for the
backward pass: ``heads * T * (T + PIECE) / 2`` numbers a row.

    query pieces            keys  ->
      0   [###          ]
      1   [######       ]   the last piece of each is masked above its diagonal
      2   [#########    ]

An operator of its own, so that a compiled layer calls it as it stands. Elsewhere than on processors
the fused one is faster, and ``network.py`` takes that.
"""

from typing import Any

import torch
from torch import Tensor

PIECE = 128
"""Queries at a time: the scores of one head then stay in the second-level cache (measured)."""


@torch.library.custom_op("radixserve_demo::causal_attention", mutates_args=())
def _forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, list[Tensor]]:
    length = query.shape[1]
    mask = _mask(query)
    output = torch.empty_like(query)
    kept = []
    for start in range(0, length, PIECE):
        end = min(start + PIECE, length)
        scores = torch.bmm(query[:, start:end], key[:, :end].transpose(1, 2))
        scores[:, :, start:].add_(mask[: end - start, : end - start])
        odds = torch.softmax(scores, -1, dtype=scores.dtype)
        torch.bmm(odds, value[:, :end], out=output[:, start:end])
        kept.append(odds)
    return output, kept


@_forward.register_fake
def _(query: Tensor, _key: Tensor, _value: Tensor) -> tuple[Tensor, list[Tensor]]:
    rows, length, _ = query.shape
    ends = [min(start + PIECE, length) for start in range(0, length, PIECE)]
    kept = [query.new_empty(rows, min(PIECE, end - i * PIECE), end) for i, end in enumerate(ends)]
    return torch.empty_like(query), kept


@torch.library.custom_op("radixserve_demo::causal_attention_backward", mutates_args=())
def _backward(
    query: Tensor, key: Tensor, value: Tensor, kept: list[Tensor], wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    d_query = torch.empty_like(query)
    d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
    for index, odds in enumerate(kept):
        start = index * PIECE
        end = odds.shape[2]
        d_output = wanted[:, start:end]
        d_odds = torch.bmm(d_output, value[:, :end].transpose(1, 2))
        d_value[:, :end].baddbmm_(odds.transpose(1, 2), d_output)
        d_scores = torch._softmax_backward_data(d_odds, odds, -1, odds.dtype)
        torch.bmm(d_scores, key[:, :end], out=d_query[:, start:end])
        d_key[:, :end].baddbmm_(d_scores.transpose(1, 2), query[:, start:end])
    return d_query, d_key, d_value


@_backward.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, _kept: list[Tensor], _wanted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _mask(query: Tensor) -> Tensor:
    full = torch.full((PIECE, PIECE), float("-inf"), dtype=query.dtype, device=query.device)
    return full.triu(1)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    query, key, value = inputs
    ctx.save_for_backward(query, key, value, *output[1])


def _autograd(
    ctx: Any, wanted: Tensor, _kept: list[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value, *kept = ctx.saved_tensors
    grads: tuple[Tensor, Tensor, Tensor] = _backward(query, key, value, kept, wanted.contiguous())
    return grads


_forward.register_autograd(_autograd, setup_context=_setup)


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query keyᵀ) value under a causal mask, [B * heads, T, head_dim] each.

    The scale is the caller's: it belongs into ``query``.
    """
    output: Tensor = _forward(query, key, value)[0]
    return output
