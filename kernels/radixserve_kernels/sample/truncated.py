"""What top-k and top-p keep of one row, and the draw from it.

Part of ``kernel.py``, which tells the way.
"""

# Kernels are another language in Python's syntax: their arguments have no types to state.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False
# ruff: noqa: N803

import triton
import triton.language as tl

from radixserve_kernels.sample.draws import draw_from_kept
from radixserve_kernels.sample.threshold import copy_candidates, find_threshold, search
from radixserve_kernels.sample.tiles import (
    OUTSIDE,
    WEIGHTLESS,
    WORST,
    depth_of,
    list_blocks,
    weight_of,
)


@triton.jit
def _num_ties(threshold, before, goal, vocab_size):
    """How many tokens at the threshold top-p keeps: as many as begin before the goal."""
    tie = weight_of(threshold).to(tl.float64)
    if tie > 0:
        needed = tl.minimum(tl.ceil((goal - before) / tie), vocab_size)
    else:
        needed = tl.full((), vocab_size, tl.float64)
    return tl.maximum(needed.to(tl.int32), 1)


@triton.jit
def draw_truncated(
    top_k, top_p, min_p, uniform, maxima, sums,
    candidates_ptr, logits_ptr, listed_ptr, vocab_size, num_blocks, first_blocks, best, temperature,
    BLOCK: tl.constexpr, TILE_BLOCKS: tl.constexpr, ALL_BLOCKS: tl.constexpr,
    CANDIDATES: tl.constexpr, PIVOTS: tl.constexpr,
):  # fmt: skip
    """Draw from what top-k and top-p keep (at least one of them is on)."""
    low = tl.full((), 0, tl.int32)
    base = tl.full((), 0.0, tl.float64)
    high = tl.full((), WORST, tl.int32)
    blocks = tl.arange(0, ALL_BLOCKS)
    block_depths = tl.where(blocks < num_blocks, depth_of(maxima, best, temperature), OUTSIDE)
    has_top_k = top_k < vocab_size
    wanted = tl.where(has_top_k, top_k, first_blocks)
    is_short = wanted < num_blocks
    if is_short:
        # As many blocks begin at this depth or above it, so as many tokens lie there.
        ones = tl.full((ALL_BLOCKS,), 1.0, tl.float64)
        high, _ = search(block_depths, ones, low, base, high, wanted, PIVOTS)
    num_listed = list_blocks(listed_ptr, block_depths <= high, ALL_BLOCKS)

    threshold = high
    num_ties = vocab_size
    whole = tl.sum(sums, axis=0)
    count = tl.full((), CANDIDATES + 1, tl.int32)
    if has_top_k:
        if is_short:
            count, _ = copy_candidates(
                low, high, candidates_ptr,
                logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
                BLOCK, TILE_BLOCKS, CANDIDATES,
            )  # fmt: skip
        threshold, before = find_threshold(
            low, base, high, top_k, True, count,
            candidates_ptr, logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
            BLOCK, TILE_BLOCKS, CANDIDATES, PIVOTS,
        )  # fmt: skip
        num_ties = top_k - before.to(tl.int32)
    if top_p < 1.0:
        if has_top_k:
            # Those above the threshold, as candidates and as the whole that top-p is a share of.
            count, whole = copy_candidates(
                low, threshold - 1, candidates_ptr,
                logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
                BLOCK, TILE_BLOCKS, CANDIDATES,
            )  # fmt: skip
            above = whole
            tie = weight_of(threshold).to(tl.float64)
            whole += num_ties * tie
            goal = top_p * whole
            if above >= goal:
                threshold, before = find_threshold(
                    low, base, threshold - 1, goal, False, count,
                    candidates_ptr, logits_ptr, listed_ptr, num_listed, vocab_size, best,
                    temperature, BLOCK, TILE_BLOCKS, CANDIDATES, PIVOTS,
                )  # fmt: skip
                num_ties = _num_ties(threshold, before, goal, vocab_size)
            else:
                # Never more than top-k keeps, whatever rounding says.
                num_ties = tl.minimum(num_ties, _num_ties(threshold, above, goal, vocab_size))
        else:
            goal = top_p * whole
            if is_short:
                count, base = copy_candidates(
                    low, high, candidates_ptr,
                    logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
                    BLOCK, TILE_BLOCKS, CANDIDATES,
                )  # fmt: skip
                if base >= goal:
                    base = tl.full((), 0.0, tl.float64)
                else:
                    count = tl.full((), CANDIDATES + 1, tl.int32)
                    low = high + 1
                    high = tl.maximum(low, WEIGHTLESS)
                    num_listed = list_blocks(listed_ptr, blocks < num_blocks, ALL_BLOCKS)
            threshold, before = find_threshold(
                low, base, high, goal, False, count,
                candidates_ptr, logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
                BLOCK, TILE_BLOCKS, CANDIDATES, PIVOTS,
            )  # fmt: skip
            num_ties = _num_ties(threshold, before, goal, vocab_size)
    return draw_from_kept(
        threshold, num_ties, uniform, min_p,
        logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature, BLOCK, TILE_BLOCKS,
    )  # fmt: skip
