"""Choosing a token of one row: the greatest, or one by the inverse of the cumulative distribution.

Part of ``kernel.py``. Weights are summed in float64 and in the order of ids. A token of weight 0 is
never drawn.
"""

# Kernels are another language in Python's syntax: their arguments have no types to state.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False
# ruff: noqa: N803

import triton
import triton.language as tl

from radixserve_kernels.sample.tiles import depth_of, load_tile, weight_of


@triton.jit
def choose_greedy(
    logits_ptr, maxima, best, vocab_size, BLOCK: tl.constexpr, ALL_BLOCKS: tl.constexpr
):
    """The lowest id that has the row's greatest logit."""
    blocks = tl.arange(0, ALL_BLOCKS)
    ids = tl.min(tl.where(maxima == best, blocks, ALL_BLOCKS), axis=0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + ids, mask=ids < vocab_size, other=-float("inf")).to(tl.float32)
    return tl.min(tl.where(x == best, ids, vocab_size), axis=0)


@triton.jit
def _first_beyond(weights, before, target, SIZE: tl.constexpr):
    """Index of the first positive weight up to which the sum, ``before`` included, exceeds the
    target; of the last positive one if rounding left none. float64[SIZE]."""
    index = tl.arange(0, SIZE)
    until = before + tl.cumsum(weights, axis=0)
    first = tl.min(tl.where((weights > 0) & (until > target), index, SIZE), axis=0)
    last = tl.max(tl.where(weights > 0, index, 0), axis=0)
    return tl.minimum(first, last)


@triton.jit
def draw_from_all(
    logits_ptr, sums, uniform, min_p, best, temperature, vocab_size,
    BLOCK: tl.constexpr, ALL_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Draw from every token that min-p keeps: which block, then which token of it."""
    target = uniform * tl.sum(sums, axis=0)
    block = _first_beyond(sums, 0.0, target, ALL_BLOCKS)
    before = tl.sum(tl.where(tl.arange(0, ALL_BLOCKS) < block, sums, 0.0), axis=0)
    ids = block * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + ids, mask=ids < vocab_size, other=-float("inf")).to(tl.float32)
    weights = weight_of(depth_of(x, best, temperature))
    weights = tl.where(weights >= min_p, weights, 0.0).to(tl.float64)
    return block * BLOCK + _first_beyond(weights, before, target, BLOCK)


@triton.jit
def _kept_weights(depths, threshold, num_ties, min_p):
    """Weights, float64[TILE], 0 where a token is not kept. Of those at the threshold the first
    ``num_ties`` are."""
    is_tie = depths == threshold
    is_kept = depths < threshold
    found = tl.sum(is_tie.to(tl.int32), axis=0)
    if found <= num_ties:
        is_kept = is_kept | is_tie
    elif num_ties > 0:
        is_kept = is_kept | (is_tie & (tl.cumsum(is_tie.to(tl.int32), axis=0) <= num_ties))
    weights = weight_of(depths)
    weights = tl.where(is_kept & (weights >= min_p), weights, 0.0)
    return weights.to(tl.float64), found


@triton.jit
def draw_from_kept(
    threshold, num_ties, uniform, min_p,
    logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
    BLOCK: tl.constexpr, TILE_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Draw from what lies above the threshold, and its first ``num_ties`` equals."""
    num_tiles = tl.cdiv(num_listed, TILE_BLOCKS)
    total = tl.full((), 0.0, tl.float64)
    ties_left = num_ties
    tile = tl.full((), 0, tl.int32)
    while tile < num_tiles:
        depths, _ = load_tile(
            tile, logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
            BLOCK, TILE_BLOCKS,
        )  # fmt: skip
        weights, ties = _kept_weights(depths, threshold, ties_left, min_p)
        total += tl.sum(weights, axis=0)
        ties_left -= ties
        tile += 1
    target = uniform * total
    before = tl.full((), 0.0, tl.float64)
    token_id = tl.full((), 0, tl.int32)
    ties_left = num_ties
    tile = tl.full((), 0, tl.int32)
    while tile < num_tiles:
        depths, ids = load_tile(
            tile, logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
            BLOCK, TILE_BLOCKS,
        )  # fmt: skip
        weights, ties = _kept_weights(depths, threshold, ties_left, min_p)
        ties_left -= ties
        here = tl.sum(weights, axis=0)
        if here > 0:
            # The last token with a weight, for when rounding leaves nothing beyond the target.
            token_id = tl.max(tl.where(weights > 0, ids, 0), axis=0)
            if before + here > target:
                place = _first_beyond(weights, before, target, TILE_BLOCKS * BLOCK)
                places = tl.arange(0, TILE_BLOCKS * BLOCK)
                token_id = tl.sum(tl.where(places == place, ids, 0), axis=0)
                tile = num_tiles
        before += here
        tile += 1
    return token_id
