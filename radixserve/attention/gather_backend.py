"""Attention as plain as torch allows, on any device: the second opinion, not the fast path.

One row at a time: its keys and values are gathered by its page table, and torch's own attention is
called on them. Nothing is read beyond a row's last key. No decode step of it can be captured in a
CUDA graph, since every row's length is a size here.
"""

import torch
import torch.nn.functional as F  # noqa: N812

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.cascade import CascadeCosts


class GatherAttention:
    """``AttentionBackend`` for any device, by gathering: called "torch"."""

    name = "torch"
    cascade_costs: CascadeCosts | None = None

    def __init__(self, shape: AttentionShape) -> None:
        self._scale = shape.scale
        self._page_size = shape.page_size

    def plan(self, batch: ForwardBatch) -> None:
        """Nothing that layers could share."""

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        batch: ForwardBatch,
        plan: None,  # noqa: ARG002
    ) -> torch.Tensor:
        """See ``AttentionBackend.forward``. *Cost*: a copy of every row's keys and values, and a
        dozen launches a row."""
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for row, length in enumerate(batch.context_lens_host):
            first, last = batch.query_start_host[row : row + 2]
            pages = batch.page_table[row, : -(-length // self._page_size)]
            k = keys[pages].flatten(0, 1)[:length].transpose(0, 1)  # [Hkv, L, D]
            v = values[pages].flatten(0, 1)[:length].transpose(0, 1)
            q = query[first:last].transpose(0, 1)  # [H, n, D]
            visible = torch.ones(last - first, length, dtype=torch.bool, device=query.device)
            visible = visible.tril(length - (last - first))
            attended = F.scaled_dot_product_attention(
                q[None], k[None], v[None], attn_mask=visible, scale=self._scale, enable_gqa=True
            )
            out[first:last] = attended[0].transpose(0, 1)
        return out.flatten(1)
