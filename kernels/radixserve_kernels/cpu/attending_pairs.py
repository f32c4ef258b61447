"""Paged attention's items of many queries in pairs of bfloat16: ``attending.attend_many`` for
processors that multiply them (``pair_tiles.py``).

All pointers are addresses. A query of a key head is a *row*, token after token; 16 of them are a
block.

    keys      16 at a time      scores of all blocks, in float32, in the nearest caches
    softmax                     a block at a time: weights, in pairs of keys
    values    all of the item   laid out in pairs once, then met by 8 rows at a time, whose totals
                                stay in registers along all of them
"""

import math

import numpy as np
from numba import literally

from radixserve_kernels.cpu.attending import MAX_ITEM_KEYS, TOKEN_FIELDS
from radixserve_kernels.cpu.compiling import inner
from radixserve_kernels.cpu.integers import load_int32, store_int64
from radixserve_kernels.cpu.key_tiles import copy_scaled
from radixserve_kernels.cpu.machine import machine
from radixserve_kernels.cpu.numbers import BFLOAT16, FLOAT32, load, store
from radixserve_kernels.cpu.pair_tiles import (
    MOST_BLOCKS,
    WEIGHED_ROWS,
    exponentiate_pairs,
    fetch_heads,
    pair_values,
    score_pairs,
    turn_queries,
    weigh_pairs,
)
from radixserve_kernels.cpu.vectors import LANES

_TILES_AHEAD = 4
"""How far ahead keys are fetched."""

_SCORES = MAX_ITEM_KEYS * LANES * 4
"""Bytes of a block's scores, or of 16 columns of values: half of the keys, in words."""
_COLUMNS = MAX_ITEM_KEYS // 2 * LANES * 4


def are_paired(kind: int, head_dim: int) -> bool:
    """Whether numbers of this kind are multiplied in pairs here."""
    return kind == BFLOAT16 and head_dim % 2 == 0 and machine().has_dots


