"""Which queries meet which keys, tile by tile: one step's work, worked out on the host.

A *tile* is a run of one row's new tokens. All query heads of one KV head are packed into it, so a
tile of ``m`` tokens has ``m * group`` packed rows. An *item* is a tile together with a run of the
row's keys; a kernel program takes one item and one KV head. Rows with few packed rows (decode) go
into *short* tiles, all others into *tall* ones.

A row of many keys and few new tokens would leave most of a GPU idle, so its keys are split: each of
its items leaves a *partial* result, and a *merge* for every token weighs them together.

    tokens       |-- tile 0 --|-- tile 1 --|
    keys 0 ..... |============|             item (tile 0, keys below its last token)
                 |=========================|  item (tile 1, ...)

    one token, split:   |== item 0 ==|== item 1 ==|== item 2 =|   three partials, one merge

Invariant: a row's tiles and splits depend on its own number of new tokens and of keys, and on
nothing else of the batch. So a row's result is the same bits in any company.

Knows lengths only: no page, no window (the kernel skips the keys that a window hides), no torch.
*Cost*: a few dozen numpy operations, of order of the number of items.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]

ITEM_FIELDS = 8
"""int32s of an item: its row of the page table, first flat token, number of tokens, position of
that first token in its row, first key, end key (exclusive), first partial slot (-1: the item is
alone and writes the result), and one to spare. 32 bytes: one aligned sector of memory."""

MERGE_FIELDS = 4
"""int32s of a merge: its flat token, first partial slot, number of partials, and how many slots
lie between one partial and the next."""

SPLIT_TOKENS = 256
"""Keys of a split of a decode row. With 8 KV heads of 128 in 16 bits that is 128 KiB a program. A
single row of 1,024 keys then occupies 32 programs and not 16; and partials, written and read once
in float32, add 3% to the bytes moved at 4 query heads a KV head. At 128 keys they would add 6%; at
512 a small batch would leave twice as many processors idle. Unmeasured."""

SPLIT_ROWS_PER_KEY = 8
"""A split is at least this many keys long for every packed row: partials grow with the packed rows,
keys do not, and this keeps the partials' bytes below a quarter of the keys'."""

MAX_SPLIT_QUERY = 64
"""Rows of more new tokens than this are never split: their tiles fill a GPU by themselves."""

MAX_SPLITS = 64
"""Splits of one tile. Beyond it splits grow longer: with 8 KV heads 512 programs a row are enough,
and what partials take is bounded by the number of rows."""

MAX_ROW_PARTIALS = 512
"""Partial slots of one row's tokens together, for the same reason."""

ALIGNMENT = SPLIT_TOKENS
"""Splits begin at multiples of this many keys, hence key tiles never straddle two splits."""


@dataclass(frozen=True, slots=True)
class TileShape:
    """How tokens are cut into tiles: packed rows of a short and of a tall tile."""

    group: int
    """Query heads a KV head."""
    short: int
    tall: int


SHORT_ROWS = 16
"""The fewest rows that a tensor core multiplies."""

TALL_ROWS = 128
"""Rows that share a tile of keys on their way through the processor: with 64 the keys would have to
come from the second-level cache at twice the rate."""


def tile_shape(group: int) -> TileShape:
    """The tiles for ``group`` query heads a KV head. *Raises* ``ValueError`` beyond 128."""
    if not 1 <= group <= TALL_ROWS:
        raise ValueError(f"expected 1 to {TALL_ROWS} query heads a KV head, got {group}")
    # All query heads of a token share a tile, so a tile is at least so high.
    least = 1 << (group - 1).bit_length()
    return TileShape(group, max(SHORT_ROWS, least), TALL_ROWS)


@dataclass(frozen=True, slots=True)
class Work:
    """One step's items and merges."""

    short_items: IntArray
    """[N, ITEM_FIELDS]."""
    tall_items: IntArray
    """[N, ITEM_FIELDS], those with the most keys first: the last to start should end soon."""
    merges: IntArray
    """[N, MERGE_FIELDS], one for every token whose keys are split."""
    num_partials: int
    """Slots that the partial results take; each holds one token's, of all its heads."""

    def moved(self, num_rows: int, num_tokens: int) -> "Work":
        """The same behind so many more rows and tokens. *Mutates* its arrays."""
        for items in (self.short_items, self.tall_items):
            items[:, 0] += num_rows
            items[:, 1] += num_tokens
        self.merges[:, 0] += num_tokens
        return self


