"""The compiled kernel of paged attention on processors: see ``cpu.py``, which launches it.

All pointers are addresses. Items of few queries go through ``score`` and ``weigh``, head by head
and token by token; those of many through ``attend_many``, one key head after the other, or in
pairs of bfloat16 through ``attend_pairs``.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numba import prange

from radixserve_kernels.cpu.attending import (
    MAX_ITEM_KEYS,
    TOKEN_FIELDS,
    attend_many,
    find_keys,
    merge,
    score,
    weigh,
)
from radixserve_kernels.cpu.attending_pairs import attend_pairs, pair_bytes
from radixserve_kernels.cpu.compiling import kernel
from radixserve_kernels.cpu.integers import fetch_add, load_int32, store_int32
from radixserve_kernels.cpu.key_tiles import clear, copy_scaled, exponentiate, largest
from radixserve_kernels.cpu.numbers import FLOAT32, load, store
from radixserve_kernels.cpu.vectors import LANES

ITEM_FIELDS = 8
"""int32s of an item: its row of the page table, first flat token, number of tokens, first key, end
key (exclusive), which of its tokens' slots it fills (``DIRECT``: none), and two to spare. Without a
key it fills none, and counts as one that does."""

DIRECT = -1
"""The item has all of its tokens' keys."""

MANY_ROWS = 12
"""An item of so many queries a key head widens its keys once for all of them: chosen, not
measured."""

_ACCUMULATORS = 16
"""Vectors that query heads which are computed together may keep: half of what AVX-512 has."""


