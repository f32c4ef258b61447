"""Forward batches made by hand, and the plainest attention that honours the interface.

For tests of models without a runner. ``DenseAttention`` gathers every row's keys and values and
attends to them in float32, one row after the other: slow, and obviously right.
"""

from collections.abc import Sequence

import torch

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.cascade import CascadeCosts


def make_batch(
    token_ids: Sequence[Sequence[int]],
    *,
    page_size: int,
    starts: Sequence[int] | None = None,
    pages: Sequence[Sequence[int]] | None = None,
    all_logits: bool = True,
) -> tuple[ForwardBatch, int]:
    """A flat batch of one row per entry of ``token_ids``, and how many pages it reaches into.

    ``starts[i]`` tokens of row ``i`` are taken to be computed already. Rows get pages of their own,
    numbered from 1 in an order that is not ascending, unless ``pages`` says which.
    """
    starts = starts or [0] * len(token_ids)
    lengths = [start + len(ids) for start, ids in zip(starts, token_ids, strict=True)]
    if pages is None:
        counts = [-(-length // page_size) for length in lengths]
        free = list(range(sum(counts), 0, -1))
        pages = [[free.pop(0) for _ in range(count)] for count in counts]
    table = torch.zeros(len(pages), max(len(row) for row in pages), dtype=torch.int32)
    positions: list[int] = []
    slots: list[int] = []
    query_start = [0]
    for index, (row, start, length) in enumerate(zip(pages, starts, lengths, strict=True)):
        table[index, : len(row)] = torch.tensor(row, dtype=torch.int32)
        positions.extend(range(start, length))
        slots.extend(row[p // page_size] * page_size + p % page_size for p in range(start, length))
        query_start.append(query_start[-1] + length - start)
    logits = range(query_start[-1]) if all_logits else [end - 1 for end in query_start[1:]]
    batch = ForwardBatch(
        input_ids=torch.tensor([token for ids in token_ids for token in ids]),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        query_start=torch.tensor(query_start, dtype=torch.int32),
        context_lens=torch.tensor(lengths, dtype=torch.int32),
        page_table=table,
        query_start_host=tuple(query_start),
        context_lens_host=tuple(lengths),
        logits_indices=torch.tensor(list(logits), dtype=torch.int64),
    )
    return batch, 1 + max(page for row in pages for page in row)


def make_kv(
    num_layers: int,
    num_pages: int,
    shape: AttentionShape,
    *,
    dtype: torch.dtype = torch.float32,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """KV tensors full of NaN, so that reading what was never written shows."""
    size = (num_pages, shape.page_size, shape.num_kv_heads, shape.head_dim)
    return [
        (torch.full(size, torch.nan, dtype=dtype), torch.full(size, torch.nan, dtype=dtype))
        for _ in range(num_layers)
    ]


class DenseAttention:
    """The interface's meaning, row by row."""

    name = "dense"
    cascade_costs: CascadeCosts | None = None

    def __init__(self, shape: AttentionShape) -> None:
        self.shape = shape
        self.num_plans = 0

    def plan(self, batch: ForwardBatch) -> None:
        self.num_plans += 1

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        batch: ForwardBatch,
        plan: None,
    ) -> torch.Tensor:
        shape = self.shape
        assert query.shape == (batch.num_tokens, shape.num_heads, shape.head_dim)
        rows = []
        for index, context in enumerate(batch.context_lens_host):
            begin, end = batch.query_start_host[index : index + 2]
            row_pages = batch.page_table[index, : -(-context // shape.page_size)].long()
            row_keys = keys[row_pages].flatten(0, 1)[:context].float()
            row_values = values[row_pages].flatten(0, 1)[:context].float()
            group = shape.num_heads // shape.num_kv_heads
            row_keys = row_keys.repeat_interleave(group, dim=1)
            row_values = row_values.repeat_interleave(group, dim=1)
            scores = torch.einsum("qhd,khd->hqk", query[begin:end].float(), row_keys) * shape.scale
            visible = torch.arange(context) <= batch.positions[begin:end, None]
            weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
            rows.append(torch.einsum("hqk,khd->qhd", weights, row_values).flatten(1))
        return torch.cat(rows).to(query.dtype)
