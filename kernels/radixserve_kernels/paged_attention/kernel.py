"""Paged attention in Triton: one kernel for chunks, decode rows and drafted tokens.

A program takes one item (see ``work``) and one KV head at a time, or, where a tile is higher than
its ``BLOCK_M``, one part of the tile:

    q  [BLOCK_M, D]   packed row r is token r // GROUP, query head kv_head * GROUP + r % GROUP
    k  [BLOCK_N, D]   a tile of the row's keys, found through its page table

and goes through the item's keys with a running maximum (online softmax, Milakov and Gimelshein
2018; FlashAttention, Dao 2022), all in float32:

    s = factor * q k^T     m' = max(m, max s)     p = 2^(s - m')     d = 2^(m - m')
    l = l d + sum p        acc = acc d + p v      at the end: out = acc / l

An item that holds only some of its tokens' keys writes that quotient in float32, and its
log-sum-exp ``m + log2 l``, to a partial slot of each token; ``merge`` weighs the partials by them
(flash-decoding). Its tokens may be of several rows, if these share the item's keys and all lie
behind them: the item's "first position" is then its end key, and no key is masked.

Nothing is read but the row's own keys: masked loads yield 0, so a NaN in a stale slot stays there.
Persistent programs step through as many items as ``counts`` in device memory says, so one captured
launch serves any number of them. Head sizes are a power of two, or a sum of two (``D_LOW`` and
``D_HIGH``: 80 is 64 + 16), so that nothing is padded. ``launch`` checks arguments.
"""

# Constants are in capitals, as Triton's custom is; a fused kernel is one long function by nature.
# ruff: noqa: N803, PLR0915

import triton
import triton.language as tl

from radixserve_kernels.paged_attention import items as item_format
from radixserve_kernels.rounding.kernel import narrow
from radixserve_kernels.target import INTERPRETED

_ITEM_FIELDS = tl.constexpr(item_format.ITEM_FIELDS)
_WIDEN = tl.constexpr(INTERPRETED)
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _dot(a, b, acc):
    """``a b + acc``. Without tf32: float32 stays float32. See ``target.INTERPRETED``."""
    if _WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def _load(pointers, exists, MASKED: tl.constexpr):
    """0 where nothing exists."""
    if MASKED:
        return tl.load(pointers, mask=exists, other=0)
    else:  # noqa: RET505
        return tl.load(pointers)


@triton.jit
def _soft_capped(scores, cap):
    """``cap * tanh(scores / cap)``, as exact near 0 as elsewhere, where a quotient would cancel."""
    x = scores / cap
    square = x * x
    series = 1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * 62 / 2835)))
    decayed = tl.exp2(tl.abs(x) * (-2 * _LOG2_E))
    quotient = (1 - decayed) / (1 + decayed)
    tanh = tl.where(square < 0.09, x * series, tl.where(x < 0, -quotient, quotient))
    return cap * tanh


