"""Attention in plain torch on a CPU: the CPU engine's backend, and the meaning of every later one.

Attends in three ways, chosen once per step by ``step_plan.py`` and the same in float32 and
bfloat16:

- *Chunks*, one row at a time and a block of queries at a time, as matrix products (``product.py``).
- *Single rows* in padded buckets through torch's fused CPU attention.
- *Shared prefixes* of single rows: all rows' queries in one fused call over keys that are read
  once. Partial results meet by their log-sum-exp, in float32.

In all of them a key head's query heads are packed as query rows of one head, so that grouped
queries never repeat keys or values.

A row reads its own pages and nothing else: no padding slot, no tail of a last page, no stale
scratch. One row's NaN stays in that row, and its result depends on other rows by rounding only.

Not thread-safe: buffers are reused from call to call.
"""

import torch

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.attention.product import ProductAttention
from radixserve.attention.scratch import Scratch
from radixserve.attention.step_plan import (
    AttentionPlan,
    Bucket,
    Chunk,
    KeySet,
    Segment,
    plan_attention,
)
from radixserve.cascade import CascadeCosts

MAX_SCORES = 1 << 21
"""Scores that exist at a time: large enough to keep the matrix products efficient, small enough to
stay in the caches."""

MIN_BLOCK_TOKENS = 16
"""A block of queries is at least this long, however long the context: below it the products
starve."""

