"""From planned rows to the flat tensors of a forward pass.

Everything is written into arrays that are reused from step to step, so a ``ForwardBatch`` is valid
until the next one is built. Python touches each row a few times; what is per token is numpy's.
Knows token ids and page tables; knows no scheduler and no model.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from radixserve.attention.base import ForwardBatch
from radixserve.ids import PageArray, TokenArray


class BatchRow(NamedTuple):
    """Tokens ``[start, start + num_tokens)`` of one request."""

    token_ids: TokenArray
    """All the request's tokens."""
    start: int
    num_tokens: int
    page_table: PageArray
    """At least the pages up to the row's last token."""
    wants_logits: bool
    """Whether the logits after the row's last token are wanted."""


class BatchBuilder:
    """Builds one batch after another in the same memory, which grows to the largest one."""

    def __init__(self, page_size: int, device: torch.device) -> None:
        self._page_size = page_size
        self._device = device
        self._input_ids = np.empty(0, dtype=np.int64)
        self._table = np.empty(0, dtype=np.int32)

    def build(self, rows: Sequence[BatchRow]) -> ForwardBatch:
        """The batch of these rows, in this order; there is at least one.

        *Mutates* the memory of the batch built before.
        *Cost*: O(rows) in Python, O(tokens + pages) in numpy.
        """
        page_size = self._page_size
        counts = np.array([row.num_tokens for row in rows], dtype=np.int64)
        starts = np.array([row.start for row in rows], dtype=np.int64)
        query_start = np.zeros(len(rows) + 1, dtype=np.int32)
        np.cumsum(counts, out=query_start[1:])
        context_lens = (starts + counts).astype(np.int32)
        num_pages = -(-context_lens // page_size)
        width = int(num_pages.max())
        query_start_host: list[int] = query_start.tolist()

        input_ids = self._take_input_ids(query_start_host[-1])
        table = self._take_table(len(rows), width)
        table.fill(0)
        row_pages: list[int] = num_pages.tolist()
        for number, (row, end) in enumerate(zip(rows, row_pages, strict=True)):
            first, start, count = query_start_host[number], row.start, row.num_tokens
            input_ids[first : first + count] = row.token_ids[start : start + count]
            table[number, :end] = row.page_table[:end]

        row_of_token = np.repeat(np.arange(len(rows)), counts)
        positions = np.arange(query_start_host[-1]) + (starts - query_start[:-1])[row_of_token]
        pages = table[row_of_token, positions // page_size].astype(np.int64)
        slots = pages * page_size + positions % page_size
        wanted = [number + 1 for number, row in enumerate(rows) if row.wants_logits]
        logits_indices = query_start[wanted].astype(np.int64) - 1
        return ForwardBatch(
            input_ids=self._tensor(input_ids),
            positions=self._tensor(positions),
            slots=self._tensor(slots),
            query_start=self._tensor(query_start),
            context_lens=self._tensor(context_lens),
            page_table=self._tensor(table),
            query_start_host=tuple(query_start_host),
            context_lens_host=tuple(context_lens.tolist()),
            logits_indices=self._tensor(logits_indices),
        )

    def _tensor(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def _take_input_ids(self, size: int) -> npt.NDArray[np.int64]:
        if len(self._input_ids) < size:
            self._input_ids = np.empty(max(size, 2 * len(self._input_ids)), dtype=np.int64)
        return self._input_ids[:size]

    def _take_table(self, num_rows: int, width: int) -> npt.NDArray[np.int32]:
        size = num_rows * width
        if len(self._table) < size:
            self._table = np.empty(max(size, 2 * len(self._table)), dtype=np.int32)
        return self._table[:size].reshape(num_rows, width)
