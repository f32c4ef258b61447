"""Which keys meet which queries: worked out once per step, so that no layer has to.

The pages that several rows begin with are the batch's cascade (``radixserve/cascade.py``): every
*level* of it is attended by the queries of all its rows, which are a contiguous run of flat tokens
and see all of its keys. What is left of a row is its own. Rows of several tokens (*chunks*) are
attended one at a time; rows of one token are gathered into padded *buckets* of similar length:

    row 0  |AAAAAAAAAAAA|BBBBBB|xxx          levels:  A for the tokens of rows 0 1 2, B for rows 0 1
    row 1  |AAAAAAAAAAAA|BBBBBB|xxxx         bucket:  the x and y of rows 0 1 2 (padded to 4)
    row 2  |AAAAAAAAAAAA|yy                           row 3 is too long for it: it has its own
    row 3  |zzzzzzzzzzzzzzzzzzzz

A row's last key is its own new one, which no level holds: every row is in exactly one bucket, or is
a chunk. The results of rows in levels are *partial*: they are to be merged with their levels', and
no bucket holds both kinds. Padding repeats the row's own last key under a mask, so that no
stranger's slot is ever read.

Knows page tables and lengths; knows no keys, no dtype and no model. Everything here is numpy on the
host. *Cost* of order ``sum(own lengths)``, a fraction of one layer's attention.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from radixserve.attention.base import ForwardBatch

IntArray = npt.NDArray[np.int64]

MAX_PADDING = 0.25
"""A row joins a bucket if at most this fraction of its padded length would be padding ..."""

FREE_PADDING_KEYS = 512
"""... or if the bucket's padding stays below this: a call of its own would cost more."""

MAX_BUCKET_KEYS = 1 << 13
"""Padded keys in one bucket: bounds the scratch buffers and keeps them near the caches."""

MAX_RUNS = 16
"""Contiguous runs of slots are copied one by one up to this many, and gathered beyond it."""


@dataclass(frozen=True, slots=True)
class Run:
    """Keys ``[first, first + length)`` of a row lie in slots ``[slot, slot + length)``."""

    first: int
    slot: int
    length: int


@dataclass(frozen=True, slots=True)
class KeySet:
    """Where the keys of some rows lie: a few contiguous runs, or an index."""

    length: int
    runs: tuple[Run, ...]
    """Empty if ``index`` is set."""
    index: torch.Tensor | None
    """int64[length]: the slot of every key."""


@dataclass(frozen=True, slots=True)
class SharedKeys:
    """One level: flat tokens ``[first, last)`` see all of its keys."""

    first: int
    last: int
    keys: KeySet


@dataclass(frozen=True, slots=True)
class Chunk:
    """One row of several tokens: flat tokens ``[first, last)``, whose own keys come last."""

    first: int
    last: int
    keys: KeySet
    """What no level holds."""
    is_partial: bool


@dataclass(frozen=True, slots=True)
class Bucket:
    """Rows of one token with about as many keys of their own, padded to ``length``."""

    tokens: slice | torch.Tensor
    """Their flat tokens: a run, or int64[R]."""
    num_rows: int
    length: int
    keys: KeySet
    """``R * length`` keys, row after row."""
    mask: torch.Tensor | None
    """float32[R, 1, 1, length], 0 or -inf; None if nothing is padding."""
    is_partial: bool


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """One step's work, the same for every layer."""

    chunks: tuple[Chunk, ...]
    buckets: tuple[Bucket, ...]
    levels: tuple[SharedKeys, ...]
    merged: tuple[slice, ...]
    """The flat tokens that are in levels: a run for each outermost one."""


