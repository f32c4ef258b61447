"""Which keys meet which queries: worked out once per step, so that no layer has to.

Rows of one token ("single" rows) and chunks go different ways. Chunks are attended one at a time.
Single rows are batched: rows whose page tables begin with the same pages attend to those keys
together, as the queries of one call that reads them once (the prefix *segments*, which nest); what
is then left of every row is gathered into padded *buckets* of similar length:

    row 0  |AAAAAAAAAAAA|BBBBBB|xxx          segments:  A for rows 0 1 2, B for rows 0 1
    row 1  |AAAAAAAAAAAA|BBBBBB|xxxx         bucket:    the x of rows 0 1 2 (padded to 4)
    row 2  |AAAAAAAAAAAA|yy                             row 3 is too long for it: it has its own
    row 3  |zzzzzzzzzzzzzzzzzzzzzzzz

A row's last key is its own new one, which no segment holds: every row is in exactly one bucket.
Padding repeats the row's own last key under a mask, so that no stranger's slot is ever read.

Knows page tables and lengths; knows no keys, no dtype and no model. Everything here is numpy on the
host. *Cost* of order ``sum(remaining lengths)``, a fraction of one layer's attention.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from radixserve.attention.base import ForwardBatch

IntArray = npt.NDArray[np.int64]

MIN_SAVED_KEYS = 2048
"""A segment must spare at least this many reads of a key; below that its own call and the merging
of its result cost more than they save."""

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
class Chunk:
    """One row of several tokens: flat tokens ``[first, last)``, whose own keys come last."""

    first: int
    last: int
    keys: KeySet


@dataclass(frozen=True, slots=True)
class Segment:
    """A prefix that several single rows share; whole pages, all of whose keys they all see."""

    members: torch.Tensor
    """int64[R]: which of the plan's single rows."""
    tokens: torch.Tensor
    """int64[R]: their flat tokens."""
    keys: KeySet


@dataclass(frozen=True, slots=True)
class Bucket:
    """Single rows with about as many keys left, padded to ``length``."""

    members: torch.Tensor
    """int64[R]: which of the plan's single rows."""
    tokens: torch.Tensor
    """int64[R]: their flat tokens."""
    length: int
    keys: KeySet
    """``R * length`` keys, row after row."""
    mask: torch.Tensor | None
    """float32[R, 1, 1, length], 0 or -inf; None if nothing is padding."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """One step's work, the same for every layer."""

    chunks: tuple[Chunk, ...]
    num_single_rows: int
    single_tokens: torch.Tensor
    """int64[num_single_rows]: their flat tokens, ascending."""
    segments: tuple[Segment, ...]
    buckets: tuple[Bucket, ...]


def plan_attention(batch: ForwardBatch, page_size: int) -> AttentionPlan:
    """Plan one step. ``batch`` is on the CPU; its page table is read here and nowhere else."""
    table = batch.page_table.numpy()
    starts = np.array(batch.query_start_host, dtype=np.int64)
    lengths = np.array(batch.context_lens_host, dtype=np.int64)
    is_single = np.diff(starts) == 1
    chunks = tuple(
        Chunk(
            int(starts[row]),
            int(starts[row + 1]),
            _keys_of_row(table[row], int(lengths[row]), page_size),
        )
        for row in np.flatnonzero(~is_single)
    )
    rows = np.flatnonzero(is_single)
    tokens = starts[:-1][rows]
    single_table, single_lengths = table[rows], lengths[rows]
    num_taken = np.zeros(len(rows), dtype=np.int64)
    segments = []
    for members, first_page, last_page in shared_prefixes(
        single_table, (single_lengths - 1) // page_size, page_size
    ):
        num_taken[members] = last_page * page_size
        keys = _keys_of_pages(
            single_table[members[0], first_page:last_page],
            (last_page - first_page) * page_size,
            page_size,
        )
        segments.append(Segment(torch.from_numpy(members), torch.from_numpy(tokens[members]), keys))
    buckets = tuple(
        _bucket(members, tokens[members], single_table, num_taken, single_lengths, page_size)
        for members in bucket_rows(single_lengths - num_taken)
    )
    return AttentionPlan(chunks, len(rows), torch.from_numpy(tokens), tuple(segments), buckets)