def plan_work(
    query_start: IntArray,
    context_lens: IntArray,
    shape: TileShape,
    split_tokens: int = SPLIT_TOKENS,
) -> Work:
    """Cut a step into items.

    ``query_start``: int32[B+1], from 0; ``context_lens``: int32[B], keys of each row, its new ones
    included. Rows without new tokens have no items.
    *Raises* ``ValueError`` if a row has more new tokens than keys, or if ``split_tokens`` is not a
    positive multiple of ``ALIGNMENT``.
    """
    if split_tokens < 1 or split_tokens % ALIGNMENT != 0:
        raise ValueError(
            f"expected split_tokens to be a multiple of {ALIGNMENT}, got {split_tokens}"
        )
    num_new = np.diff(query_start)
    if len(num_new) != len(context_lens):
        raise ValueError(
            f"expected one more query_start than context_lens, got {len(query_start)} and "
            f"{len(context_lens)}"
        )
    if ((num_new < 0) | (num_new > context_lens)).any():
        raise ValueError("expected every row to have 0 to context_lens new tokens")

    # Tiles.
    is_short = num_new * shape.group <= shape.short
    tile_tokens = np.where(is_short, shape.short // shape.group, shape.tall // shape.group)
    row, nth = _repeat(-(-num_new // tile_tokens))
    skipped = nth * tile_tokens[row]
    num_tokens = np.minimum(tile_tokens[row], num_new[row] - skipped)
    token = query_start[row] + skipped
    position = context_lens[row] - num_new[row] + skipped
    end = position + num_tokens

    # Splits of tiles.
    length = split_lengths(num_new, context_lens, shape.group, split_tokens)[row]
    num_splits = -(-end // length)
    is_split = num_splits > 1
    slots = np.where(is_split, num_tokens * num_splits, 0)
    first_slot = np.cumsum(slots) - slots
    tile, nth = _repeat(num_splits)
    items = np.zeros((len(tile), ITEM_FIELDS), dtype=np.int32)
    items[:, 0] = row[tile]
    items[:, 1] = token[tile]
    items[:, 2] = num_tokens[tile]
    items[:, 3] = position[tile]
    items[:, 4] = first_key = nth * length[tile]
    items[:, 5] = end_key = np.minimum(first_key + length[tile], end[tile])
    items[:, 6] = np.where(is_split[tile], first_slot[tile] + nth * num_tokens[tile], -1)
    in_short = is_short[row[tile]]
    if in_short.all():
        short_items, tall_items = items, items[:0]
    else:
        short_items = items[in_short]
        num_keys = (end_key - first_key)[~in_short]
        tall_items = items[~in_short][np.argsort(-num_keys, kind="stable")]

    # Merges of splits.
    tile, nth = _repeat(np.where(is_split, num_tokens, 0))
    merges = np.empty((len(tile), MERGE_FIELDS), dtype=np.int32)
    merges[:, 0] = token[tile] + nth
    merges[:, 1] = first_slot[tile] + nth
    merges[:, 2] = num_splits[tile]
    merges[:, 3] = num_tokens[tile]
    return Work(short_items, tall_items, merges, int(slots.sum()))


def plan_waves(
    query_start: IntArray, context_lens: IntArray, shape: TileShape, max_partials: int
) -> list[Work]:
    """``plan_work`` in as many parts as it takes for none to need more than ``max_partials`` slots.

    Each part holds the next so many rows; their results are what one part would give. Nearly always
    there is one; a part takes at least ``max_partials - MAX_ROW_PARTIALS`` slots, so there are few.
    *Raises* ``ValueError`` if ``max_partials`` is below ``MAX_ROW_PARTIALS``: a row cannot be cut.
    """
    if max_partials < MAX_ROW_PARTIALS:
        raise ValueError(
            f"expected max_partials of at least {MAX_ROW_PARTIALS}, got {max_partials}"
        )
    work = plan_work(query_start, context_lens, shape)
    if work.num_partials <= max_partials:
        return [work]
    num_new = np.diff(query_start)
    num_splits = -(-context_lens // split_lengths(num_new, context_lens, shape.group, SPLIT_TOKENS))
    # At most: the tiles of a row's first tokens may have a split less.
    slots = np.where(num_splits > 1, num_splits * num_new, 0)
    waves = []
    first, taken = 0, 0
    for row, wanted in enumerate([*slots.tolist(), max_partials + 1]):
        if taken + wanted > max_partials:
            tokens = query_start[first : row + 1]
            part = plan_work(tokens - tokens[0], context_lens[first:row], shape)
            waves.append(part.moved(first, int(tokens[0])))
            first, taken = row, 0
        taken += wanted
    return waves


def split_lengths(
    num_new: IntArray, context_lens: IntArray, group: int, split_tokens: int
) -> IntArray:
    """int32[B]: keys of a split, for rows of so many new tokens and keys."""
    fewest = np.maximum(split_tokens, SPLIT_ROWS_PER_KEY * group * num_new)
    fewest = -(-fewest // ALIGNMENT) * ALIGNMENT
    most_splits = np.minimum(MAX_SPLITS, MAX_ROW_PARTIALS // np.maximum(num_new, 1))
    grown = -(-context_lens // np.maximum(most_splits, 1))
    lengths = np.maximum(fewest, -(-grown // ALIGNMENT) * ALIGNMENT)
    # One split is a whole row; never 0, which would be no length.
    whole = -(-(context_lens + 1) // ALIGNMENT) * ALIGNMENT
    return np.where(num_new <= MAX_SPLIT_QUERY, lengths, whole).astype(np.int32)


def _repeat(counts: IntArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Each index as often as its count says, and which of them it is: [0 0 0 2], [0 1 2 0]."""
    index = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return index, np.arange(len(index)) - first[index]
