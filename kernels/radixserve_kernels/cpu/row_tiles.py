"""What attention does to a tile of 16 keys for 16 queries or more, in vectors of 16 float32.

With so many queries keys are widened to float32 once for all of them, and products are small matrix
products whose blocks of 16 rows and 16 lanes stay in registers; no sum goes across lanes:

    scores [key, lane]     += K [key, d]     * Q.T [d, lane]        a lane is a query
    weights                   a lane's maximum, exponentials and sum are its own
    totals [query, lane]   += W [key, query] * V   [key, lane]      a lane is a column

Addresses are bytes, sizes literals, numbers float32 but for what is widened. A query's results
depend on no other lane.
"""

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from radixserve_kernels.cpu.numbers import FLOAT32
from radixserve_kernels.cpu.vectors import (
    FLOAT,
    LANES,
    LONG,
    VECTOR,
    are_literals,
    at_index,
    constant,
    exponential,
    fetch,
    in_all_lanes,
    load_wide,
    long,
    multiply_add,
    pieces_of,
    store_wide,
)


@intrinsic(prefer_literal=True)
def widen_tile(
    typing_context: Any,
    to: Any,
    source: Any,
    offsets: Any,
    ahead: Any,
    ahead_offsets: Any,
    head_dim: Any,
    kind: Any,
) -> Any:
    """Put a head's numbers of 16 keys to float32[16, head_dim rounded up to 16], zeros behind.

    ``source``: the head's first element of ``kind``; ``offsets``: int64[16]; ``ahead`` and
    ``ahead_offsets`` likewise name 16 places to fetch.
    """
    if not are_literals(head_dim, kind):
        return None
    size, which = head_dim.literal_value, kind.literal_value
    width = -(-size // LANES) * LANES
    signature = types.void(*[types.int64] * 5, head_dim, kind)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        to, source, offsets, ahead, ahead_offsets = arguments[:5]
        with cgutils.for_range(builder, long(LANES)) as loop:
            offset = builder.load(at_index(builder, offsets, LONG, loop.index))
            fetched = builder.load(at_index(builder, ahead_offsets, LONG, loop.index))
            fetch(builder, ahead, fetched, size, which)
            row = builder.mul(loop.index, long(width))
            for first, count in pieces_of(size):
                piece = load_wide(builder, source, builder.add(offset, long(first)), count, which)
                store_wide(builder, to, builder.add(row, long(first)), LANES, piece)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def multiply_block(
    typing_context: Any,
    left: Any,
    left_row: Any,
    left_step: Any,
    right: Any,
    right_step: Any,
    count: Any,
    out: Any,
    out_row: Any,
    adds: Any,
) -> Any:
    """out[i, lane] = (what is there, if ``adds`` is 1) + sum over ``count`` steps j of
    left[i, j] * right[j, lane], for 16 rows i and 16 lanes.

    ``left``: rows ``left_row`` apart, steps ``left_step``; ``right``: steps ``right_step`` apart;
    ``out``: rows ``out_row`` apart.
    """
    if not are_literals(adds):
        return None
    keeps = bool(adds.literal_value)
    signature = types.void(*[types.int64] * 8, adds)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        left, left_row, left_step, right, right_step, count, out, out_row = arguments[:8]
        totals = [cgutils.alloca_once(builder, VECTOR) for _ in range(LANES)]
        for row, total in enumerate(totals):
            at = builder.mul(out_row, long(row))
            before = load_wide(builder, out, at, LANES, FLOAT32) if keeps else constant(0.0)
            builder.store(before, total)
        with cgutils.for_range(builder, count) as loop:
            lanes = load_wide(builder, right, builder.mul(loop.index, right_step), LANES, FLOAT32)
            step = builder.mul(loop.index, left_step)
            for row, total in enumerate(totals):
                at = builder.add(step, builder.mul(left_row, long(row)))
                one = in_all_lanes(builder, builder.load(at_index(builder, left, FLOAT, at)))
                builder.store(multiply_add(builder, one, lanes, builder.load(total)), total)
        for row, total in enumerate(totals):
            at = builder.mul(out_row, long(row))
            store_wide(builder, out, at, LANES, builder.load(total))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def exponentiate_lanes(typing_context: Any, scores: Any, count: Any, bases: Any, sums: Any) -> Any:
    """Have weights take the place of scores [count, 16]: exp(score - base), lane by lane.

    Puts each lane's base to ``bases``, its greatest score (0 where all are -inf or NaN), and what
    its weights add up to to ``sums``.
    """
    signature = types.void(*[types.int64] * 4)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        scores, count, bases, sums = arguments
        lowest = constant(float("-inf"))
        greatest = cgutils.alloca_once_value(builder, lowest)
        with cgutils.for_range(builder, count) as loop:
            at = builder.mul(loop.index, long(LANES))
            score, before = load_wide(builder, scores, at, LANES, FLOAT32), builder.load(greatest)
            is_greater = builder.fcmp_ordered(">", score, before)
            builder.store(builder.select(is_greater, score, before), greatest)
        base = builder.load(greatest)
        base = builder.select(builder.fcmp_ordered(">", base, lowest), base, constant(0.0))
        total = cgutils.alloca_once_value(builder, constant(0.0))
        with cgutils.for_range(builder, count) as loop:
            at = builder.mul(loop.index, long(LANES))
            score = load_wide(builder, scores, at, LANES, FLOAT32)
            weight = exponential(builder, builder.fsub(score, base))
            store_wide(builder, scores, at, LANES, weight)
            builder.store(builder.fadd(builder.load(total), weight), total)
        store_wide(builder, bases, long(0), LANES, base)
        store_wide(builder, sums, long(0), LANES, builder.load(total))
        return context.get_dummy_value()

    return signature, generate
