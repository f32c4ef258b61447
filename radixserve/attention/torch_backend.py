"""Attention in plain torch on a CPU: the CPU engine's backend, and the meaning of every later one.

Attends in three ways, chosen once per step by ``step_plan.py`` and the same in float32 and
bfloat16:

- *Levels*, keys that several rows share: read once for the queries of all their tokens.
- *Chunks*, one row at a time.
- *Buckets*, padded rows of one token each, through torch's fused attention.

Chunks and levels go block by block through matrix products (``product.py``), levels with few
queries a key head through torch's fused attention as well. Partial results meet by their
log-sum-exp, in float32. In all of them a key head's query heads are packed as query rows of one
head, so that grouped queries never repeat keys or values.

A row reads its own pages and nothing else: no padding slot, no tail of a last page, no stale
scratch. One row's NaN stays in that row, and its result depends on other rows by rounding only.

Not thread-safe: buffers are reused from call to call.
"""

import torch

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.attention.dense_keys import KeyCopies
from radixserve.attention.product import ProductAttention
from radixserve.attention.scratch import Scratch
from radixserve.attention.step_plan import (
    AttentionPlan,
    Bucket,
    Chunk,
    SharedKeys,
    plan_attention,
)
from radixserve.cascade import CascadeCosts

MAX_FUSED_QUERIES = 12
"""A level with up to so many queries a key head goes through torch's fused attention. (us behind
1,024 keys that are copied already, fused and products: 3 queries 91/110, 48 queries 394/270.)"""