def pair_bytes(num_blocks: int, head_dim: int) -> int:
    """What ``attend_pairs`` wants of ``room``."""
    padded_dim = -(-head_dim // LANES) * LANES
    of_block = LANES * (head_dim * 2 + padded_dim * 4 + 8) + _SCORES
    return num_blocks * of_block + padded_dim // LANES * _COLUMNS


@inner
def locate_rows(
    starts: int, token: int, count: int, stride: int, head: int, group: int, dim: int
) -> None:
    """Put where queries begin to ``starts``, int64: ``group`` heads from ``head`` on of each token,
    the last one again in the lanes of a block that have none."""
    row = 0
    start = np.int64(0)
    for each in range(token, token + count):
        for one in range(head, head + group):
            start = np.int64(each * stride + one * dim)
            store_int64(starts, row, start)
            row += 1
    while row % LANES:
        store_int64(starts, row, start)
        row += 1


@inner
def score_blocks(
    keys: int, offsets: int, turned: int, scores: int, num_blocks: int, head_dim: int
) -> None:
    """16 keys' scores of all blocks, as many at a time as registers hold."""
    literally(head_dim)
    for block in range(0, num_blocks, MOST_BLOCKS):
        mine = turned + block * LANES * head_dim * 2
        to = scores + block * _SCORES
        left = num_blocks - block
        if left >= 3:
            score_pairs(keys, offsets, mine, to, _SCORES, 3, head_dim)
        elif left == 2:
            score_pairs(keys, offsets, mine, to, _SCORES, 2, head_dim)
        else:
            score_pairs(keys, offsets, mine, to, _SCORES, 1, head_dim)


@inner
def weigh_blocks(
    weights: int, columns: int, num_pairs: int, totals: int, num_rows: int, padded_dim: int
) -> None:
    """All rows' totals, two vectors of columns at a time, one or three if their number is odd."""
    num_vectors = padded_dim // LANES
    vector = 0
    while vector < num_vectors:
        some = columns + vector * _COLUMNS
        width = 2 if (num_vectors - vector) % 2 == 0 else min(3, num_vectors)
        for row in range(0, num_rows, WEIGHED_ROWS):
            block = row // LANES
            mine = weights + block * _SCORES + (row - block * LANES) * 4
            to = totals + (row * padded_dim + vector * LANES) * 4
            if width == 1:
                weigh_pairs(mine, some, _COLUMNS, num_pairs, to, padded_dim * 4, 1)
            elif width == 2:
                weigh_pairs(mine, some, _COLUMNS, num_pairs, to, padded_dim * 4, 2)
            else:
                weigh_pairs(mine, some, _COLUMNS, num_pairs, to, padded_dim * 4, 3)
        vector += width


@inner
def attend_pairs(
    query: int,
    query_stride: int,
    keys: int,
    values: int,
    offsets: int,
    num_keys: int,
    token: int,
    count: int,
    nth: int,
    tokens: int,
    slots: int,
    slots_lse: int,
    room: int,
    num_kv_heads: int,
    group: int,
    head_dim: int,
    padded_dim: int,
    factor: float,
) -> None:
    """An item of so many tokens that a lane of a vector may be a query; into slots."""
    literally(head_dim)
    literally(padded_dim)
    num_heads = num_kv_heads * group
    num_rows = count * group
    num_blocks = (num_rows + LANES - 1) // LANES
    num_tiles = (num_keys + LANES - 1) // LANES
    turned = room
    bases = turned + num_blocks * LANES * head_dim * 2
    sums = bases + num_blocks * LANES * 4
    totals = sums + num_blocks * LANES * 4
    columns = totals + num_blocks * LANES * padded_dim * 4
    scores = columns + padded_dim // LANES * _COLUMNS
    for kv_head in range(num_kv_heads):
        skipped = kv_head * head_dim * 2
        # Scores come later into the same place.
        locate_rows(scores, token, count, query_stride, kv_head * group, group, head_dim)
        for block in range(num_blocks):
            to = turned + block * LANES * head_dim * 2
            turn_queries(to, query, scores + block * LANES * 8, head_dim)
        for tile in range(num_tiles):
            here = offsets + tile * (LANES * 8)
            # Values a phase ahead; keys before them, in the end the next head's first ones.
            fetch_heads(values + skipped, here, head_dim)
            there = tile + _TILES_AHEAD
            if there < num_tiles:
                fetch_heads(keys + skipped, offsets + there * (LANES * 8), head_dim)
            elif kv_head + 1 < num_kv_heads:
                there = min(there - num_tiles, num_tiles - 1)
                next_keys = keys + skipped + head_dim * 2
                fetch_heads(next_keys, offsets + there * (LANES * 8), head_dim)
            to = scores + tile * (LANES * LANES * 4)
            score_blocks(keys + skipped, here, turned, to, num_blocks, head_dim)
        for block in range(num_blocks):
            lanes = block * LANES * 4
            mine = scores + block * _SCORES
            exponentiate_pairs(mine, num_keys, factor, bases + lanes, sums + lanes)
        pair_values(columns, _COLUMNS, values + skipped, offsets, num_keys, head_dim)
        weigh_blocks(scores, columns, (num_keys + 1) // 2, totals, num_rows, padded_dim)
        row = 0
        for each in range(token, token + count):
            slot = load_int32(tokens, each * TOKEN_FIELDS + 1) + nth
            for head in range(kv_head * group, (kv_head + 1) * group):
                to = slot * num_heads + head
                total = load(sums, row, FLOAT32)
                lse = load(bases, row, FLOAT32) + np.float32(math.log(total))
                store(slots_lse, to, FLOAT32, lse)
                inverse = np.float32(1.0) / total
                at = row * padded_dim
                copy_scaled(slots, to * head_dim, FLOAT32, totals, at, FLOAT32, inverse, head_dim)
                row += 1
