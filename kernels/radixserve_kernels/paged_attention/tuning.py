"""How the attention kernel is launched: one small table, unmeasured so far.

Chosen by arithmetic and by what the compiler reports (registers, shared memory, spills), not by
timing: no GPU has run it yet. A test compiles the table's entries and holds them to their numbers.

- Decode moves bytes. Two thirds of the stages are in flight at any time, and an H200 needs some
  40 KiB in flight on every processor to saturate its memory. Its programs are persistent and share
  the items evenly, so there must be just as many as are resident at a time: with one more the last
  items would be worked on by a part of the GPU.
- Chunks multiply. A tile of 128 rows takes two groups of four warps, each with the 64 rows of
  Hopper's matrix instruction. One such program fills the registers of a processor. Two of 64 rows
  and four warps fit as well, and the softmax of one overlaps the products of the other; but each
  fetches its own keys: 32 KiB for 64 keys of 128 every 512 cycles of products, 64 bytes a cycle,
  which is more than the second-level cache delivers to all processors (some 30 to 40). So tiles of
  128 rows come first, and the others are there to be tried.
- A static plan's tall tiles, those of levels, have the same launches, but persistent ones: a room
  of thousands of items of which few are in use would start a program for each. That takes 36
  registers more; of the 16-bit entries only heads of 192 and 256 then spill (128 and 24 bytes a
  thread on sm_90).
- float32 products are exact ones, on the ordinary units, whose operands are all registers: tiles
  are small, so that nothing is spilled, and several programs are resident.
"""

from dataclasses import dataclass
from functools import cache

from radixserve_kernels.target import Processors, resident_programs


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """Compile-time choices of one launch. None of them changes what is computed, but ``block_n``
    changes in which order it is added up."""

    block_m: int
    """Packed rows of a program, a power of two, at least 16: higher tiles are taken in parts."""
    block_n: int
    """Keys of a tile: a power of two, at least 16, that divides ``splits.ALIGNMENT``."""
    num_warps: int
    num_stages: int
    registers: int
    """Of a thread: what the compiler is held to, without soft cap or window, so that as many
    programs are resident as are reckoned with. With 255, all there are, it is not: tall tiles need
    no number, and in float32 a limit makes it spill more than it would use."""
    shared_bytes: int
    """Of a program: the most that the compiler takes for sm_80, sm_89, sm_90 or sm_120."""

    def register_limit(self, *, is_plain: bool) -> int | None:
        """What to tell the compiler. ``is_plain``: without soft cap or window, which take more."""
        return self.registers if is_plain and self.registers < MOST_REGISTERS else None

    def num_programs(self, device_has: Processors, *, is_plain: bool) -> int:
        """Programs resident on a device at a time."""
        return resident_programs(
            device_has,
            num_warps=self.num_warps,
            registers=self.register_limit(is_plain=is_plain) or MOST_REGISTERS,
            shared_bytes=self.shared_bytes,
        )


MOST_REGISTERS = 255
"""Of a thread, on every GPU."""

_C = LaunchConfig

_SHORT = {
    # A tile's page numbers are loaded a stage ahead of it, so that five stages are two tiles ahead.
    (2, 64): (_C(16, 64, 4, 5, 128, 37_376),),
    (2, 80): (_C(16, 32, 4, 5, 255, 23_552),),
    (2, 96): (_C(16, 32, 4, 5, 128, 29_184),),
    (2, 128): (_C(16, 64, 4, 5, 168, 72_192),),
    (2, 192): (_C(16, 32, 4, 5, 168, 56_832),),
    (2, 256): (_C(16, 32, 4, 5, 255, 75_008),),
    (4, 64): (_C(16, 32, 4, 2, 255, 22_592),),
    (4, 80): (_C(16, 32, 4, 2, 255, 27_712),),
    (4, 96): (_C(16, 32, 4, 2, 255, 32_832),),
    (4, 128): (_C(16, 32, 4, 2, 255, 43_008),),
    (4, 192): (_C(16, 16, 4, 2, 255, 37_952),),
    (4, 256): (_C(16, 16, 4, 2, 255, 50_240),),
}

