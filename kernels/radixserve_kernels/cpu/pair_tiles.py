"""What attention does to keys for many queries, in pairs of bfloat16 multiplied by one instruction.

Where a processor has it (``Machine.has_dots``), a lane of 16 multiplies two pairs of bfloat16 and
adds both products to its float32. Keys are read as they lie; what else is multiplied is laid out in
pairs once: queries by neighbouring numbers of a head, values and weights by neighbouring keys.

    turn_queries          16 queries: [d / 2, lane] pairs
    score_pairs           scores [block, key, lane] = K [key, d] * Q.T [d, lane]: a lane is a query
    exponentiate_pairs    weights [key / 2, lane], rounded to bfloat16, and their sums
    pair_values           values [vector, key / 2, lane]: a lane is a column
    weigh_pairs           totals [query, lane] = W [key, query] * V [key, lane]

Products of bfloat16 are exact in float32, and numbers below its smallest normal one count as 0. A
weight is rounded to nearest even, and the sum is that of the rounded ones: what comes out is a true
average of values, whose weights are off by 2^-8 of themselves at most.

Addresses and strides are bytes. A query's sums are made key by key and pair by pair, whatever other
lanes there are.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from radixserve_kernels.cpu.bfloats import add_products, narrow_two
from radixserve_kernels.cpu.numbers import BFLOAT16, FLOAT32
from radixserve_kernels.cpu.vectors import (
    HALF_WORD,
    LANES,
    LONG,
    VECTOR,
    WORD,
    WORDS,
    are_literals,
    at_index,
    constant,
    fetch,
    in_all_lanes,
    load_wide,
    long,
    pieces_of,
    power_of_two,
    shuffle,
    store_wide,
)

WEIGHED_ROWS = 8
"""Queries whose totals are kept in registers at a time, for two or three vectors of columns."""

MOST_BLOCKS = 3
"""Of 16 queries, whose scores of 8 keys are kept in registers: 24 of 32."""


@intrinsic(prefer_literal=True)
def turn_queries(typing_context: Any, to: Any, query: Any, offsets: Any, head_dim: Any) -> Any:
    """Put 16 queries to bfloat16[head_dim / 2, 16, 2].

    ``offsets``: int64[16], of which element of ``query`` each begins with.
    """
    if not are_literals(head_dim):
        return None
    half = head_dim.literal_value // 2
    signature = types.void(*[types.int64] * 3, head_dim)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        to, query, offsets, _ = arguments

        def turn(first: Any, width: int) -> None:
            """Pairs [first, first + width) of each."""
            rows = []
            for lane in range(LANES):
                offset = builder.load(at_index(builder, offsets, LONG, long(lane)))
                start = builder.add(query, builder.shl(offset, long(1)))
                rows.append(_load(builder, start, first, WORD, width, align=2))
            for index, turned in enumerate(_transposed(builder, rows)[:width]):
                at = builder.mul(builder.add(first, long(index)), long(LANES))
                _store(builder, to, at, WORD, turned)

        with cgutils.for_range(builder, long(half // LANES)) as loop:
            turn(builder.mul(loop.index, long(LANES)), LANES)
        if half % LANES:
            turn(long(half - half % LANES), half % LANES)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def score_pairs(
    typing_context: Any,
    keys: Any,
    offsets: Any,
    queries: Any,
    scores: Any,
    stride: Any,
    blocks: Any,
    head_dim: Any,
) -> Any:
    """Put the products of 16 keys and ``blocks`` times 16 queries to ``scores``.

    ``keys``: the key head's first element; ``offsets``: int64[16]; ``queries``: of one block after
    the other, as ``turn_queries`` leaves them; ``scores``: float32[16, 16], those of blocks
    ``stride`` apart.
    """
    if not are_literals(blocks, head_dim):
        return None
    count, half = blocks.literal_value, head_dim.literal_value // 2
    # As many sums as hide the time that one takes, and as registers hold.
    rows = LANES if count == 1 else LANES // 2
    signature = types.void(*[types.int64] * 5, blocks, head_dim)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        keys, offsets, queries, scores, stride = arguments[:5]
        sums = [[cgutils.alloca_once(builder, VECTOR) for _ in range(count)] for _ in range(rows)]
        with cgutils.for_range(builder, long(LANES // rows)) as part:
            first = builder.mul(part.index, long(rows))
            starts = []
            for row, totals in enumerate(sums):
                at = at_index(builder, offsets, LONG, builder.add(first, long(row)))
                starts.append(builder.add(keys, builder.shl(builder.load(at), long(1))))
                for total in totals:
                    builder.store(constant(0.0), total)
            with cgutils.for_range(builder, long(half)) as loop:
                at = builder.mul(loop.index, long(LANES))
                mine = [
                    _load(builder, builder.add(queries, long(each * half * LANES * 4)), at, WORD)
                    for each in range(count)
                ]
                for start, totals in zip(starts, sums, strict=True):
                    pair = builder.load(at_index(builder, start, WORD, loop.index), align=2)
                    pairs = in_all_lanes(builder, pair)
                    for total, others in zip(totals, mine, strict=True):
                        builder.store(
                            add_products(builder, builder.load(total), pairs, others), total
                        )
            for row, totals in enumerate(sums):
                at = builder.mul(builder.add(first, long(row)), long(LANES))
                for block, total in enumerate(totals):
                    to = builder.add(scores, builder.mul(stride, long(block)))
                    store_wide(builder, to, at, LANES, builder.load(total))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def exponentiate_pairs(
    typing_context: Any, scores: Any, count: Any, factor: Any, bases: Any, sums: Any
) -> Any:
    """Have weights, bfloat16[pairs, 16, 2], take the place of scores [count, 16]: lane by lane
    exp(score * factor - base), the last of an odd number in a pair with 0.

    Behind an odd number of scores there has to be room for one. ``factor`` is positive. Puts each
    lane's base to ``bases``, its greatest score times ``factor`` (0 where all are -inf or NaN), and
    what its rounded weights add up to to ``sums``.
    """
    whole = types.int64
    signature = types.void(whole, whole, types.float32, whole, whole)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        scores, count, factor, bases, sums = arguments
        lowest = constant(float("-inf"))
        # The partner of the last one: without a weight.
        with builder.if_then(builder.trunc(count, ir.IntType(1))):
            store_wide(builder, scores, builder.mul(count, long(LANES)), LANES, lowest)
        pairs = builder.ashr(builder.add(count, long(1)), long(1))

        def pair_of_scores(number: Any) -> list[Any]:
            at = builder.mul(number, long(2 * LANES))
            return [
                load_wide(builder, scores, builder.add(at, long(skipped)), LANES, FLOAT32)
                for skipped in (0, LANES)
            ]

        def greater(left: Any, right: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", left, right), left, right)

        greatest = [cgutils.alloca_once_value(builder, lowest) for _ in range(2)]
        with cgutils.for_range(builder, pairs) as loop:
            for score, before in zip(pair_of_scores(loop.index), greatest, strict=True):
                builder.store(greater(score, builder.load(before)), before)
        base = greater(*(builder.load(each) for each in greatest))
        base = builder.select(builder.fcmp_ordered(">", base, lowest), base, constant(0.0))
        factors = in_all_lanes(builder, factor)
        exponents = builder.fmul(factors, constant(1.4426950408889634))
        totals = [cgutils.alloca_once_value(builder, constant(0.0)) for _ in range(2)]
        with cgutils.for_range(builder, pairs) as loop:
            # Subtracted first, so that the greatest one's is 0 whatever its size.
            weights = [
                power_of_two(builder, builder.fmul(builder.fsub(score, base), exponents))
                for score in pair_of_scores(loop.index)
            ]
            halves = narrow_two(builder, *weights)
            picked = [lane + other for lane in range(LANES) for other in (0, LANES)]
            words = builder.bitcast(shuffle(builder, halves, halves, picked), WORDS)
            _store(builder, scores, builder.mul(loop.index, long(LANES)), WORD, words)
            upper = ir.Constant(WORDS, [0xFFFF0000] * LANES)
            rounded = (
                builder.shl(words, ir.Constant(WORDS, [16] * LANES)),
                builder.and_(words, upper),
            )
            for total, some in zip(totals, rounded, strict=True):
                weight = builder.bitcast(some, VECTOR)
                builder.store(builder.fadd(builder.load(total), weight), total)
        store_wide(builder, bases, long(0), LANES, builder.fmul(base, factors))
        total = builder.fadd(*(builder.load(each) for each in totals))
        store_wide(builder, sums, long(0), LANES, total)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def pair_values(
    typing_context: Any,
    to: Any,
    stride: Any,
    values: Any,
    offsets: Any,
    count: Any,
    head_dim: Any,
) -> Any:
    """Put a head's ``count`` values to bfloat16[pairs, 16, 2] for each 16 columns of them,
    ``stride`` apart, zeros in columns behind the last and beside the last of an odd number.

    ``values``: the head's first element; ``offsets``: int64, an even number of them.
    """
    if not are_literals(head_dim):
        return None
    size = head_dim.literal_value
    signature = types.void(*[types.int64] * 5, head_dim)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        to, stride, values, offsets, count = arguments[:5]

        def lay_out(number: Any, *, is_whole: bool) -> None:
            """One pair of keys."""
            key = builder.shl(number, long(1))
            starts = []
            for each in range(2):
                at = at_index(builder, offsets, LONG, builder.add(key, long(each)))
                starts.append(builder.add(values, builder.shl(builder.load(at), long(1))))
            for vector, (first, width) in enumerate(pieces_of(size)):
                here, there = (
                    _load(builder, start, long(first), HALF_WORD, width, align=2)
                    for start in starts
                )
                if not is_whole:
                    there = ir.Constant(there.type, None)
                picked = [lane + other for lane in range(width) for other in (0, width)]
                pairs = shuffle(builder, here, there, picked)
                if width < LANES:
                    lanes = [min(lane, 2 * width) for lane in range(2 * LANES)]
                    pairs = shuffle(builder, pairs, ir.Constant(pairs.type, None), lanes)
                start = builder.add(to, builder.mul(stride, long(vector)))
                _store(builder, start, builder.mul(number, long(2 * LANES)), HALF_WORD, pairs)

        whole = builder.ashr(count, long(1))
        with cgutils.for_range(builder, whole) as loop:
            lay_out(loop.index, is_whole=True)
        with builder.if_then(builder.trunc(count, ir.IntType(1))):
            lay_out(whole, is_whole=False)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def weigh_pairs(
    typing_context: Any,
    weights: Any,
    values: Any,
    stride: Any,
    pairs: Any,
    totals: Any,
    totals_row: Any,
    vectors: Any,
) -> Any:
    """Put the sums of ``pairs`` pairs of values times the weights of 8 queries to ``totals``.

    ``weights``: the first query's of a block; ``values``: the first column's, as ``pair_values``
    leaves them, each of ``vectors`` times 16 columns ``stride`` apart; ``totals``: float32, of each
    query 16 times ``vectors``, queries ``totals_row`` apart.
    """
    if not are_literals(vectors):
        return None
    count = vectors.literal_value
    signature = types.void(*[types.int64] * 6, vectors)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        weights, values, stride, pairs, totals, totals_row = arguments[:6]
        sums = [
            [cgutils.alloca_once(builder, VECTOR) for _ in range(count)]
            for _ in range(WEIGHED_ROWS)
        ]
        for row in sums:
            for total in row:
                builder.store(constant(0.0), total)
        with cgutils.for_range(builder, pairs) as loop:
            at = builder.mul(loop.index, long(LANES))
            columns = [
                _load(builder, builder.add(values, builder.mul(stride, long(each))), at, WORD)
                for each in range(count)
            ]
            for index, row in enumerate(sums):
                pair = at_index(builder, weights, WORD, builder.add(at, long(index)))
                weight = in_all_lanes(builder, builder.load(pair))
                for total, column in zip(row, columns, strict=True):
                    builder.store(add_products(builder, builder.load(total), weight, column), total)
        for index, row in enumerate(sums):
            to = builder.add(totals, builder.mul(totals_row, long(index)))
            for vector, total in enumerate(row):
                store_wide(builder, to, long(vector * LANES), LANES, builder.load(total))
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def fetch_heads(typing_context: Any, source: Any, offsets: Any, head_dim: Any) -> Any:
    """Fetch a head's numbers of 16 keys. ``source``: the first key's; ``offsets``: int64[16]."""
    if not are_literals(head_dim):
        return None
    size = head_dim.literal_value

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        source, offsets, _ = arguments
        for key in range(LANES):
            offset = builder.load(at_index(builder, offsets, LONG, long(key)))
            fetch(builder, source, offset, size, BFLOAT16)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, head_dim), generate


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Of 16 vectors of up to 16 words, those whose lane i is of the i-th: squares of 1, 2, 4 and
    8 words beside the diagonal change places."""
    width = rows[0].type.count
    if width < LANES:
        lanes = [min(lane, width) for lane in range(LANES)]
        rows = [shuffle(builder, row, ir.Constant(row.type, None), lanes) for row in rows]
    for distance in (1, 2, 4, 8):
        turned = list(rows)
        for index in range(LANES):
            if index & distance:
                continue
            upper, lower = rows[index], rows[index | distance]
            kept = [
                lane if not lane & distance else LANES + (lane ^ distance) for lane in range(LANES)
            ]
            turned[index] = shuffle(builder, upper, lower, kept)
            kept = [
                lane | distance if not lane & distance else LANES + lane for lane in range(LANES)
            ]
            turned[index | distance] = shuffle(builder, upper, lower, kept)
        rows = turned
    return rows


def _load(
    builder: Any, address: Any, index: Any, element: Any, width: int = LANES, *, align: int = 4
) -> Any:
    place = at_index(builder, address, element, index)
    return builder.load(
        builder.bitcast(place, ir.VectorType(element, width).as_pointer()), align=align
    )


def _store(builder: Any, address: Any, index: Any, element: Any, vector: Any) -> None:
    place = at_index(builder, address, element, index)
    builder.store(vector, builder.bitcast(place, vector.type.as_pointer()), align=4)
