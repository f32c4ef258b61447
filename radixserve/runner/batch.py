"""From planned rows to the flat tensors of a forward pass.

Everything is written into numpy arrays that are reused from step to step and go to the device in
one copy. On a CPU the tensors share the arrays' memory, so a ``ForwardBatch`` is valid until the
next one is built. Python touches each row a few times; what is per token is numpy's.
Knows token ids and page tables; knows no scheduler and no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from radixserve.attention.base import ForwardBatch
from radixserve.cascade import NO_CASCADE, Cascade
from radixserve.device.transfer import Transfer
from radixserve.ids import PageArray, TokenArray


class BatchRow(NamedTuple):
    """Tokens ``[start, start + num_tokens)`` of one request."""

    token_ids: TokenArray
    """The request's tokens as far as the host knows them: all of the row's, or all but the last."""
    start: int
    num_tokens: int
    page_table: PageArray
    """At least the pages up to the row's last token."""
    wants_logits: bool
    """Whether the logits after the row's last token are wanted."""
    pending: int | None = None
    """Where the row's last token is not known to the host: its index in the tokens that the step
    before samples."""
    num_scores: int = 0
    """After how many of the row's tokens, from its first on, the logits are wanted besides."""


@dataclass(frozen=True, slots=True)
class BuiltBatch:
    """A batch, and what of its ``input_ids`` only the device knows."""

    batch: ForwardBatch
    unknown: torch.Tensor
    """int64[U], on the device: flat indices of the input ids to be filled in (0 for now)."""
    pending: torch.Tensor
    """int64[U], on the device: where in the last step's samples each of them is found."""

    def fill_in(self, sampled: torch.Tensor | None) -> None:
        """Take the unknown input ids from the tokens that the step before sampled, int64[...].

        *Mutates* ``batch.input_ids``. Device work only.
        """
        if len(self.unknown):
            assert sampled is not None, "a token is pending and no step came before"
            self.batch.input_ids.index_copy_(0, self.unknown, sampled.index_select(0, self.pending))


class BatchBuilder:
    """Builds one batch after another in the same memory, which grows to the largest one."""

    def __init__(self, page_size: int, transfer: Transfer) -> None:
        self._page_size = page_size
        self._transfer = transfer
        self._input_ids = np.empty(0, dtype=np.int64)
        self._table = np.empty(0, dtype=np.int32)

    def build(self, rows: Sequence[BatchRow], cascade: Cascade = NO_CASCADE) -> BuiltBatch:
        """The batch of these rows, in this order; there is at least one. ``cascade``: what they
        share.

        *Mutates* the memory of the batch built before.
        *Cost*: O(rows) in Python, O(tokens + pages) in numpy, one copy to the device.
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
        unknown: list[int] = []
        pending: list[int] = []
        for number, (row, end) in enumerate(zip(rows, row_pages, strict=True)):
            first, last, start = query_start_host[number], query_start_host[number + 1], row.start
            if row.pending is not None:
                last -= 1
                input_ids[last] = 0
                unknown.append(last)
                pending.append(row.pending)
            input_ids[first:last] = row.token_ids[start : start + last - first]
            table[number, :end] = row.page_table[:end]

        row_of_token = np.repeat(np.arange(len(rows)), counts)
        positions = np.arange(query_start_host[-1]) + (starts - query_start[:-1])[row_of_token]
        pages = table[row_of_token, positions // page_size].astype(np.int64)
        slots = pages * page_size + positions % page_size
        wanted = [number + 1 for number, row in enumerate(rows) if row.wants_logits]
        scored = [
            np.arange(row.num_scores) + first
            for row, first in zip(rows, query_start_host, strict=False)
            if row.num_scores
        ]
        there = self._transfer.put(
            input_ids,
            positions,
            slots,
            query_start,
            context_lens,
            table,
            np.concatenate([query_start[wanted].astype(np.int64) - 1, *scored]),
            np.array(unknown, dtype=np.int64),
            np.array(pending, dtype=np.int64),
        )
        batch = ForwardBatch(
            input_ids=there[0],
            positions=there[1],
            slots=there[2],
            query_start=there[3],
            context_lens=there[4],
            page_table=there[5],
            query_start_host=tuple(query_start_host),
            context_lens_host=tuple(context_lens.tolist()),
            logits_indices=there[6],
            cascade=cascade,
        )
        return BuiltBatch(batch, there[7], there[8])

    def _take_input_ids(self, size: int) -> npt.NDArray[np.int64]:
        if len(self._input_ids) < size:
            self._input_ids = np.empty(max(size, 2 * len(self._input_ids)), dtype=np.int64)
        return self._input_ids[:size]

    def _take_table(self, num_rows: int, width: int) -> npt.NDArray[np.int32]:
        size = num_rows * width
        if len(self._table) < size:
            self._table = np.empty(max(size, 2 * len(self._table)), dtype=np.int32)
        return self._table[:size].reshape(num_rows, width)
