"""A step's work in parts, if its partial results exceed the room that there is for them.

Parts are attended one after the other, each a run of rows. A level whose rows are in several parts
is read in each of them that holds at least two of its rows; in one that holds a single row of it,
its keys are that row's own.

Knows lengths only, as ``work`` does. *Cost*: that of ``work``; a loop over rows where there are
several parts, which is rare.
"""

from dataclasses import replace

import numpy as np

from radixserve_kernels.paged_attention.items import IntArray, TileShape
from radixserve_kernels.paged_attention.level_work import NO_LEVELS, plan_levels
from radixserve_kernels.paged_attention.splits import (
    MAX_ROW_PARTIALS,
    SPLIT_TOKENS,
    split_lengths,
)
from radixserve_kernels.paged_attention.work import Work, plan_work


def plan_waves(
    query_start: IntArray,
    context_lens: IntArray,
    shape: TileShape,
    max_partials: int,
    levels: IntArray = NO_LEVELS,
) -> list[Work]:
    """``plan_work`` in as many parts as it takes for none to need more than ``max_partials`` slots.

    Each part holds the next so many rows; their results are what one part would give, but for the
    rounding that a level's tiles of other rows bring about. Nearly always there is one.
    *Raises* ``ValueError`` if ``max_partials`` is below ``MAX_ROW_PARTIALS``: a row cannot be cut.
    """
    if max_partials < MAX_ROW_PARTIALS:
        raise ValueError(
            f"expected max_partials of at least {MAX_ROW_PARTIALS}, got {max_partials}"
        )
    work = plan_work(query_start, context_lens, shape, levels=levels)
    if work.num_partials <= max_partials:
        return [work]
    num_new = np.diff(query_start)
    shared = plan_levels(levels, query_start, num_new, shape, SPLIT_TOKENS)
    lengths = split_lengths(num_new, context_lens, shape.group, SPLIT_TOKENS)
    # At most: the tiles of a row's first tokens may have a split less. And what a part cuts off a
    # level costs a row no more partials of its own, whose splits are no shorter than the level's.
    num_partials = shared.num_partials - (-context_lens // lengths) - shared.begins // lengths
    slots = np.where(num_partials > 1, num_partials * num_new, 0)
    waves = []
    first, taken = 0, 0
    for row, wanted in enumerate([*slots.tolist(), max_partials + 1]):
        # A row that exceeds the room by itself does so by its levels, which it loses when alone.
        if row > first and taken + wanted > max_partials:
            tokens = query_start[first : row + 1]
            part = plan_work(
                tokens - tokens[0],
                context_lens[first:row],
                shape,
                levels=_levels_within(levels, first, row),
            )
            waves.append(_moved(part, first, int(tokens[0]), int(query_start[-1])))
            first, taken = row, 0
        taken += wanted
    return waves


def _levels_within(levels: IntArray, first_row: int, end_row: int) -> IntArray:
    """What is left of the levels for these rows, counted from the first of them."""
    cut = levels.copy()
    cut[:, :2] = np.clip(cut[:, :2], first_row, end_row) - first_row
    return cut[cut[:, 1] - cut[:, 0] >= 2]


def _moved(work: Work, num_rows: int, num_tokens: int, total_tokens: int) -> Work:
    """The same behind so many more rows and tokens. *Mutates* its arrays."""
    for items in (work.short_items, work.tall_items):
        items[:, 0] += num_rows
        items[:, 1] += num_tokens
    work.merges[:, 0] += num_tokens
    first_slots = np.zeros(total_tokens, dtype=np.int32)
    first_slots[num_tokens : num_tokens + len(work.first_slots)] = work.first_slots
    return replace(work, first_slots=first_slots)
