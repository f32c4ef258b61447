"""What a program of the attention kernel is given: tiles of tokens, and the fields of an item.

A *tile* is a run of flat tokens. All query heads of one KV head are packed into it, so a tile of
``m`` tokens has ``m * group`` packed rows; those of few are *short*, all others *tall*. An *item*
is a tile together with a run of keys, and a *merge* names the partial results of one token.

Numbers only: knows neither rows nor levels, nor how keys are split.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int32]

ITEM_FIELDS = 8
"""int32s of an item: its row of the page table, first flat token, number of tokens, position of
that first token in its row, first key, end key (exclusive), which of its tokens' partial results it
leaves (-1: it is alone and writes the result), and one to spare. 32 bytes: one aligned sector of
memory."""

MERGE_FIELDS = 4
"""int32s of a merge: its flat token, first partial slot, number of partials, and one to spare."""


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


def repeat(counts: IntArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Each index as often as its count says, and which of them it is: [0 0 0 2], [0 1 2 0]."""
    index = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    return index, np.arange(len(index)) - first[index]