_fused_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class TorchAttention:
    """``AttentionBackend`` for the CPU."""

    name = "torch"
    # bench/cascade.py, 2 cores with AVX512-BF16: a private read of a key takes 95 ns a layer.
    cascade_costs: CascadeCosts | None = CascadeCosts(level_keys=660, token_keys=175)

    def __init__(self, shape: AttentionShape) -> None:
        self._num_kv_heads = shape.num_kv_heads
        self._group = shape.num_heads // shape.num_kv_heads
        self._head_dim = shape.head_dim
        self._scale = shape.scale
        self._page_size = shape.page_size
        self._scratch = Scratch()
        self._copies = KeyCopies(self._scratch)
        self._product = ProductAttention(shape.head_dim, shape.scale, self._scratch)

    def plan(self, batch: ForwardBatch) -> AttentionPlan:
        """Decide, once per step, which keys meet which queries."""
        return plan_attention(batch, self._page_size)

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        batch: ForwardBatch,  # noqa: ARG002 (the plan says it all)
        plan: AttentionPlan,
    ) -> torch.Tensor:
        """See ``AttentionBackend.forward``."""
        num_tokens = query.shape[0]
        flat_keys = keys.view(-1, self._num_kv_heads, self._head_dim)
        flat_values = values.view(-1, self._num_kv_heads, self._head_dim)
        grouped = query.view(num_tokens, self._num_kv_heads, self._group, self._head_dim)
        out = query.new_empty(grouped.shape)
        total, lse = out, None
        if plan.levels:
            total = self._scratch.take("total", tuple(grouped.shape), torch.float32)
            lse = self._scratch.take("total_lse", tuple(grouped.shape[:3]), torch.float32)
        for chunk in plan.chunks:
            tokens = slice(chunk.first, chunk.last)
            self._attend_chunk(
                grouped[tokens],
                flat_keys,
                flat_values,
                chunk,
                (total if chunk.is_partial else out)[tokens],
                lse[tokens] if lse is not None and chunk.is_partial else None,
            )
        for bucket in plan.buckets:
            attended, bucket_lse = self._attend_bucket(grouped, flat_keys, flat_values, bucket)
            if not bucket.is_partial:
                _put(out, bucket.tokens, attended)
            else:
                assert lse is not None, "partial results, and no level"
                _put(total, bucket.tokens, attended)
                _put(lse, bucket.tokens, bucket_lse)
        if lse is not None:
            for level in plan.levels:
                self._merge_level(grouped, flat_keys, flat_values, level, total, lse)
            for tokens in plan.merged:
                out[tokens].copy_(total[tokens])
        return out.view(num_tokens, -1)

    def _attend_chunk(
        self,
        query: torch.Tensor,
        flat_keys: torch.Tensor,
        flat_values: torch.Tensor,
        chunk: Chunk,
        out: torch.Tensor,
        lse: torch.Tensor | None,
    ) -> None:
        """One row of several tokens, whose own keys are the last of ``chunk.keys``."""
        width = self._product.key_width(query.dtype)
        dense = self._copies.by_head(flat_keys, flat_values, chunk.keys, width)
        self._product.attend(query, dense, out, lse, is_causal=True)

    def _attend_bucket(
        self,
        query: torch.Tensor,
        flat_keys: torch.Tensor,
        flat_values: torch.Tensor,
        bucket: Bucket,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns [R, Hkv, G, D] and its log-sum-exp, float32[R, Hkv, G]."""
        shape = (bucket.num_rows, bucket.length, self._num_kv_heads, self._head_dim)
        k = self._copies.by_slot(flat_keys, bucket.keys, "bucket_keys").view(shape)
        v = self._copies.by_slot(flat_values, bucket.keys, "bucket_values").view(shape)
        attended, lse = _fused_attention(
            _take(query, bucket.tokens),
            k.transpose(1, 2),
            v.transpose(1, 2),
            0.0,
            False,
            attn_mask=bucket.mask,
            scale=self._scale,
        )
        return attended, lse

    def _merge_level(
        self,
        query: torch.Tensor,
        flat_keys: torch.Tensor,
        flat_values: torch.Tensor,
        level: SharedKeys,
        total: torch.Tensor,
        total_lse: torch.Tensor,
    ) -> None:
        """*Mutates* the totals of the level's tokens, float32[T, Hkv, G, D] and [T, Hkv, G]."""
        tokens = slice(level.first, level.last)
        q, old, old_lse = query[tokens], total[tokens], total_lse[tokens]
        if len(q) * self._group <= MAX_FUSED_QUERIES:
            attended, lse = self._attend_fused(q, flat_keys, flat_values, level)
        else:
            attended = self._scratch.take("level", tuple(old.shape), torch.float32)
            lse = self._scratch.take("level_lse", tuple(old_lse.shape), torch.float32)
            width = self._product.key_width(q.dtype)
            dense = self._copies.by_head(flat_keys, flat_values, level.keys, width)
            self._product.attend(q, dense, attended, lse, is_causal=False)
        # exp(a) / (exp(a) + exp(b)) == sigmoid(a - b)
        old.lerp_(attended, torch.sigmoid(lse - old_lse).unsqueeze(-1))
        torch.logaddexp(lse, old_lse, out=old_lse)

    def _attend_fused(
        self,
        query: torch.Tensor,
        flat_keys: torch.Tensor,
        flat_values: torch.Tensor,
        level: SharedKeys,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Few queries a head. Returns float32 [n, Hkv, G, D] and its log-sum-exp [n, Hkv, G]."""
        k = self._copies.by_slot(flat_keys, level.keys, "bucket_keys").transpose(0, 1)
        v = self._copies.by_slot(flat_values, level.keys, "bucket_values").transpose(0, 1)
        num_tokens, num_kv_heads, group, head_dim = query.shape
        q = query.transpose(0, 1).reshape(1, num_kv_heads, num_tokens * group, head_dim)
        attended, lse = _fused_attention(q, k[None], v[None], 0.0, False, scale=self._scale)
        shape = (num_kv_heads, num_tokens, group)
        return (
            attended.view(*shape, head_dim).transpose(0, 1).float(),
            lse.view(shape).transpose(0, 1),
        )


def _take(flat: torch.Tensor, tokens: slice | torch.Tensor) -> torch.Tensor:
    return flat[tokens] if isinstance(tokens, slice) else flat.index_select(0, tokens)


def _put(flat: torch.Tensor, tokens: slice | torch.Tensor, rows: torch.Tensor) -> None:
    """*Mutates* ``flat``, whose dtype may be another than that of ``rows``."""
    if isinstance(tokens, slice):
        flat[tokens].copy_(rows)
    else:
        flat.index_copy_(0, tokens, rows.to(flat.dtype))
