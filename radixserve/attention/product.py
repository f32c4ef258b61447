"""Causal attention of one row's chunk as two matrix products with a softmax between them.

For bfloat16 this is about twice as fast on CPUs as torch's fused attention, whose inner products
are too small for the processor's matrix instructions; for float32 it is about equal. The price is a
matrix of scores, so callers bound how many queries they bring at a time.

bfloat16 products round each score to 8 bits: off by up to 1/512 of itself, which the softmax would
turn into an error of its weight. But softmax does not mind a constant. Subtracted inside the
product, before rounding, a row's own greatest score leaves the largest weights exact and puts the
rounding where weights vanish:

    scores = round(q @ k.T)             only to find each row's maximum
    scores = round(q @ k.T - maximum)   rounded to 1/512 of the distance from the maximum

Knows no pages and no batch.
"""

import math

import torch

from radixserve.attention.scratch import Scratch


class ProductAttention:
    """Attends with keys and values of the same dtype as the queries: float32 or bfloat16."""

    def __init__(self, scale: float, scratch: Scratch) -> None:
        self._scale = scale
        # Multiplying by a power of two loses no bit, whatever the dtype.
        self._is_exact_scale = math.frexp(scale)[0] == 0.5
        self._scratch = scratch

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """The last ``n`` of ``L`` tokens against all of them; query ``i`` sees ``L - n + i + 1``.

        ``query``: [n, Hkv, G, D]; ``keys``, ``values``: [Hkv, L, D], contiguous within a head.
        Returns a view [n, Hkv, G, D] of scratch memory, valid until the next call.
        """
        num_tokens, num_kv_heads, group, head_dim = query.shape
        length, dtype, take = keys.shape[1], query.dtype, self._scratch.take
        rows = group * num_tokens
        scales_query = dtype == torch.float32 or self._is_exact_scale
        packed = take("query", (num_kv_heads, group, num_tokens, head_dim), dtype)
        torch.mul(query.permute(1, 2, 0, 3), self._scale if scales_query else 1.0, out=packed)

        q, k_transposed = packed.view(num_kv_heads, rows, head_dim), keys.transpose(1, 2)
        scores = take("scores", (num_kv_heads, rows, length), dtype)
        own = scores.view(num_kv_heads, group, num_tokens, length)[..., length - num_tokens :]
        hidden = torch.full((num_tokens, num_tokens), -math.inf, dtype=dtype).triu_(1)
        torch.bmm(q, k_transposed, out=scores)
        own.add_(hidden)
        if dtype != torch.float32:
            maximum = scores.amax(dim=-1, keepdim=True)
            torch.baddbmm(maximum, q, k_transposed, beta=-1, out=scores)
            own.add_(hidden)
            if not scales_query:
                scores.mul_(self._scale)
        torch.softmax(scores, dim=-1, out=scores)
        attended = take("attended", (num_kv_heads, rows, head_dim), dtype)
        torch.bmm(scores, values, out=attended)
        return attended.view(num_kv_heads, group, num_tokens, head_dim).permute(2, 0, 1, 3)