_fused_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class TorchAttention:
    """``AttentionBackend`` for the CPU."""

    name = "torch"
    cascade_costs: CascadeCosts | None = None

    def __init__(self, shape: AttentionShape) -> None:
        self._num_kv_heads = shape.num_kv_heads
        self._group = shape.num_heads // shape.num_kv_heads
        self._head_dim = shape.head_dim
        self._scale = shape.scale
        self._page_size = shape.page_size
        self._scratch = Scratch()
        self._product = ProductAttention(shape.scale, self._scratch)

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
        for chunk in plan.chunks:
            self._attend_chunk(grouped, flat_keys, flat_values, chunk, out)
        if plan.segments:
            self._attend_merged(grouped, flat_keys, flat_values, plan, out)
        else:
            for bucket in plan.buckets:
                attended, _ = self._attend_bucket(grouped, flat_keys, flat_values, bucket)
                out.index_copy_(0, bucket.tokens, attended)
        return out.view(num_tokens, -1)

    # -- chunks ------------------------------------------------------------------------------------

    def _attend_chunk(
        self,
        query: torch.Tensor,
        flat_keys: torch.Tensor,
        flat_values: torch.Tensor,
        chunk: Chunk,
        out: torch.Tensor,
    ) -> None:
        """One row of several tokens, whose own keys are the last of ``chunk.keys``."""
        num_tokens, length = chunk.last - chunk.first, chunk.keys.length
        start = length - num_tokens
        k = self._gather_by_head(flat_keys, chunk.keys, "keys")
        v = self._gather_by_head(flat_values, chunk.keys, "values")
        block = MAX_SCORES // (self._num_kv_heads * self._group * length)
        block = min(num_tokens, max(MIN_BLOCK_TOKENS, block))
        for first in range(0, num_tokens, block):
            last = min(first + block, num_tokens)
            tokens = slice(chunk.first + first, chunk.first + last)
            visible = start + last
            attended = self._product.attend(query[tokens], k[:, :visible], v[:, :visible])
            out[tokens].copy_(attended)

    # -- single rows -------------------------------------------------------------------------------

    def _attend_bucket(
        self,
        query: torch.Tensor,
        flat_keys: torch.Tensor,
        flat_values: torch.Tensor,
        bucket: Bucket,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns [R, Hkv, G, D] and its log-sum-exp, float32[R, Hkv, G]."""
        shape = (len(bucket.tokens), bucket.length, self._num_kv_heads, self._head_dim)
        k = self._gather(flat_keys, bucket.keys, "keys").view(shape).transpose(1, 2)
        v = self._gather(flat_values, bucket.keys, "values").view(shape).transpose(1, 2)
        q = query.index_select(0, bucket.tokens)
        attended, lse = _fused_attention(
            q, k, v, 0.0, False, attn_mask=bucket.mask, scale=self._scale
        )
        return attended, lse

    def _attend_segment(
        self,
        query: torch.Tensor,
        flat_keys: torch.Tensor,
        flat_values: torch.Tensor,
        segment: Segment,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns [R, Hkv, G, D] and its log-sum-exp, float32[R, Hkv, G]."""
        num_rows = len(segment.tokens)
        k = self._gather(flat_keys, segment.keys, "keys").transpose(0, 1)
        v = self._gather(flat_values, segment.keys, "values").transpose(0, 1)
        q = query.index_select(0, segment.tokens).transpose(0, 1)  # [Hkv, R, G, D]
        q = q.reshape(1, self._num_kv_heads, num_rows * self._group, self._head_dim)
        attended, lse = _fused_attention(q, k[None], v[None], 0.0, False, scale=self._scale)
        shape = (self._num_kv_heads, num_rows, self._group)
        return (
            attended.view(*shape, self._head_dim).transpose(0, 1),
            lse.view(shape).transpose(0, 1),
        )

    def _attend_merged(
        self,
        query: torch.Tensor,
        flat_keys: torch.Tensor,
        flat_values: torch.Tensor,
        plan: AttentionPlan,
        out: torch.Tensor,
    ) -> None:
        """All single rows, where some share a prefix: partial results, weighed by log-sum-exp."""
        shape = (plan.num_single_rows, self._num_kv_heads, self._group)
        total = self._scratch.take("total", (*shape, self._head_dim), torch.float32)
        total_lse = self._scratch.take("total_lse", shape, torch.float32)
        for bucket in plan.buckets:
            attended, lse = self._attend_bucket(query, flat_keys, flat_values, bucket)
            total.index_copy_(0, bucket.members, attended.float())
            total_lse.index_copy_(0, bucket.members, lse)
        for segment in plan.segments:
            attended, lse = self._attend_segment(query, flat_keys, flat_values, segment)
            old, old_lse = total[segment.members], total_lse[segment.members]
            # exp(a) / (exp(a) + exp(b)) == sigmoid(a - b)
            weight = torch.sigmoid(lse - old_lse).unsqueeze(-1)
            total.index_copy_(0, segment.members, torch.lerp(old, attended.float(), weight))
            total_lse.index_copy_(0, segment.members, torch.logaddexp(lse, old_lse))
        out.index_copy_(0, plan.single_tokens, total.to(out.dtype))

    # -- keys and values ---------------------------------------------------------------------------

    def _gather(self, flat: torch.Tensor, keys: KeySet, name: str) -> torch.Tensor:
        """A copy of the keys (or values), [length, Hkv, D], in scratch ``name``.

        Even where they are one run: when a layer's turn comes again, the model's weights have swept
        the caches, and torch's fused attention, which reads a head at a time, takes 1.5 times as
        long on cold memory as copying and attending to the warm copy do together.
        """
        gathered = self._scratch.take(name, (keys.length, *flat.shape[1:]), flat.dtype)
        if keys.index is not None:
            return torch.index_select(flat, 0, keys.index, out=gathered)
        for run in keys.runs:
            gathered[run.first : run.first + run.length].copy_(
                flat[run.slot : run.slot + run.length]
            )
        return gathered

    def _gather_by_head(self, flat: torch.Tensor, keys: KeySet, name: str) -> torch.Tensor:
        """The same with each head's keys (or values) contiguous, [Hkv, length, D], as matrix
        products want them: over others torch copies them into fresh memory, or runs several times
        slower."""
        by_head = flat.transpose(0, 1)
        shape = (by_head.shape[0], keys.length, by_head.shape[2])
        gathered = self._scratch.take(name, shape, flat.dtype)
        if keys.index is not None:
            # Copied twice: one index_select along a strided dimension takes 500 times as long.
            return gathered.copy_(self._gather(flat, keys, f"{name}_by_slot").transpose(0, 1))
        for run in keys.runs:
            gathered[:, run.first : run.first + run.length].copy_(
                by_head[:, run.slot : run.slot + run.length]
            )
        return gathered
