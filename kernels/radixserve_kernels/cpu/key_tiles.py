"""What attention does to a tile of 16 keys, in vectors of 16 float32, for several heads at a time.

Written in LLVM's vectors: a loop over a head's numbers that adds them up would be vectorised with a
sum across lanes for every score, which takes longer than the products. Here 16 scores' sums are
made together, by 15 additions. Any processor runs them; one with 512-bit registers holds a vector
in each.

    score_tile      q . k     16 keys' vectors of partial sums are halved and paired until each
                              lane is one key's score
    largest                   of a row of scores
    exponentiate    exp       of a row of scores less their maximum: weights
    weigh_tile      w . v     heads' totals stay in registers along the tile
    clear, add_scaled, copy_scaled      of one head's numbers

Keys and values lie where *offsets* say, int64 element numbers, so it matters to nobody whether
pages are long, short or apart. While a tile is read a later one is fetched into the cache
(*ahead*): half of the memory's rate is lost where that is left to the processor.

Addresses are bytes, sizes are literals. The order of all additions is fixed by the sizes, so a
result is the same wherever it is computed. NaN in, NaN out: nothing here is told to ignore it.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from radixserve_kernels.cpu.numbers import FLOAT32
from radixserve_kernels.cpu.vectors import (
    FLOAT,
    LANES,
    LONG,
    VECTOR,
    WORD,
    WORDS,
    across,
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
    shuffle,
    store_wide,
)


@intrinsic(prefer_literal=True)
def score_tile(
    typing_context: Any,
    query: Any,
    keys: Any,
    offsets: Any,
    ahead: Any,
    ahead_offsets: Any,
    scores: Any,
    stride: Any,
    heads: Any,
    head_dim: Any,
    kind: Any,
) -> Any:
    """Put the products of ``heads`` queries and 16 keys to ``scores``.

    ``query``: float32[heads, head_dim]; ``keys``: the key head's first element, of ``kind``;
    ``offsets``: int64[16]; ``ahead`` and ``ahead_offsets`` likewise name 16 places to fetch;
    ``scores``: float32, each query's 16 in a row, rows ``stride`` apart.
    """
    if not are_literals(heads, head_dim, kind):
        return None
    num_heads, size, which = heads.literal_value, head_dim.literal_value, kind.literal_value
    signature = types.void(*[types.int64] * 7, heads, head_dim, kind)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        query, keys, offsets, ahead, ahead_offsets, scores, stride = arguments[:7]

        def partial_sums(key: int) -> list[Any]:
            """Of each head."""
            offset = builder.load(at_index(builder, offsets, LONG, long(key)))
            fetched = builder.load(at_index(builder, ahead_offsets, LONG, long(key)))
            fetch(builder, ahead, fetched, size, which)
            sums: list[Any] = [None] * num_heads
            for first, width in pieces_of(size):
                piece = load_wide(builder, keys, builder.add(offset, long(first)), width, which)
                for head, before in enumerate(sums):
                    at = long(head * size + first)
                    mine = load_wide(builder, query, at, width, FLOAT32)
                    if before is None:
                        sums[head] = builder.fmul(mine, piece)
                    else:
                        sums[head] = multiply_add(builder, mine, piece, before)
            return sums

        by_key = [partial_sums(key) for key in range(LANES)]
        for head in range(num_heads):
            total = _sum_each(builder, [sums[head] for sums in by_key])
            store_wide(builder, scores, builder.mul(stride, long(head)), LANES, total)
        return context.get_dummy_value()

    return signature, generate


@intrinsic(prefer_literal=True)
def weigh_tile(
    typing_context: Any,
    weights: Any,
    stride: Any,
    values: Any,
    offsets: Any,
    count: Any,
    ahead: Any,
    ahead_offsets: Any,
    totals: Any,
    heads: Any,
    head_dim: Any,
    kind: Any,
) -> Any:
    """Add ``count`` values times their weights to the totals of ``heads`` queries.

    ``weights``: float32, each query's in a row, rows ``stride`` apart; ``values``: the value head's
    first element, of ``kind``; ``offsets``: int64[count]; ``totals``: float32[heads, head_dim]. For
    each of the values one at ``ahead`` is fetched.
    """
    if not are_literals(heads, head_dim, kind):
        return None
    num_heads, size, which = heads.literal_value, head_dim.literal_value, kind.literal_value
    signature = types.void(*[types.int64] * 8, heads, head_dim, kind)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        weights, stride, values, offsets, count, ahead, ahead_offsets, totals = arguments[:8]
        places = [
            (head, first, width, cgutils.alloca_once(builder, VECTOR))
            for first, width in pieces_of(size)
            for head in range(num_heads)
        ]
        for head, first, width, place in places:
            before = load_wide(builder, totals, long(head * size + first), width, FLOAT32)
            builder.store(before, place)
        with cgutils.for_range(builder, count) as loop:
            offset = builder.load(at_index(builder, offsets, LONG, loop.index))
            fetched = builder.load(at_index(builder, ahead_offsets, LONG, loop.index))
            fetch(builder, ahead, fetched, size, which)
            mine = []
            for head in range(num_heads):
                at = builder.add(builder.mul(stride, long(head)), loop.index)
                mine.append(
                    in_all_lanes(builder, builder.load(at_index(builder, weights, FLOAT, at)))
                )
            pieces = {
                first: load_wide(builder, values, builder.add(offset, long(first)), width, which)
                for first, width in pieces_of(size)
            }
            for head, first, _, place in places:
                total = multiply_add(builder, mine[head], pieces[first], builder.load(place))
                builder.store(total, place)
        for head, first, width, place in places:
            store_wide(builder, totals, long(head * size + first), width, builder.load(place))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def largest(typing_context: Any, scores: Any, num_tiles: Any) -> Any:
    """float32: the greatest of 16 * ``num_tiles`` scores, NaN ones left out; or else -inf."""
    signature = types.float32(types.int64, types.int64)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        scores, num_tiles = arguments
        greatest = cgutils.alloca_once_value(builder, constant(float("-inf")))

        def greater(left: Any, right: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", left, right), left, right)

        with cgutils.for_range(builder, num_tiles) as loop:
            tile = load_wide(builder, scores, builder.mul(loop.index, long(LANES)), LANES, FLOAT32)
            builder.store(greater(tile, builder.load(greatest)), greatest)
        return across(builder, builder.load(greatest), greater)

    return signature, generate


@intrinsic
def exponentiate(
    typing_context: Any, scores: Any, count: Any, num_tiles: Any, greatest: Any
) -> Any:
    """float32: the sum of ``count`` weights, which take the place of their scores.

    A weight is exp(score - greatest); up to 16 * ``num_tiles`` there are zeros behind them.
    """
    signature = types.float32(types.int64, types.int64, types.int64, types.float32)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        scores, count, num_tiles, greatest = arguments
        base = in_all_lanes(builder, greatest)
        lanes = ir.Constant(WORDS, list(range(LANES)))
        sums = cgutils.alloca_once_value(builder, constant(0.0))
        with cgutils.for_range(builder, num_tiles) as loop:
            index = builder.mul(loop.index, long(LANES))
            tile = load_wide(builder, scores, index, LANES, FLOAT32)
            weights = exponential(builder, builder.fsub(tile, base))
            left = in_all_lanes(builder, builder.trunc(builder.sub(count, index), WORD))
            is_inside = builder.icmp_signed("<", lanes, left)
            weights = builder.select(is_inside, weights, constant(0.0))
            store_wide(builder, scores, index, LANES, weights)
            builder.store(builder.fadd(builder.load(sums), weights), sums)
        return across(builder, builder.load(sums), builder.fadd)

    return signature, generate


@intrinsic(prefer_literal=True)
def clear(typing_context: Any, to: Any, head_dim: Any) -> Any:
    """Put zeros to float32[head_dim]."""
    if not are_literals(head_dim):
        return None
    size = head_dim.literal_value

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        for first, width in pieces_of(size):
            store_wide(builder, arguments[0], long(first), width, constant(0.0))
        return context.get_dummy_value()

    return types.void(types.int64, head_dim), generate


@intrinsic(prefer_literal=True)
def add_scaled(
    typing_context: Any, to: Any, source: Any, source_at: Any, factor: Any, head_dim: Any
) -> Any:
    """Add float32[head_dim] from element ``source_at`` on, times ``factor``, to those at ``to``."""
    if not are_literals(head_dim):
        return None
    size = head_dim.literal_value

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        to, source, source_at, factor = arguments[:4]
        factors = in_all_lanes(builder, factor)
        for first, width in pieces_of(size):
            at = builder.add(source_at, long(first))
            part = load_wide(builder, source, at, width, FLOAT32)
            before = load_wide(builder, to, long(first), width, FLOAT32)
            store_wide(
                builder, to, long(first), width, multiply_add(builder, part, factors, before)
            )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.float32, head_dim), generate


@intrinsic(prefer_literal=True)
def copy_scaled(
    typing_context: Any,
    to: Any,
    to_at: Any,
    to_kind: Any,
    source: Any,
    source_at: Any,
    source_kind: Any,
    factor: Any,
    head_dim: Any,
) -> Any:
    """Put ``head_dim`` numbers times ``factor`` from element ``source_at`` to ``to_at``."""
    if not are_literals(to_kind, source_kind, head_dim):
        return None
    size, into, out_of = head_dim.literal_value, to_kind.literal_value, source_kind.literal_value
    whole, float32 = types.int64, types.float32
    signature = types.void(whole, whole, to_kind, whole, whole, source_kind, float32, head_dim)

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        to, to_at, _, source, source_at, _, factor, _ = arguments
        factors = in_all_lanes(builder, factor)
        for first, width in pieces_of(size):
            at = builder.add(source_at, long(first))
            scaled = builder.fmul(load_wide(builder, source, at, width, out_of), factors)
            store_wide(builder, to, builder.add(to_at, long(first)), width, scaled, into)
        return context.get_dummy_value()

    return signature, generate


def _sum_each(builder: Any, vectors: list[Any]) -> Any:
    """Of 16 vectors, one whose lane j is the sum of the j-th's lanes."""
    lanes = LANES
    while lanes > 1:
        half = lanes // 2
        # A vector holds some keys' partial sums, ``lanes`` of each, and so does the next one.
        starts = range(0, 2 * LANES, lanes)
        halves = [
            [start + skipped + lane for start in starts for lane in range(half)]
            for skipped in (0, half)
        ]
        vectors = [
            builder.fadd(*(shuffle(builder, left, right, lanes) for lanes in halves))
            for left, right in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        lanes = half
    return vectors[0]