def shared_prefixes(
    table: npt.NDArray[np.int32], num_whole_pages: IntArray, page_size: int
) -> list[tuple[IntArray, int, int]]:
    """Which rows begin with the same pages, and how far. Outer ranges come first.

    Each entry is (rows, first page, last page): pages ``[first, last)`` of the table are equal in
    all of ``rows``, and below their ``num_whole_pages``. For each row, the ranges that name it are
    adjacent and begin at 0. A range is reported if reading it once instead of once a row spares at
    least ``MIN_SAVED_KEYS`` keys.
    """
    found: list[tuple[IntArray, int, int]] = []
    # (rows that agree on pages [0, depth), where what is not yet reported begins, depth)
    pending = [(np.arange(len(table), dtype=np.int64), 0, 0)]
    while pending:
        rows, reported, depth = pending.pop()
        rows = rows[num_whole_pages[rows] > depth]
        if len(rows) < 2:
            continue
        order = np.argsort(table[rows, depth], kind="stable")
        pages = table[rows[order], depth]
        for group in np.split(rows[order], np.flatnonzero(np.diff(pages)) + 1):
            if len(group) < 2:
                continue
            limit = int(num_whole_pages[group].min())
            agrees = (table[group, depth:limit] == table[group[0], depth:limit]).all(axis=0)
            end = limit if agrees.all() else depth + int(agrees.argmin())
            pays = (len(group) - 1) * (end - reported) * page_size >= MIN_SAVED_KEYS
            if pays:
                found.append((np.sort(group), reported, end))
            pending.append((group, end if pays else reported, end))
    return found


def bucket_rows(lengths: IntArray) -> Iterator[IntArray]:
    """Split rows into buckets of similar length: every row in exactly one, ascending within it."""
    order = np.argsort(-lengths, kind="stable")
    position = 0
    while position < len(order):
        longest = int(lengths[order[position]])
        end, padding = position + 1, 0
        while end < len(order) and longest * (end + 1 - position) <= MAX_BUCKET_KEYS:
            waste = longest - int(lengths[order[end]])
            if waste > MAX_PADDING * longest and padding + waste > FREE_PADDING_KEYS:
                break
            padding += waste
            end += 1
        yield np.sort(order[position:end])
        position = end


def _bucket(
    members: IntArray,
    tokens: IntArray,
    table: npt.NDArray[np.int32],
    num_taken: IntArray,
    lengths: IntArray,
    page_size: int,
) -> Bucket:
    """The bucket of these single rows; ``table``, ``num_taken``, ``lengths`` are of all of them."""
    table, num_taken, lengths = table[members], num_taken[members], lengths[members]
    remaining = lengths - num_taken
    longest = int(remaining.max())
    member_tensor, token_tensor = torch.from_numpy(members), torch.from_numpy(tokens)
    if len(members) == 1:
        first_page, skipped = divmod(int(num_taken[0]), page_size)
        assert skipped == 0, "segments are whole pages"
        num_pages = -(-int(lengths[0]) // page_size)
        keys = _keys_of_pages(table[0, first_page:num_pages], longest, page_size)
        return Bucket(member_tensor, token_tensor, longest, keys, None)
    offsets = np.arange(longest, dtype=np.int64)
    # Beyond its end a row repeats its own last key.
    positions = num_taken[:, None] + np.minimum(offsets, remaining[:, None] - 1)  # [R, longest]
    pages = np.take_along_axis(table, positions // page_size, axis=1).astype(np.int64)
    slots = pages * page_size + positions % page_size
    mask = None
    if (remaining != longest).any():
        is_padding = offsets >= remaining[:, None]
        mask = torch.from_numpy(np.where(is_padding, np.float32("-inf"), np.float32(0)))
        mask = mask.view(len(members), 1, 1, longest)
    keys = KeySet(len(members) * longest, (), torch.from_numpy(slots.reshape(-1)))
    return Bucket(member_tensor, token_tensor, longest, keys, mask)


def _keys_of_row(pages: npt.NDArray[np.int32], length: int, page_size: int) -> KeySet:
    return _keys_of_pages(pages[: -(-length // page_size)], length, page_size)


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
