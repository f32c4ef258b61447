"""The parts of paged attention's kernel for processors: keys, scores, values, and the merge.

Here, because kernels that are kept on disk are compiled anew when anything in this folder changes.
What items, slots and planes are: ``paged_attention/cpu.py``. All pointers are addresses.
"""

import math

import numpy as np
from numba import literally

from radixserve_kernels.cpu.compiling import inner
from radixserve_kernels.cpu.integers import load_int32, store_int64
from radixserve_kernels.cpu.key_tiles import add_scaled, clear, copy_scaled, score_tile, weigh_tile
from radixserve_kernels.cpu.numbers import FLOAT32, load, store
from radixserve_kernels.cpu.row_tiles import exponentiate_lanes, multiply_block, widen_tile
from radixserve_kernels.cpu.vectors import LANES

MAX_ITEM_KEYS = 256
"""An item's scores and its share of pages stay in the caches of one core."""

TOKEN_FIELDS = 4
"""int32s of a flat token: its planes, first slot, number of slots, and how many items are to come.
The last is counted down to 0 by the kernel and set anew."""

TILES_AHEAD = 2
"""How far ahead keys and values are fetched: at 1 they come too late, 3 is no faster."""


@inner
def find_keys(offsets: int, pages: int, page_size: int, width: int, first: int, end: int) -> None:
    """Where keys [first, end) of a row lie: element offsets, the last repeated to whole tiles."""
    count = 0
    key = first
    last = np.int64(0)
    while key < end:
        number = key // page_size
        page = load_int32(pages, number) * page_size
        skipped = key - number * page_size
        stop = min(page_size, skipped + end - key)
        for slot in range(page + skipped, page + stop):
            store_int64(offsets, count, slot * width)
            count += 1
        last = (page + stop - 1) * width
        key += stop - skipped
    while count % LANES:
        store_int64(offsets, count, last)
        count += 1


