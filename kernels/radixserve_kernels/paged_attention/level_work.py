"""The items that read shared keys: once, for the new tokens of all rows that have them in common.

A *level* is a run of rows with a run of keys that all their page tables hold at the same places,
and that lie before every new token of theirs. So no key is masked, the rows' new tokens may share
tiles as if they were one row's, and every level adds as many partial results to each of them:

    tokens of rows 0, 1, 2, 3     |-- tile 0 --|-- tile 1 --|
    keys [0, 512), of all four    |==== split 0, tile 0 ====| ...    partials 0 and 1 of each token
    keys [512, 768), of 0 and 1   |= split 2 =|                      partial 2 of those of 0 and 1
    behind: each row's own        |=|=|=|=|                          partial 3, or 2

Levels nest, and those of one row adjoin from key 0 on. Their borders are rounded down
(see ``splits``); what that leaves of a level every row reads by itself.

Rows of many new tokens read no level: such a row fills tiles by itself, whose products and not its
keys' bytes are what it costs, and partial results would be written for every token. A level that
such a row lies in the middle of is read on either side of it.

Knows lengths only, as ``work`` does. *Cost*: a loop over levels, then numpy.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from radixserve_kernels.paged_attention.items import ITEM_FIELDS, IntArray, TileShape, repeat
from radixserve_kernels.paged_attention.splits import (
    SPLIT_ROWS_PER_KEY,
    least_length,
    level_length,
)

LEVEL_FIELDS = 4
"""Of a level: first row, end row, first key, end key (both ends exclusive)."""

NO_LEVELS: IntArray = np.empty((0, LEVEL_FIELDS), dtype=np.int32)

_Level = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class LevelWork:
    """The levels' items, and what is left to the rows."""

    short_items: IntArray
    """[N, ITEM_FIELDS]."""
    tall_items: IntArray
    """[N, ITEM_FIELDS]."""
    begins: IntArray
    """int32[B]: the first key that a row reads by itself."""
    num_partials: IntArray
    """int32[B]: partial results that each of the row's tokens has of levels."""


def plan_levels(
    levels: IntArray, query_start: IntArray, num_new: IntArray, shape: TileShape, split_tokens: int
) -> LevelWork:
    """Cut levels into items. ``levels``: int32[L, LEVEL_FIELDS], outer ones before those in them.

    *Raises* ``ValueError`` if a row's levels do not adjoin.
    """
    least = least_length(shape.group, split_tokens)
    begins = np.zeros(len(num_new), dtype=np.int32)
    num_partials = np.zeros(len(num_new), dtype=np.int32)
    used = _rounded(levels, least)
    if used:
        # Those whose own splits are the shortest, whatever the number of their keys.
        is_long = num_new * (SPLIT_ROWS_PER_KEY * shape.group) > least
        if is_long.any():
            used = list(_on_either_side(used, np.flatnonzero(is_long).tolist()))
    if not used:
        none = np.empty((0, ITEM_FIELDS), dtype=np.int32)
        return LevelWork(none, none, begins, num_partials)

    lengths, numbers = [], []
    for first_row, last_row, first_key, end_key in used:
        before = int(begins[first_row]), int(begins[last_row - 1])
        if before != (first_key, first_key):
            raise ValueError(
                f"expected the levels of rows {first_row} to {last_row} to adjoin, got one from "
                f"key {first_key} on behind {before[0]} and {before[1]} keys"
            )
        split_keys = level_length(end_key, least)
        number = int(num_partials[first_row])
        lengths.append(split_keys)
        numbers.append(number)
        num_splits = -(-end_key // split_keys) - first_key // split_keys
        num_partials[first_row:last_row] = number + num_splits
        begins[first_row:last_row] = end_key

    row, end_row, first, end = np.array(used, dtype=np.int32).T
    length = np.array(lengths, dtype=np.int32)
    token = query_start[row]
    num_tokens = query_start[end_row] - token
    is_short = num_tokens * shape.group <= shape.short
    tile_tokens = np.where(is_short, shape.short, shape.tall) // shape.group
    num_tiles = -(-num_tokens // tile_tokens)
    first_split = first // length
    # A split's tiles run side by side, as they read the same keys.
    level, nth = repeat(num_tiles * (-(-end // length) - first_split))
    split, tile = np.divmod(nth, num_tiles[level])
    skipped = tile * tile_tokens[level]
    begin = (first_split[level] + split) * length[level]
    items = np.zeros((len(level), ITEM_FIELDS), dtype=np.int32)
    items[:, 0] = row[level]
    items[:, 1] = token[level] + skipped
    items[:, 2] = np.minimum(tile_tokens[level], num_tokens[level] - skipped)
    items[:, 3] = end[level]
    items[:, 4] = np.maximum(begin, first[level])
    items[:, 5] = np.minimum(begin + length[level], end[level])
    items[:, 6] = np.array(numbers, dtype=np.int32)[level] + split
    in_short = is_short[level]
    return LevelWork(items[in_short], items[~in_short], begins, num_partials)


def _rounded(levels: IntArray, least: int) -> list[_Level]:
    """The levels between the borders of splits, less those of which nothing is left."""
    rounded = levels.copy()
    rounded[:, 2:] -= rounded[:, 2:] % least
    return [tuple(level) for level in rounded[rounded[:, 2] < rounded[:, 3]].tolist()]


def _on_either_side(levels: Iterable[_Level], long_rows: list[int]) -> Iterator[_Level]:
    """The levels without these rows, in parts, each of at least two rows."""
    for first_row, end_row, first_key, end_key in levels:
        inside = long_rows[bisect_left(long_rows, first_row) : bisect_left(long_rows, end_row)]
        firsts = [first_row, *(row + 1 for row in inside)]
        for first, end in zip(firsts, [*inside, end_row], strict=True):
            if end - first >= 2:
                yield first, end, first_key, end_key
