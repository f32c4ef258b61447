"""Reading one row of logits in blocks and tiles, as depths.

Part of ``kernel.py``, which explains them.
"""

# Kernels are another language in Python's syntax: their arguments have no types to state.
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False
# ruff: noqa: N803

import triton
import triton.language as tl

WORST = tl.constexpr(0x7F800000)
"""The depth of minus infinity."""
OUTSIDE = tl.constexpr(0x7FFFFFFF)
"""Deeper than every token: fills what lies outside the vocabulary."""
WEIGHTLESS = tl.constexpr(0x42D00000)
"""The depth of 104: exp(-104) is 0 in float32."""
OCTAVE = tl.constexpr(1 << 23)


@triton.jit
def load_blocks(logits_ptr, blocks, is_wanted, vocab_size, BLOCK: tl.constexpr):
    """Whole blocks of one row: values, float32[N, BLOCK], -inf outside; ids; which are inside."""
    ids = blocks[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    is_inside = is_wanted[:, None] & (ids < vocab_size)
    x = tl.load(logits_ptr + ids, mask=is_inside, other=-float("inf")).to(tl.float32)
    return x, ids, is_inside


@triton.jit
def depth_of(x, best, temperature):
    return tl.abs(tl.div_rn(x - best, temperature)).to(tl.int32, bitcast=True)


@triton.jit
def weight_of(depth):
    return tl.exp(-depth.to(tl.float32, bitcast=True))


@triton.jit
def list_blocks(listed_ptr, is_listed, ALL_BLOCKS: tl.constexpr):
    """Write the listed blocks in order; returns how many they are."""
    # Other threads of this program read the list, and may still be reading the last one.
    tl.debug_barrier()
    places = tl.cumsum(is_listed.to(tl.int32), axis=0) - 1
    tl.store(listed_ptr + places, tl.arange(0, ALL_BLOCKS), mask=is_listed)
    tl.debug_barrier()
    return tl.sum(is_listed.to(tl.int32), axis=0)


@triton.jit
def load_tile(
    tile, logits_ptr, listed_ptr, num_listed, vocab_size, best, temperature,
    BLOCK: tl.constexpr, TILE_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Depths and ids of a tile of listed blocks, in the order of ids: int32[TILE] each."""
    places = tile * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)
    blocks = tl.load(listed_ptr + places, mask=places < num_listed, other=0)
    x, ids, is_inside = load_blocks(logits_ptr, blocks, places < num_listed, vocab_size, BLOCK)
    depths = tl.where(is_inside, depth_of(x, best, temperature), OUTSIDE)
    return tl.reshape(depths, (TILE_BLOCKS * BLOCK,)), tl.reshape(ids, (TILE_BLOCKS * BLOCK,))
