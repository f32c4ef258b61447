"""Attention on a CPU: a compiled kernel for single tokens, matrix products for many.

Which is whose is decided once per step (``step_plan.py``), the same for all dtypes:

- *Items*: the kernel reads pages where they lie, for rows of one token and levels of few.
- *Products* (``product.py``): chunks and large levels, on copies of keys and values laid out head
  by head.

Products of tokens that have other partial results as well go to planes, and the kernel, whose
launch is the layer's last, merges them all by their log-sum-exp, in float32. A decode step without
large levels is one launch a layer. In all of them a key head's query heads meet its keys together,
so that grouped queries never repeat keys or values.

A row reads its own pages and nothing else: no padding slot, no tail of a last page, no stale
scratch. One row's NaN stays in that row. A row of one token in no level gets the same bits in any
batch; those of others depend on other rows by rounding only.

Not thread-safe: buffers are reused from call to call. Imports numba.
"""

from dataclasses import dataclass

import torch

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.attention.dense_keys import KeyCopies
from radixserve.attention.product import ProductAttention
from radixserve.attention.scratch import Scratch
from radixserve.attention.step_plan import AttentionPlan, Product, plan_attention
from radixserve.cascade import CascadeCosts
from radixserve_kernels.cpu import compiling
from radixserve_kernels.paged_attention.cpu import PagedAttention, Room
from radixserve_kernels.paged_attention.cpu_kernel import DIRECT, scratch_bytes


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """A plan with the memory it is carried out in."""

    plan: AttentionPlan
    room: Room
    items: PagedAttention


class CpuAttention:
    """``AttentionBackend`` for CPUs on which kernels can be compiled."""

    name = "cpu"
    # bench/cascade.py on 2 shared cores with AVX512-BF16, medians of three runs that lay far apart
    # (746, -232 and 559 keys a level; 284, 382 and 328 a token), in private reads of 9 to 13 ns a
    # layer: pages that rows share stay in the processor's caches between their reads, so
    # a level saves little (at 16 rows x 1,024 keys 13 and 21% of attention's time).
    cascade_costs: CascadeCosts | None = CascadeCosts(level_keys=560, token_keys=330)

    def __init__(self, shape: AttentionShape) -> None:
        self._shape = shape
        self._group = shape.num_heads // shape.num_kv_heads
        self._scratch = Scratch()
        self._copies = KeyCopies(self._scratch)
        self._product = ProductAttention(shape.head_dim, shape.scale, self._scratch)

    def plan(self, batch: ForwardBatch) -> PreparedStep:
        """Decide, once per step, which keys meet which queries, and where results go."""
        compiling.match_threads()
        shape = self._shape
        plan = plan_attention(batch, shape.page_size, self._group)
        room = self._make_room(plan, batch.num_tokens)
        items = PagedAttention(plan.work, batch.page_table, room, shape.page_size, shape.scale)
        return PreparedStep(plan, room, items)

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        batch: ForwardBatch,
        plan: PreparedStep,
    ) -> torch.Tensor:
        """See ``AttentionBackend.forward``."""
        out = torch.empty(query.shape, dtype=query.dtype)
        for product in plan.plan.products:
            self._attend_product(query, keys, values, batch.page_table, product, plan.room, out)
        if len(plan.plan.work.items):
            plan.items.run(query, keys, values, out)
        return out.view(len(out), -1)

    def _attend_product(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        page_table: torch.Tensor,
        product: Product,
        room: Room,
        out: torch.Tensor,
    ) -> None:
        tokens = slice(product.first, product.last)
        lse = None
        if product.plane != DIRECT:
            out = room.planes[product.plane]
            lse = room.planes_lse[product.plane][tokens]
            lse = lse.view(-1, self._shape.num_kv_heads, self._group)
        heads = (-1, self._shape.num_kv_heads, self._group, self._shape.head_dim)
        dense = self._copies.by_head(
            keys,
            values,
            page_table[product.row],
            product.first_key,
            product.end_key,
            self._product.key_width(query.dtype),
        )
        self._product.attend(
            query[tokens].view(heads),
            dense,
            out[tokens].view(heads),
            lse,
            is_causal=product.is_causal,
        )

    def _make_room(self, plan: AttentionPlan, num_tokens: int) -> Room:
        take, work = self._scratch.take, plan.work
        shape = self._shape
        num_heads, head_dim = shape.num_heads, shape.head_dim
        planes = (plan.num_planes, num_tokens, num_heads)
        slots = (work.num_slots, num_heads)
        per_thread = scratch_bytes(num_heads, shape.num_kv_heads, head_dim, work.max_item_tokens)
        return Room(
            take("planes", (*planes, head_dim), torch.float32),
            take("planes_lse", planes, torch.float32),
            take("slots", (*slots, head_dim), torch.float32),
            take("slots_lse", slots, torch.float32),
            take("threads", (torch.get_num_threads(), per_thread), torch.uint8),
            take("counter", (1,), torch.int32),
        )
