"""Which queries meet which keys, item by item: one step's work, worked out on the host.

A *tile* is a run of new tokens: of one row, or of rows that read a *level* of keys in common. An
*item* is a tile together with a run of keys; a kernel program takes one item and one KV head. Rows
with few packed rows (decode) go into *short* tiles, all others into *tall* ones.

A row of many keys and few new tokens would leave most of a GPU idle, so its keys are split: each of
its items leaves a *partial* result, and a *merge* for every token weighs them together. So do the
items of levels, whose keys a row's own items leave out (``level_work``).

    tokens       |-- tile 0 --|-- tile 1 --|
    keys 0 ..... |============|             item (tile 0, keys below its last token)
                 |=========================|  item (tile 1, ...)

    one token, split:   |== item 0 ==|== item 1 ==|== item 2 =|   three partials, one merge

A token's partials lie side by side, those of levels first; ``first_slots`` says where.

Invariant: a row's own tiles and splits depend on its own numbers of new tokens and of keys, and on
nothing else of the batch but the levels that it reads; these change the tile that its tokens are
in, and not the keys that meet in a partial, as far as ``splits`` says. So the same row has the same
bits in any company in which it reads no level; where it reads one, results may differ by the order
in which a tile of another shape adds up, and by nothing else.

Knows lengths only: no page, no window (the kernel skips the keys that a window hides), no torch.
*Cost*: a few dozen numpy operations, of order of the number of items.
"""

from dataclasses import dataclass

import numpy as np

from radixserve_kernels.paged_attention.items import (
    ITEM_FIELDS,
    MERGE_FIELDS,
    IntArray,
    TileShape,
    repeat,
)
from radixserve_kernels.paged_attention.level_work import LEVEL_FIELDS, NO_LEVELS, plan_levels
from radixserve_kernels.paged_attention.splits import ALIGNMENT, SPLIT_TOKENS, split_lengths


@dataclass(frozen=True, slots=True)
class Work:
    """One step's items and merges."""

    short_items: IntArray
    """[N, ITEM_FIELDS], those of levels first."""
    tall_items: IntArray
    """[N, ITEM_FIELDS], those with the most keys first: the last to start should end soon."""
    merges: IntArray
    """[N, MERGE_FIELDS], one for every token that has partial results."""
    first_slots: IntArray
    """int32[T]: where a token's partial results begin. Of any value where it has none."""
    num_partials: int
    """Slots that the partial results take; each holds one token's, of all its heads."""

    has_levels: bool = False
    """Whether there are items of levels."""

    @property
    def arrays(self) -> tuple[IntArray, ...]:
        """What the device gets, in the order of ``DeviceWork``'s fields: the numbers of short
        items, of tall items and of merges, int32[3]; these three; and ``first_slots``."""
        lengths = [len(self.short_items), len(self.tall_items), len(self.merges)]
        counts = np.array(lengths, dtype=np.int32)
        return counts, self.short_items, self.tall_items, self.merges, self.first_slots