def plan_attention(batch: ForwardBatch, page_size: int) -> AttentionPlan:
    """Plan one step. ``batch`` is on the CPU; its page table is read here and nowhere else."""
    table = batch.page_table.numpy()
    starts = batch.query_start_host
    lengths = np.array(batch.context_lens_host, dtype=np.int64)
    # How many of each row's first keys are its levels'.
    num_shared = np.zeros(len(lengths), dtype=np.int64)
    levels, merged = [], []
    for level in batch.cascade.levels:
        tokens = slice(starts[level.first_row], starts[level.end_row])
        pages = table[level.first_row, level.first_page : level.end_page]
        keys = _keys_of_pages(pages, len(pages) * page_size, page_size)
        levels.append(SharedKeys(tokens.start, tokens.stop, keys))
        num_shared[level.first_row : level.end_row] = level.end_page * page_size
        if level.first_page == 0:
            merged.append(tokens)
    assert (num_shared < lengths).all(), "a level holds a row's new key"

    is_single = np.diff(np.array(starts, dtype=np.int64)) == 1
    chunks = tuple(
        Chunk(
            starts[row],
            starts[row + 1],
            _own_keys(table[row], int(num_shared[row]), int(lengths[row]), page_size),
            bool(num_shared[row]),
        )
        for row in np.flatnonzero(~is_single).tolist()
    )
    buckets = []
    for is_partial in (False, True):
        rows = np.flatnonzero(is_single & ((num_shared > 0) == is_partial))
        for members in bucket_rows(lengths[rows] - num_shared[rows]):
            inside = rows[members]
            tokens_inside = np.array([starts[row] for row in inside.tolist()], dtype=np.int64)
            buckets.append(
                _bucket(
                    tokens_inside,
                    table[inside],
                    num_shared[inside],
                    lengths[inside],
                    page_size,
                    is_partial=is_partial,
                )
            )
    return AttentionPlan(chunks, tuple(buckets), tuple(levels), tuple(merged))


def bucket_rows(lengths: IntArray) -> Iterator[IntArray]:
    """Split rows into buckets of similar length: every row in exactly one, ascending within it."""
    order = np.argsort(-lengths, kind="stable")
    descending = lengths[order].tolist()
    position = 0
    while position < len(order):
        longest = descending[position]
        end, padding = position + 1, 0
        while end < len(order) and longest * (end + 1 - position) <= MAX_BUCKET_KEYS:
            waste = longest - descending[end]
            if waste > MAX_PADDING * longest and padding + waste > FREE_PADDING_KEYS:
                break
            padding += waste
            end += 1
        yield np.sort(order[position:end])
        position = end


def _bucket(
    tokens: IntArray,
    table: npt.NDArray[np.int32],
    num_shared: IntArray,
    lengths: IntArray,
    page_size: int,
    *,
    is_partial: bool,
) -> Bucket:
    """The bucket of these rows, whose first ``num_shared`` keys are their levels'."""
    remaining = lengths - num_shared
    longest = int(remaining.max())
    num_rows = len(tokens)
    first = int(tokens[0])
    run = first + num_rows == int(tokens[-1]) + 1
    where = slice(first, first + num_rows) if run else torch.from_numpy(tokens)
    if num_rows == 1:
        keys = _own_keys(table[0], int(num_shared[0]), int(lengths[0]), page_size)
        return Bucket(where, 1, longest, keys, None, is_partial)
    offsets = np.arange(longest, dtype=np.int64)
    # Beyond its end a row repeats its own last key.
    positions = num_shared[:, None] + np.minimum(offsets, remaining[:, None] - 1)  # [R, longest]
    pages = np.take_along_axis(table, positions // page_size, axis=1).astype(np.int64)
    slots = pages * page_size + positions % page_size
    mask = None
    if (remaining != longest).any():
        is_padding = offsets >= remaining[:, None]
        mask = torch.from_numpy(np.where(is_padding, np.float32("-inf"), np.float32(0)))
        mask = mask.view(num_rows, 1, 1, longest)
    keys = KeySet(num_rows * longest, (), torch.from_numpy(slots.reshape(-1)))
    return Bucket(where, num_rows, longest, keys, mask, is_partial)


def _own_keys(pages: npt.NDArray[np.int32], num_shared: int, length: int, page_size: int) -> KeySet:
    """Keys ``[num_shared, length)`` of the row with these pages; shared ones fill whole pages."""
    first_page, skipped = divmod(num_shared, page_size)
    assert skipped == 0, "levels are whole pages"
    own = pages[first_page : -(-length // page_size)]
    return _keys_of_pages(own, length - num_shared, page_size)


def _keys_of_pages(pages: npt.NDArray[np.int32], length: int, page_size: int) -> KeySet:
    """The first ``length`` keys of these pages, as runs of consecutive pages if those are few."""
    breaks = np.flatnonzero(np.diff(pages) != 1) + 1
    if len(breaks) >= MAX_RUNS:
        slots = pages[:, None].astype(np.int64) * page_size + np.arange(page_size)
        return KeySet(length, (), torch.from_numpy(slots.reshape(-1)[:length]))
    edges = [0, *breaks.tolist(), len(pages)]
    runs = tuple(
        Run(
            first * page_size,
            int(pages[first]) * page_size,
            min(last * page_size, length) - first * page_size,
        )
        for first, last in pairwise(edges)
    )
    return KeySet(length, runs, None)
