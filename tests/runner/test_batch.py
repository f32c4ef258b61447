"""Flat batches: every number of the drawing in ``attention/base.py``."""

import numpy as np
import torch

from radixserve.attention.base import ForwardBatch
from radixserve.device.transfer import HostTransfer
from radixserve.runner.batch import BatchBuilder, BatchRow


def row(
    start: int,
    count: int,
    pages: list[int],
    *,
    wants_logits: bool = True,
    pending: int | None = None,
) -> BatchRow:
    known = start + count + 3 if pending is None else start + count - 1
    token_ids = np.arange(100, 100 + known, dtype=np.int32)
    table = np.array(pages, dtype=np.int32)
    return BatchRow(token_ids, start, count, table, wants_logits, pending)


def build(page_size: int, *rows: BatchRow) -> ForwardBatch:
    return BatchBuilder(page_size, HostTransfer()).build(rows).batch


def test_the_drawn_batch() -> None:
    batch = build(
        4,
        row(0, 5, [7, 8, 99], wants_logits=False),
        row(17, 1, [1, 2, 3, 4, 5]),
        row(8, 3, [6, 9, 2, 77]),
    )
    assert batch.input_ids.tolist() == [100, 101, 102, 103, 104, 117, 108, 109, 110]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 17, 8, 9, 10]
    assert batch.slots.tolist() == [28, 29, 30, 31, 32, 21, 8, 9, 10]
    assert batch.query_start.tolist() == [0, 5, 6, 9] == list(batch.query_start_host)
    assert batch.context_lens.tolist() == [5, 18, 11] == list(batch.context_lens_host)
    assert batch.page_table.tolist() == [[7, 8, 0, 0, 0], [1, 2, 3, 4, 5], [6, 9, 2, 0, 0]]
    assert batch.logits_indices.tolist() == [5, 8]
    assert (batch.num_tokens, batch.num_rows) == (9, 3)
    for tensor in (batch.input_ids, batch.positions, batch.slots, batch.logits_indices):
        assert tensor.dtype == torch.int64
    for tensor in (batch.query_start, batch.context_lens, batch.page_table):
        assert tensor.dtype == torch.int32
    assert batch.page_table.is_contiguous()


def test_memory_is_reused_without_leaving_traces() -> None:
    builder = BatchBuilder(1, HostTransfer())
    large = builder.build([row(0, 9, list(range(1, 10))), row(4, 1, [20, 21, 22, 23, 24])]).batch
    address = large.page_table.data_ptr()
    small = builder.build([row(1, 1, [3, 4]), row(0, 1, [5], wants_logits=False)]).batch
    assert small.page_table.data_ptr() == address
    assert small.page_table.tolist() == [[3, 4], [5, 0]]
    assert small.logits_indices.tolist() == [0]


def test_no_logits_wanted() -> None:
    batch = build(4, row(0, 2, [1], wants_logits=False))
    assert batch.logits_indices.tolist() == []
    assert batch.logits_indices.dtype == torch.int64


def test_tokens_that_only_the_device_knows_are_filled_in_from_the_last_samples() -> None:
    builder = BatchBuilder(4, HostTransfer())
    builder.build([row(0, 30, list(range(8)))])
    built = builder.build(
        [
            row(5, 1, [1, 2], pending=2),
            row(0, 3, [3]),
            row(8, 1, [4, 5, 6], pending=0),
            row(2, 2, [7], pending=1),
        ]
    )
    assert built.batch.input_ids.tolist() == [0, 100, 101, 102, 0, 102, 0]
    built.fill_in(torch.tensor([70, 71, 72]))
    assert built.batch.input_ids.tolist() == [72, 100, 101, 102, 70, 102, 71]
    assert built.batch.positions.tolist() == [5, 0, 1, 2, 8, 2, 3]


def test_nothing_to_fill_in_needs_no_samples() -> None:
    built = BatchBuilder(4, HostTransfer()).build([row(0, 2, [1])])
    built.fill_in(None)
    assert built.batch.input_ids.tolist() == [100, 101]