def plan_work(
    query_start: IntArray,
    context_lens: IntArray,
    shape: TileShape,
    split_tokens: int = SPLIT_TOKENS,
    levels: IntArray = NO_LEVELS,
) -> Work:
    """Cut a step into items.

    ``query_start``: int32[B+1], from 0; ``context_lens``: int32[B], keys of each row, its new ones
    included. Rows without new tokens have no items. ``levels``: int32[L, LEVEL_FIELDS], see
    ``level_work``; not for kernels with a window, which a level's queries have in different places.
    *Raises* ``ValueError`` if a row has more new tokens than keys, if ``split_tokens`` is not a
    positive multiple of ``ALIGNMENT``, or for levels that are none.
    """
    if split_tokens < 1 or split_tokens % ALIGNMENT != 0:
        raise ValueError(
            f"expected split_tokens to be a multiple of {ALIGNMENT}, got {split_tokens}"
        )
    num_new = _check_rows(query_start, context_lens)
    num_old = context_lens - num_new
    if len(levels):
        _check_levels(levels, len(num_new))
    shared = plan_levels(levels, query_start, num_new, shape, split_tokens)
    if (shared.begins > num_old).any():
        raise ValueError("expected levels to end before the new tokens of all their rows")

    # Tiles.
    is_short = num_new * shape.group <= shape.short
    tile_tokens = np.where(is_short, shape.short // shape.group, shape.tall // shape.group)
    row, nth = repeat(-(-num_new // tile_tokens))
    skipped = nth * tile_tokens[row]
    num_tokens = np.minimum(tile_tokens[row], num_new[row] - skipped)
    token = query_start[row] + skipped
    position = num_old[row] + skipped
    end = position + num_tokens

    # Splits of tiles.
    length = split_lengths(num_new, context_lens, shape.group, split_tokens)[row]
    begin, before = shared.begins[row], shared.num_partials[row]
    first_split = begin // length
    num_splits = -(-end // length) - first_split
    num_partials = before + num_splits
    is_split = num_partials > 1
    slots = np.where(is_split, num_tokens * num_partials, 0)
    first_slot = np.cumsum(slots) - slots
    tile, nth = repeat(num_splits)
    items = np.zeros((len(tile), ITEM_FIELDS), dtype=np.int32)
    items[:, 0] = row[tile]
    items[:, 1] = token[tile]
    items[:, 2] = num_tokens[tile]
    items[:, 3] = position[tile]
    split_begin = (first_split[tile] + nth) * length[tile]
    items[:, 4] = np.maximum(split_begin, begin[tile])
    items[:, 5] = np.minimum(split_begin + length[tile], end[tile])
    items[:, 6] = np.where(is_split[tile], before[tile] + nth, -1)
    in_short = is_short[row[tile]]
    if in_short.all() and len(shared.tall_items) == 0:
        short_items, tall_items = items, items[:0]
    else:
        short_items = items[in_short]
        tall_items = np.concatenate([shared.tall_items, items[~in_short]])
        num_keys = tall_items[:, 5] - tall_items[:, 4]
        tall_items = tall_items[np.argsort(-num_keys, kind="stable")]
    if len(shared.short_items):
        short_items = np.concatenate([shared.short_items, short_items])

    # Tokens are in their tiles' order.
    tile, nth = repeat(num_tokens)
    first_slots = (first_slot[tile] + nth * num_partials[tile]).astype(np.int32)
    merges = _merges(first_slots, np.where(is_split, num_partials, 0)[tile])
    has_levels = len(shared.short_items) + len(shared.tall_items) > 0
    return Work(short_items, tall_items, merges, first_slots, int(slots.sum()), has_levels)


def _merges(first_slots: IntArray, num_partials: IntArray) -> IntArray:
    """Of every token that has partial results."""
    merged = np.flatnonzero(num_partials)
    merges = np.zeros((len(merged), MERGE_FIELDS), dtype=np.int32)
    merges[:, 0] = merged
    merges[:, 1] = first_slots[merged]
    merges[:, 2] = num_partials[merged]
    return merges


def _check_rows(query_start: IntArray, context_lens: IntArray) -> IntArray:
    """New tokens of each row. *Raises* ``ValueError``."""
    num_new = np.diff(query_start)
    if len(num_new) != len(context_lens):
        raise ValueError(
            f"expected one more query_start than context_lens, got {len(query_start)} and "
            f"{len(context_lens)}"
        )
    if ((num_new < 0) | (num_new > context_lens)).any():
        raise ValueError("expected every row to have 0 to context_lens new tokens")
    return num_new


def _check_levels(levels: IntArray, num_rows: int) -> None:
    """*Raises* ``ValueError`` for what cannot be the levels of so many rows."""
    if levels.ndim != 2 or levels.shape[1] != LEVEL_FIELDS:
        raise ValueError(f"expected levels of shape [L, {LEVEL_FIELDS}], got {list(levels.shape)}")
    first_row, end_row, first_key, end_key = levels.T
    bad = (first_row < 0) | (end_row < first_row + 2) | (end_row > num_rows)
    bad |= (first_key < 0) | (end_key <= first_key)
    if bad.any():
        raise ValueError(
            f"expected levels of two rows or more, out of {num_rows}, and of one key or more, got "
            f"{levels[bad][0].tolist()}"
        )
