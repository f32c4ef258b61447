"""Where a row's keys are cut, so that one row of many keys occupies a whole GPU.

Splits begin at multiples of their length from key 0, in rows and in levels alike; and a level's
first and end key are rounded down to a multiple of the shortest length there is (``least_length``).
So where all splits are of that length, a key meets the same other keys in one partial result,
whether it is read in a level or by its row alone. That holds for decode rows of up to
``MAX_SPLITS * least_length`` keys (16,384). Beyond it splits grow with the row's keys, or with the
level's end; there a level's borders and its own splits may cut a row's split in two.

A length depends on the row's own numbers of new tokens and keys, a level's on its own end key: on
no other row, and not on how many read along.
"""

import numpy as np

from radixserve_kernels.paged_attention.items import IntArray

SPLIT_TOKENS = 256
"""Keys of a split of a decode row. With 8 KV heads of 128 in 16 bits that is 128 KiB a program. A
single row of 1,024 keys then occupies 32 programs and not 16; and partials, written and read once
in float32, add 3% to the bytes moved at 4 query heads a KV head. At 128 keys they would add 6%; at
512 a small batch would leave twice as many processors idle. Unmeasured."""

SPLIT_ROWS_PER_KEY = 8
"""A row's split is at least this many keys long for every packed row: partials grow with the packed
rows, keys do not, and this keeps the partials' bytes below a quarter of the keys'."""

MAX_SPLIT_QUERY = 64
"""Rows of more new tokens than this are never split: their tiles fill a GPU by themselves."""

MAX_SPLITS = 64
"""Splits of one tile, or of a level from key 0 on. Beyond it splits grow longer: with 8 KV heads
512 programs are enough, and what partials take is bounded by the number of rows."""

MAX_ROW_PARTIALS = 512
"""Partial slots of the tokens of one row that reads no level, together, for the same reason."""

ALIGNMENT = SPLIT_TOKENS
"""Splits begin at multiples of this many keys, hence key tiles never straddle two splits."""


def least_length(group: int, split_tokens: int) -> int:
    """Keys of a split of a row of one new token, unless it has very many keys."""
    return _aligned(max(split_tokens, SPLIT_ROWS_PER_KEY * group))


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


def level_length(end_key: int, least: int) -> int:
    """Keys of a split of a level that ends at ``end_key``; ``least``: ``least_length``.

    Never longer than that of a row which reads it: such a row has more keys.
    """
    return max(least, _aligned(-(-end_key // MAX_SPLITS)))


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