@triton.jit
def _attend_keys(
    state,
    queries,
    positions,
    # one row, one KV head
    keys,
    values,
    pages,
    # the keys
    begin,
    end,
    visible_from,
    # grouped arguments of the kernel
    numbers,
    strides,
    # constexpr
    PAGE_SIZE: tl.constexpr,
    D_LOW: tl.constexpr,
    D_HIGH: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Take the keys ``[begin, end)`` into the state; unmasked, every query sees all of them."""
    acc_low, acc_high, maximum, total = state
    query_low, query_high = queries
    scale, soft_cap, window = numbers
    page_stride, slot_stride = strides
    low = tl.arange(0, D_LOW)[None, :]
    in_tile = tl.arange(0, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        start = tl.multiple_of(start, BLOCK_N)  # noqa: PLW2901
        key_ids = start + in_tile  # [BLOCK_N]
        exists = key_ids < end
        if HAS_WINDOW:
            exists &= key_ids >= visible_from
        if PAGE_SIZE % BLOCK_N == 0:
            # The tile lies in one page: one look-up, and constant distances from there.
            page = tl.load(pages + start // PAGE_SIZE).to(tl.int64)
            base = page * page_stride + start % PAGE_SIZE * slot_stride
            spots = (in_tile * slot_stride)[:, None]  # [BLOCK_N, 1]
        else:
            page = _load(pages + key_ids // PAGE_SIZE, exists, MASKED).to(tl.int64)
            base = 0
            spots = (page * page_stride + key_ids % PAGE_SIZE * slot_stride)[:, None]
        low_spots = spots + low  # [BLOCK_N, D_LOW]
        exists = exists[:, None]
        key_low = _load(keys + base + low_spots, exists, MASKED)
        scores = _dot(query_low, tl.trans(key_low), None)  # [BLOCK_M, BLOCK_N]
        if D_HIGH > 0:
            high_spots = spots + D_LOW + tl.arange(0, D_HIGH)[None, :]
            key_high = _load(keys + base + high_spots, exists, MASKED)
            scores = _dot(query_high, tl.trans(key_high), scores)

        if HAS_SOFT_CAP:
            scores = _soft_capped(scores * scale, soft_cap)
            factor = _LOG2_E
        else:
            factor = scale * _LOG2_E
        if MASKED:
            visible = key_ids[None, :] <= positions[:, None]
            if HAS_WINDOW:
                visible &= key_ids[None, :] > positions[:, None] - window
            scores = tl.where(visible, scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1) * factor)  # [BLOCK_M]
        pivot = new_maximum
        if MASKED:
            # A query that has seen no key yet: 2^(-inf - 0) is 0, 2^(-inf + inf) would be NaN.
            pivot = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        weights = tl.exp2(scores * factor - pivot[:, None])
        decay = tl.exp2(maximum - pivot)
        maximum = new_maximum
        total = total * decay + tl.sum(weights, 1)

        value_low = _load(values + base + low_spots, exists, MASKED)
        weights = narrow(weights, value_low.dtype)
        acc_low = _dot(weights, value_low, acc_low * decay[:, None])
        if D_HIGH > 0:
            value_high = _load(values + base + high_spots, exists, MASKED)
            acc_high = _dot(weights, value_high, acc_high * decay[:, None])
    return acc_low, acc_high, maximum, total


@triton.jit
def _attend_item(
    index,
    # grouped arguments of the kernel
    pointers,
    results,
    numbers,
    strides,
    # constexpr
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    D_LOW: tl.constexpr,
    D_HIGH: tl.constexpr,
    TILE_PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """One part of an item, and one KV head. Parts run fastest, since they read the same keys; then
    heads, since a key's heads are neighbours."""
    query, keys, values, page_table, items = pointers
    out, first_slots, partials, partial_lse = results
    query_strides, kv_strides, table_stride, out_strides = strides
    query_token_stride, query_head_stride = query_strides
    page_stride, slot_stride, kv_head_stride = kv_strides
    out_token_stride, out_head_stride = out_strides
    item = items + index // (NUM_KV_HEADS * TILE_PARTS) * _ITEM_FIELDS
    kv_head = index // TILE_PARTS % NUM_KV_HEADS
    row = tl.load(item).to(tl.int64)
    first_token = tl.load(item + 1).to(tl.int64)
    num_tokens = tl.load(item + 2)
    first_position = tl.load(item + 3)
    first_key = tl.load(item + 4)
    end_key = tl.load(item + 5)
    number = tl.load(item + 6)

    packed = tl.arange(0, BLOCK_M)
    if TILE_PARTS > 1:
        first_row = index % TILE_PARTS * BLOCK_M
        packed += first_row
        # The keys that the part's last token sees; of a part without tokens, none.
        num_seen = tl.minimum((first_row + BLOCK_M - 1) // GROUP + 1, num_tokens)
        end_key = tl.minimum(end_key, first_position + num_seen)
        end_key = tl.where(first_row < num_tokens * GROUP, end_key, first_key)
    tokens = packed // GROUP  # [BLOCK_M]
    heads = kv_head * GROUP + packed % GROUP
    is_row = tokens < num_tokens
    low = tl.arange(0, D_LOW)[None, :]
    from_query = query + first_token * query_token_stride
    from_query += (tokens * query_token_stride + heads * query_head_stride)[:, None]
    query_low = tl.load(from_query + low, mask=is_row[:, None], other=0)  # [BLOCK_M, D_LOW]
    acc_low = tl.zeros([BLOCK_M, D_LOW], tl.float32)
    if D_HIGH > 0:
        high = D_LOW + tl.arange(0, D_HIGH)[None, :]
        query_high = tl.load(from_query + high, mask=is_row[:, None], other=0)
        acc_high = tl.zeros([BLOCK_M, D_HIGH], tl.float32)
    else:
        query_high, acc_high = query_low, acc_low
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)

    # |hidden from all by the window|seen by every query of the tile|seen by some of them|
    #                          begin                           middle             end_key
    positions = first_position + tokens
    if HAS_WINDOW:
        # The window's edge cuts through every tile's first keys: masks all the way.
        visible_from = tl.maximum(first_key, first_position - numbers[2] + 1)
        begin = tl.maximum(first_key, visible_from // BLOCK_N * BLOCK_N)
        middle = begin
    else:
        visible_from, begin = first_key, first_key
        middle = tl.minimum(first_position + 1, end_key) // BLOCK_N * BLOCK_N
        middle = tl.maximum(begin, middle)
    state = (acc_low, acc_high, maximum, total)
    for part in tl.static_range(2):
        if part == 1 or not HAS_WINDOW:
            state = _attend_keys(
                state,
                (query_low, query_high),
                positions,
                keys + kv_head * kv_head_stride,
                values + kv_head * kv_head_stride,
                page_table + row * table_stride,
                begin if part == 0 else middle,
                middle if part == 0 else end_key,
                visible_from,
                numbers,
                (page_stride, slot_stride),
                PAGE_SIZE,
                D_LOW,
                D_HIGH,
                BLOCK_N,
                HAS_SOFT_CAP,
                HAS_WINDOW,
                part == 1,
            )
    acc_low, acc_high, maximum, total = state

    # A query that sees none of this item's keys has the result 0, with the weight 2^-inf.
    divisor = tl.where(total == 0.0, 1.0, total)
    result_low = acc_low / divisor[:, None]
    result_high = acc_high / divisor[:, None]
    if number < 0:
        to_out = out + first_token * out_token_stride
        to_out += (tokens * out_token_stride + heads * out_head_stride)[:, None]
        tl.store(to_out + low, narrow(result_low, out.dtype.element_ty), mask=is_row[:, None])
        if D_HIGH > 0:
            tl.store(to_out + high, narrow(result_high, out.dtype.element_ty), mask=is_row[:, None])
    else:
        slots = tl.load(first_slots + first_token + tokens, mask=is_row, other=0).to(tl.int64)
        slots = (slots + number) * (NUM_KV_HEADS * GROUP) + heads  # [BLOCK_M]
        to_partial = partials + (slots * (D_LOW + D_HIGH))[:, None]
        tl.store(to_partial + low, result_low, mask=is_row[:, None])
        if D_HIGH > 0:
            tl.store(to_partial + high, result_high, mask=is_row[:, None])
        tl.store(partial_lse + slots, maximum + tl.log2(divisor), mask=is_row)


# The table is as wide as the longest context of the step: not a number to compile for.
@triton.jit(do_not_specialize=["table_stride"])
def attention_kernel(
    # pointers
    query,
    keys,
    values,
    page_table,
    items,
    counts,
    out,
    first_slots,
    partials,
    partial_lse,
    # numbers
    scale,
    soft_cap,
    window,
    # strides
    query_token_stride,
    query_head_stride,
    page_stride,
    slot_stride,
    kv_head_stride,
    table_stride,
    out_token_stride,
    out_head_stride,
    # constexpr
    COUNT_INDEX: tl.constexpr,
    PERSISTENT: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    D_LOW: tl.constexpr,
    D_HIGH: tl.constexpr,
    TILE_PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_SOFT_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Every item times every KV head times every part of a tile."""
    pointers = (query, keys, values, page_table, items)
    results = (out, first_slots, partials, partial_lse)
    numbers = (scale, soft_cap, window)
    strides = (
        (query_token_stride, query_head_stride),
        (page_stride, slot_stride, kv_head_stride),
        table_stride,
        (out_token_stride, out_head_stride),
    )
    first = tl.program_id(0)
    num_jobs = tl.load(counts + COUNT_INDEX) * (NUM_KV_HEADS * TILE_PARTS)
    # Two calls, not a loop that runs once: what a loop carries along costs 60 registers a thread.
    if PERSISTENT:
        for index in range(first, num_jobs, tl.num_programs(0)):
            _attend_item(
                index,
                pointers,
                results,
                numbers,
                strides,
                NUM_KV_HEADS,
                GROUP,
                PAGE_SIZE,
                D_LOW,
                D_HIGH,
                TILE_PARTS,
                BLOCK_M,
                BLOCK_N,
                HAS_SOFT_CAP,
                HAS_WINDOW,
            )
    elif first < num_jobs:
        _attend_item(
            first,
            pointers,
            results,
            numbers,
            strides,
            NUM_KV_HEADS,
            GROUP,
            PAGE_SIZE,
            D_LOW,
            D_HIGH,
            TILE_PARTS,
            BLOCK_M,
            BLOCK_N,
            HAS_SOFT_CAP,
            HAS_WINDOW,
        )