@inner
def score(
    query: int,
    keys: int,
    values: int,
    offsets: int,
    tile: int,
    num_tiles: int,
    scores: int,
    num_tokens: int,
    num_kv_heads: int,
    group: int,
    head_dim: int,
    kind: int,
    size: int,
    together: int,
) -> None:
    """One tile's scores of all heads of all tokens; fetches a later tile, in the end of values."""
    literally(head_dim)
    literally(kind)
    literally(together)
    num_heads = num_kv_heads * group
    here = offsets + tile * (LANES * 8)
    there = tile + TILES_AHEAD
    ahead = keys
    if there >= num_tiles:
        ahead = values
        there = min(there - num_tiles, num_tiles - 1)
    there = offsets + there * (LANES * 8)
    for kv_head in range(num_kv_heads):
        skipped = kv_head * head_dim * size
        for token in range(num_tokens):
            for block in range(group // together):
                head = token * num_heads + kv_head * group + block * together
                score_tile(
                    query + head * head_dim * 4,
                    keys + skipped,
                    here,
                    ahead + skipped,
                    there,
                    scores + (head * MAX_ITEM_KEYS + tile * LANES) * 4,
                    MAX_ITEM_KEYS,
                    together,
                    head_dim,
                    kind,
                )


@inner
def weigh(
    weights: int,
    values: int,
    offsets: int,
    tile: int,
    num_tiles: int,
    count: int,
    totals: int,
    num_tokens: int,
    num_kv_heads: int,
    group: int,
    head_dim: int,
    kind: int,
    size: int,
    together: int,
) -> None:
    """Add one tile's values, of which ``count`` are the item's, to all totals."""
    literally(head_dim)
    literally(kind)
    literally(together)
    num_heads = num_kv_heads * group
    here = offsets + tile * (LANES * 8)
    there = offsets + min(tile + TILES_AHEAD, num_tiles - 1) * (LANES * 8)
    for kv_head in range(num_kv_heads):
        skipped = kv_head * head_dim * size
        for token in range(num_tokens):
            for block in range(group // together):
                head = token * num_heads + kv_head * group + block * together
                weigh_tile(
                    weights + (head * MAX_ITEM_KEYS + tile * LANES) * 4,
                    MAX_ITEM_KEYS,
                    values + skipped,
                    here,
                    count,
                    values + skipped,
                    there,
                    totals + head * head_dim * 4,
                    together,
                    head_dim,
                    kind,
                )


@inner
def attend_many(  # noqa: PLR0912
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
    kind: int,
    size: int,
    factor: float,
) -> None:
    """An item of so many tokens that a lane of a vector may be a query; into slots.

    A query of a key head is a *row*, token after token; 16 of them are a block.
    """
    literally(head_dim)
    literally(padded_dim)
    literally(kind)
    num_heads = num_kv_heads * group
    num_rows = count * group
    num_blocks = (num_rows + LANES - 1) // LANES
    num_tiles = (num_keys + LANES - 1) // LANES
    tile_keys = room
    turned = tile_keys + LANES * padded_dim * 4
    totals = turned + num_blocks * LANES * padded_dim * 4
    bases = totals + num_blocks * LANES * padded_dim * 4
    sums = bases + num_blocks * LANES * 4
    scores = sums + num_blocks * LANES * 4
    for kv_head in range(num_kv_heads):
        skipped = kv_head * head_dim * size
        # Queries [block, d, lane]; lanes without a query are 0.
        for number in range(num_blocks * head_dim):
            clear(turned + number * LANES * 4, LANES)
        for row in range(num_rows):
            each = row // group
            start = (token + each) * query_stride + (
                kv_head * group + row - each * group
            ) * head_dim
            block = row // LANES
            to = block * head_dim * LANES + row - block * LANES
            for column in range(head_dim):
                number = load(query, start + column, kind)
                store(turned, to + column * LANES, FLOAT32, number * factor)
        for tile in range(num_tiles):
            there = tile + TILES_AHEAD
            ahead = keys + skipped
            if there >= num_tiles:
                ahead = values + skipped
                there = min(there - num_tiles, num_tiles - 1)
            widen_tile(
                tile_keys,
                keys + skipped,
                offsets + tile * (LANES * 8),
                ahead,
                offsets + there * (LANES * 8),
                head_dim,
                kind,
            )
            for block in range(num_blocks):
                multiply_block(
                    tile_keys,
                    padded_dim,
                    1,
                    turned + block * head_dim * LANES * 4,
                    LANES,
                    head_dim,
                    scores + (block * MAX_ITEM_KEYS + tile * LANES) * LANES * 4,
                    LANES,
                    0,
                )
        for block in range(num_blocks):
            exponentiate_lanes(
                scores + block * MAX_ITEM_KEYS * LANES * 4,
                num_keys,
                bases + block * LANES * 4,
                sums + block * LANES * 4,
            )
        for row in range(num_blocks * LANES):
            clear(totals + row * padded_dim * 4, padded_dim)
        for tile in range(num_tiles):
            there = min(tile + TILES_AHEAD, num_tiles - 1)
            widen_tile(
                tile_keys,
                values + skipped,
                offsets + tile * (LANES * 8),
                values + skipped,
                offsets + there * (LANES * 8),
                head_dim,
                kind,
            )
            left = min(LANES, num_keys - tile * LANES)
            for block in range(num_blocks):
                weights = scores + (block * MAX_ITEM_KEYS + tile * LANES) * LANES * 4
                for first in range(0, padded_dim, LANES):
                    multiply_block(
                        weights,
                        1,
                        LANES,
                        tile_keys + first * 4,
                        padded_dim,
                        left,
                        totals + (block * LANES * padded_dim + first) * 4,
                        padded_dim,
                        1,
                    )
        for row in range(num_rows):
            each = row // group
            slot = load_int32(tokens, (token + each) * TOKEN_FIELDS + 1) + nth
            to = slot * num_heads + kv_head * group + row - each * group
            total = load(sums, row, FLOAT32)
            lse = load(bases, row, FLOAT32) + np.float32(math.log(total))
            store(slots_lse, to, FLOAT32, lse)
            copy_scaled(
                slots,
                to * head_dim,
                FLOAT32,
                totals,
                row * padded_dim,
                FLOAT32,
                np.float32(1.0) / total,
                head_dim,
            )


@inner
def merge(
    token: int,
    num_tokens: int,
    tokens: int,
    planes: int,
    planes_lse: int,
    slots: int,
    slots_lse: int,
    out: int,
    sums: int,
    num_heads: int,
    head_dim: int,
    kind: int,
) -> None:
    """Write a token's result from its partial ones. ``sums``: room for a head."""
    literally(kind)
    literally(head_dim)
    num_planes = load_int32(tokens, token * TOKEN_FIELDS)
    first_slot = load_int32(tokens, token * TOKEN_FIELDS + 1)
    num_slots = load_int32(tokens, token * TOKEN_FIELDS + 2)
    for head in range(num_heads):
        greatest = np.float32(-np.inf)
        for number in range(num_planes + num_slots):
            if number < num_planes:
                lse = load(planes_lse, (number * num_tokens + token) * num_heads + head, FLOAT32)
            else:
                slot = first_slot + number - num_planes
                lse = load(slots_lse, slot * num_heads + head, FLOAT32)
            # A NaN is not greater, and comes into the sum below.
            greatest = max(greatest, lse)
        total = np.float32(0.0)
        clear(sums, head_dim)
        for number in range(num_planes + num_slots):
            if number < num_planes:
                at = (number * num_tokens + token) * num_heads + head
                lse = load(planes_lse, at, FLOAT32)
                partial = planes
            else:
                at = (first_slot + number - num_planes) * num_heads + head
                lse = load(slots_lse, at, FLOAT32)
                partial = slots
            # Nothing of it has any weight, and what it holds is 0 / 0.
            if lse == np.float32(-np.inf) and greatest > lse:
                continue
            weight = np.float32(math.exp(lse - greatest))
            total += weight
            add_scaled(sums, partial, at * head_dim, weight, head_dim)
        at = (token * num_heads + head) * head_dim
        copy_scaled(out, at, kind, sums, 0, FLOAT32, np.float32(1.0) / total, head_dim)