_TALL = {
    (2, 64): (_C(128, 64, 8, 3, 255, 49_408),),
    (2, 80): (_C(128, 64, 8, 3, 255, 61_952),),
    (2, 96): (_C(128, 64, 8, 3, 255, 74_240),),
    (2, 128): (
        _C(128, 64, 8, 3, 255, 98_560),
        _C(64, 64, 4, 3, 255, 82_944),
        _C(64, 64, 4, 2, 255, 81_920),
    ),
    # The second of each is for GPUs that allow a program 99 KiB of shared memory.
    (2, 192): (_C(128, 64, 8, 3, 255, 148_480), _C(128, 32, 8, 3, 255, 101_376)),
    (2, 256): (_C(128, 32, 8, 3, 255, 131_200), _C(64, 32, 4, 2, 255, 98_304)),
    (4, 64): (_C(32, 16, 8, 2, 255, 18_432),),
    (4, 80): (_C(32, 16, 8, 2, 255, 22_528),),
    (4, 96): (_C(32, 16, 8, 2, 255, 26_752),),
    (4, 128): (_C(32, 16, 8, 2, 255, 34_944),),
    (4, 192): (_C(32, 16, 8, 2, 255, 51_328),),
    (4, 256): (_C(32, 16, 8, 2, 255, 67_712),),
}


def launch_configs(head_dim: int, element_bytes: int, *, is_tall: bool) -> tuple[LaunchConfig, ...]:
    """What is worth trying for tiles of this kind, the best guess first.

    A head size that is not in the table is launched as the next one of its kind, a power of two or
    a sum of two.
    """
    table = _TALL if is_tall else _SHORT
    if (element_bytes, head_dim) not in table:
        kind = (96, 192) if head_dim & (head_dim - 1) else (64, 128, 256)
        head_dim = next(size for size in kind if size >= head_dim)
    return table[element_bytes, head_dim]


@cache
def launch_config(
    head_dim: int, element_bytes: int, device_has: Processors, *, is_tall: bool
) -> LaunchConfig:
    """The first of ``launch_configs`` that the device has room for. *Raises* ``ValueError``."""
    configs = launch_configs(head_dim, element_bytes, is_tall=is_tall)
    for config in configs:
        if config.shared_bytes <= device_has.program_shared_bytes:
            return config
    least = min(config.shared_bytes for config in configs)
    raise ValueError(
        f"expected a GPU that allows a program {least} bytes of shared memory, which heads of "
        f"{head_dim} with {element_bytes} bytes an element take, got one that allows "
        f"{device_has.program_shared_bytes}"
    )


def head_parts(head_dim: int) -> tuple[int, int]:
    """A head size as its largest power of two and the rest, itself a power of two or 0.

    *Raises* ``ValueError`` if it is no such sum of parts of at least 16, the least a tensor core
    multiplies.
    """
    low = 1 << (head_dim.bit_length() - 1) if head_dim > 0 else 0
    high = head_dim - low
    if head_dim > 256 or low < 16 or (high != 0 and (high < 16 or high & (high - 1))):
        raise ValueError(
            "expected a head size up to 256 that is a power of two or a sum of two, each at least "
            f"16 (such as 64, 80, 96, 128, 192, 256), got {head_dim}"
        )
    return low, high


MERGE_BLOCK = 16
"""Partial results that are read at a time: a power of two."""

MERGE_WARPS = 4

MERGE_REGISTERS = 64
"""Of a thread: what the compiler is held to. Its shared memory, a few sums, never matters."""


def merge_programs(device_has: Processors) -> int:
    """Merging programs resident on a device at a time."""
    return resident_programs(
        device_has, num_warps=MERGE_WARPS, registers=MERGE_REGISTERS, shared_bytes=0
    )
