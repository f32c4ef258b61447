"""How the attention kernel is launched: one small table, unmeasured so far.

Chosen by arithmetic and by what the compiler reports (no spilled registers, shared memory within
the 227 KiB of an H100 and the 163 KiB of an A100), not by timing: no GPU has run it yet.

- Decode moves bytes. Two thirds of the stages are in flight at any time, and an H200 needs some
  40 KiB in flight on every processor to saturate its memory.
- Chunks multiply. A tile of 128 rows takes two groups of four warps, each with the 64 rows of
  Hopper's matrix instruction.
- float32 products are exact ones, on the ordinary units: registers bound the tiles.
"""

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """Compile-time choices of one launch. None of them changes what is computed, but ``block_n``
    changes in which order it is added up."""

    block_n: int
    """Keys of a tile: a power of two, at least 16, that divides ``work.ALIGNMENT``."""
    num_warps: int
    num_stages: int


PROGRAMS_PER_PROCESSOR = 4
"""Programs of a persistent grid for each processor: more than fit at a time (two or three do), so
that those which end early leave room."""


@cache
def launch_config(head_dim: int, element_bytes: int, *, is_tall: bool) -> LaunchConfig:
    """The launch for tiles of this kind."""
    in_parts = head_dim & (head_dim - 1) != 0
    if element_bytes == 4:
        block_n = 32 if head_dim <= 128 else 16
        # Tall tiles of wide heads leave no room for a second stage.
        return (
            LaunchConfig(block_n, 8, 2 if head_dim <= 192 else 1)
            if is_tall
            else LaunchConfig(block_n, 4, 2)
        )
    if is_tall:
        return LaunchConfig(64 if head_dim <= 192 else 32, 8, 3)
    # A tile's page numbers are loaded a stage ahead of it, so that five stages are two tiles ahead.
    return LaunchConfig(32 if in_parts or head_dim > 128 else 64, 4, 5)


MERGE_BLOCK = 16
"""Partial results that are read at a time: a power of two."""

MERGE_WARPS = 4
