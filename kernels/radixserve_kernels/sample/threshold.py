"""The threshold above which a row's tokens reach a number, or a share of the weight.

Part of ``kernel.py``. A search never looks at the order of tokens: it counts and sums those up to a
few pivots, narrows the range to the one where the goal is reached, and ends when the range is one
depth. Loops whose length the device decides are written with ``while``: the interpreter of Triton
3.6 takes no loaded number for the end of a ``range`` (with numpy 2.4).
"""

# Kernels are another language in Python's syntax: their arguments have no types to state.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False
# ruff: noqa: N803

import triton
import triton.language as tl

from radixserve_kernels.sample.tiles import OCTAVE, OUTSIDE, WEIGHTLESS, load_tile, weight_of


@triton.jit
def _pivots(low, high, PIVOTS: tl.constexpr):
    """Depths, ascending, that cut ``[low, high]`` into ranges that end with them; the last is
    ``high``. int32[PIVOTS]."""
    even = (high - low) // PIVOTS + 1
    # Depths are spaced by logarithm: of a wide range nearly all is next to the best. Thresholds lie
    # within a few octaves of its end.
    step = tl.where(high > WEIGHTLESS, even, tl.minimum(even, OCTAVE))
    return tl.maximum(high - (PIVOTS - 1 - tl.arange(0, PIVOTS)) * step, low)


@triton.jit
def _narrowed(pivots, measures, low, base, goal, PIVOTS: tl.constexpr):
    """The first range at whose end ``base + measure`` reaches the goal (the last, if none does):
    its bounds, what lies before it (``base`` included), and its index."""
    index = tl.arange(0, PIVOTS)
    first = tl.min(tl.where(base + measures >= goal, index, PIVOTS - 1), axis=0)
    is_before = index == first - 1
    high = tl.sum(tl.where(index == first, pivots, 0), axis=0)
    low = tl.where(first > 0, tl.sum(tl.where(is_before, pivots, 0), axis=0) + 1, low)
    base += tl.sum(tl.where(is_before, measures, 0.0), axis=0)
    return low, base, high, first


@triton.jit
def search(depths, amounts, low, base, high, goal, PIVOTS: tl.constexpr):
    """The least depth in ``[low, high]`` up to which ``base`` and the amounts (from ``low`` on)
    reach the goal, ``high`` if none does; and what lies before it, ``base`` included."""
    while low < high:
        pivots = _pivots(low, high, PIVOTS)
        is_within = (depths[None, :] <= pivots[:, None]) & (depths >= low)[None, :]
        measures = tl.sum(tl.where(is_within, amounts[None, :], 0.0), axis=1)
        low, base, high, _ = _narrowed(pivots, measures, low, base, goal, PIVOTS)
    return low, base


@triton.jit
def _amounts(depths, by_count):
    """What a token adds to the measure: 1, or its weight. float64."""
    return tl.where(by_count, 1.0, weight_of(depths)).to(tl.float64)


@triton.jit
def copy_candidates(
    low, high, candidates_ptr, logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
    BLOCK: tl.constexpr, TILE_BLOCKS: tl.constexpr, CANDIDATES: tl.constexpr,
):  # fmt: skip
    """Write the depths in ``[low, high]``, as many as there is room for; returns how many they are
    and the sum of their weights."""
    tl.debug_barrier()
    num_tiles = tl.cdiv(num_listed, TILE_BLOCKS)
    count = tl.full((), 0, tl.int32)
    weight = tl.full((), 0.0, tl.float64)
    tile = tl.full((), 0, tl.int32)
    while tile < num_tiles:
        depths, _ = load_tile(
            tile, logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
            BLOCK, TILE_BLOCKS,
        )  # fmt: skip
        is_within = (depths >= low) & (depths <= high)
        found = tl.sum(is_within.to(tl.int32), axis=0)
        if found > 0:
            places = count + tl.cumsum(is_within.to(tl.int32), axis=0) - 1
            tl.store(candidates_ptr + places, depths, mask=is_within & (places < CANDIDATES))
            weight += tl.sum(tl.where(is_within, weight_of(depths), 0.0).to(tl.float64), axis=0)
            count += found
        tile += 1
    tl.debug_barrier()
    return count, weight


@triton.jit
def find_threshold(
    low, base, high, goal, by_count, count,
    candidates_ptr, logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
    BLOCK: tl.constexpr, TILE_BLOCKS: tl.constexpr, CANDIDATES: tl.constexpr, PIVOTS: tl.constexpr,
):  # fmt: skip
    """As ``search``, over the listed blocks. ``count``: how many depths in ``[low, high]`` were
    copied out; more than ``CANDIDATES`` if they do not fit or nobody has counted."""
    num_tiles = tl.cdiv(num_listed, TILE_BLOCKS)
    is_copied = count <= CANDIDATES
    while (count > CANDIDATES) & (low < high):
        pivots = _pivots(low, high, PIVOTS)
        measures = tl.full((PIVOTS,), 0.0, tl.float64)
        counts = tl.full((PIVOTS,), 0, tl.int32)
        tile = tl.full((), 0, tl.int32)
        while tile < num_tiles:
            depths, _ = load_tile(
                tile, logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
                BLOCK, TILE_BLOCKS,
            )  # fmt: skip
            is_within = (depths[None, :] <= pivots[:, None]) & (depths >= low)[None, :]
            amounts = _amounts(depths, by_count)
            measures += tl.sum(tl.where(is_within, amounts[None, :], 0.0), axis=1)
            counts += tl.sum(is_within.to(tl.int32), axis=1)
            tile += 1
        low, base, high, first = _narrowed(pivots, measures, low, base, goal, PIVOTS)
        index = tl.arange(0, PIVOTS)
        count = tl.sum(tl.where(index == first, counts, 0), axis=0)
        count -= tl.sum(tl.where(index == first - 1, counts, 0), axis=0)
    if low < high:
        if not is_copied:
            copy_candidates(
                low, high, candidates_ptr,
                logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
                BLOCK, TILE_BLOCKS, CANDIDATES,
            )  # fmt: skip
        places = tl.arange(0, CANDIDATES)
        depths = tl.load(candidates_ptr + places, mask=places < count, other=OUTSIDE)
        low, base = search(depths, _amounts(depths, by_count), low, base, high, goal, PIVOTS)
    return low, base
