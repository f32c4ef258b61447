"""What the processor that numba compiles for has, as far as tiles of products care (``tiles.py``).

A ``Machine`` may be made for another processor too: what it lacks is not used, so its tiles run
here and can be tested.
"""

from functools import cache
from typing import NamedTuple

from numba.core.registry import cpu_target

MOST_ROWS = 6
"""Of one tile: with four outputs as many sums as registers hold, where there are 32 of 16."""


class Machine(NamedTuple):
    """What tiles are made for."""

    lanes: int
    """float32 numbers in a register: 4, 8 or 16."""
    has_dots: bool
    """Whether an instruction multiplies 32 pairs of bfloat16 and adds them up in float32."""

    @property
    def most_rows(self) -> int:
        """Of a tile whose sums stay in registers."""
        return MOST_ROWS if self.lanes == 16 else 2


@cache
def machine() -> Machine:
    """The processor that numba compiles for."""
    features = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
    lanes = 16 if "+avx512f" in features else 8 if "+avx2" in features else 4
    return Machine(lanes, {"+avx512bf16", "+avx512bw", "+avx512dq"} <= features)