def scratch_bytes(num_heads: int, num_kv_heads: int, head_dim: int, max_item_tokens: int) -> int:
    """What a thread wants: offsets, and of each query itself, a total, and a row of scores; of all
    heads, or of one key head's queries in blocks."""
    group = num_heads // num_kv_heads
    padded_dim = -(-head_dim // LANES) * LANES
    few = min(max_item_tokens, -(-MANY_ROWS // group)) * num_heads
    many = -(-max_item_tokens * group // LANES) * LANES
    each = (few * (2 * head_dim + MAX_ITEM_KEYS), many * (2 * padded_dim + MAX_ITEM_KEYS + 2))
    paired = pair_bytes(many // LANES, head_dim)
    return MAX_ITEM_KEYS * 8 + max((max(each) + LANES * padded_dim) * 4, paired)


def heads_together(group: int, head_dim: int) -> int:
    """How many of a key head's query heads are computed together: as many as divide them."""
    most = max(1, _ACCUMULATORS // -(-head_dim // LANES))
    return max(count for count in range(1, min(group, most) + 1) if group % count == 0)


@cache
def make_attend(  # noqa: PLR0915 (the kernel is in it)
    kind: int, together: int, literal_dim: int, *, paired: bool
) -> Callable[..., None]:
    """The kernel for one kind of numbers; all its pointers are addresses. ``paired``: items of many
    queries are multiplied in pairs of bfloat16 (``attending_pairs.are_paired``)."""
    size = 4 if kind == FLOAT32 else 2
    padded_dim = -(-literal_dim // LANES) * LANES

    # What it does to an item of few queries stands here: a call would want 30 arguments.
    def attend(  # noqa: PLR0912, PLR0915
        query: int,
        query_stride: int,
        keys: int,
        values: int,
        out: int,
        pages: int,
        items: int,
        tokens: int,
        planes: int,
        planes_lse: int,
        slots: int,
        slots_lse: int,
        scratch: int,
        counter: int,
        pages_stride: int,
        page_size: int,
        num_items: int,
        num_tokens: int,
        num_kv_heads: int,
        group: int,
        head_dim: int,
        scratch_bytes: int,
        num_workers: int,
        scale: float,
    ) -> None:
        num_heads = num_kv_heads * group
        width = num_kv_heads * head_dim
        factor = np.float32(scale)
        store_int32(counter, 0, 0)
        for worker in prange(num_workers):
            offsets = scratch + worker * scratch_bytes
            while True:
                item = fetch_add(counter, 0, 1) * ITEM_FIELDS
                if item >= num_items * ITEM_FIELDS:
                    break
                row = load_int32(items, item)
                token = load_int32(items, item + 1)
                count = load_int32(items, item + 2)
                first = load_int32(items, item + 3)
                end = load_int32(items, item + 4)
                nth = load_int32(items, item + 5)
                num_keys = end - first
                wide = offsets + MAX_ITEM_KEYS * 8
                totals = wide + count * num_heads * head_dim * 4
                scores = totals + count * num_heads * head_dim * 4
                if num_keys > 0:
                    find_keys(offsets, pages + row * pages_stride * 4, page_size, width, first, end)
                is_many = count * group >= MANY_ROWS and nth >= 0
                if num_keys > 0 and is_many:
                    # Only one of them is compiled.
                    if paired:
                        attend_pairs(
                            query,
                            query_stride,
                            keys,
                            values,
                            offsets,
                            num_keys,
                            token,
                            count,
                            nth,
                            tokens,
                            slots,
                            slots_lse,
                            wide,
                            num_kv_heads,
                            group,
                            literal_dim,
                            padded_dim,
                            factor,
                        )
                    else:
                        attend_many(
                            query,
                            query_stride,
                            keys,
                            values,
                            offsets,
                            num_keys,
                            token,
                            count,
                            nth,
                            tokens,
                            slots,
                            slots_lse,
                            wide,
                            num_kv_heads,
                            group,
                            literal_dim,
                            padded_dim,
                            kind,
                            size,
                            factor,
                        )
                elif num_keys > 0:
                    num_tiles = (num_keys + LANES - 1) // LANES
                    for head in range(count * num_heads):
                        each = head // num_heads
                        at = (token + each) * query_stride + (head - each * num_heads) * head_dim
                        to = head * head_dim
                        copy_scaled(wide, to, FLOAT32, query, at, kind, factor, literal_dim)
                        clear(totals + to * 4, literal_dim)
                    for tile in range(num_tiles):
                        score(
                            wide,
                            keys,
                            values,
                            offsets,
                            tile,
                            num_tiles,
                            scores,
                            count,
                            num_kv_heads,
                            group,
                            literal_dim,
                            kind,
                            size,
                            together,
                        )
                    for head in range(count * num_heads):
                        mine = scores + head * MAX_ITEM_KEYS * 4
                        greatest = largest(mine, num_tiles)
                        # Where all are -inf (or NaN) there is nothing to subtract.
                        base = greatest if greatest > np.float32(-np.inf) else np.float32(0.0)
                        total = exponentiate(mine, num_keys, num_tiles, base)
                        # The queries are done with: their room takes what to multiply by.
                        store(wide, head, FLOAT32, np.float32(1.0) / total)
                        if nth >= 0:
                            each = head // num_heads
                            slot = load_int32(tokens, (token + each) * TOKEN_FIELDS + 1) + nth
                            at = slot * num_heads + head - each * num_heads
                            lse = base + np.float32(math.log(total))
                            store(slots_lse, at, FLOAT32, lse)
                    for tile in range(num_tiles):
                        left = min(LANES, num_keys - tile * LANES)
                        weigh(
                            scores,
                            values,
                            offsets,
                            tile,
                            num_tiles,
                            left,
                            totals,
                            count,
                            num_kv_heads,
                            group,
                            literal_dim,
                            kind,
                            size,
                            together,
                        )
                    for head in range(count * num_heads):
                        inverse = load(wide, head, FLOAT32)
                        at = head * head_dim
                        each = head // num_heads
                        if nth < 0:
                            to = token * num_heads * head_dim + at
                            copy_scaled(out, to, kind, totals, at, FLOAT32, inverse, literal_dim)
                        else:
                            slot = load_int32(tokens, (token + each) * TOKEN_FIELDS + 1) + nth
                            to = (slot * num_heads + head - each * num_heads) * head_dim
                            copy_scaled(
                                slots, to, FLOAT32, totals, at, FLOAT32, inverse, literal_dim
                            )
                if nth >= 0:
                    for each in range(token, token + count):
                        to_come = each * TOKEN_FIELDS + 3
                        if fetch_add(tokens, to_come, -1) == 1:
                            # As it was: the next layer's items count it down again.
                            num_slots = load_int32(tokens, each * TOKEN_FIELDS + 2)
                            store_int32(tokens, to_come, max(num_slots, 1))
                            merge(
                                each,
                                num_tokens,
                                tokens,
                                planes,
                                planes_lse,
                                slots,
                                slots_lse,
                                out,
                                wide,
                                num_heads,
                                literal_dim,
                                kind,
                            )

    return kernel(attend)
