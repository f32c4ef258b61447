"""Where kernels run: on a GPU, or under Triton's interpreter on the CPU.

Triton decides once, when a kernel is defined, whether ``TRITON_INTERPRET=1`` holds; so does this
module, when it is imported. Under the interpreter kernels take CPU tensors and run as numpy, slowly
and without a compiler: it proves what they compute, not how fast.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
"""Whether kernels are interpreted. Their dots are then widened to float32: on bfloat16 operands the
interpreter's ``tl.dot`` returns garbage (seen with triton 3.6 and 3.9)."""


@dataclass(frozen=True, slots=True)
class Processors:
    """The streaming multiprocessors of a GPU, and what each has for the programs resident on it."""

    count: int
    program_shared_bytes: int
    """Shared memory that one program may have."""
    shared_bytes: int
    registers: int
    threads: int


_INTERPRETER = Processors(
    count=1, program_shared_bytes=1 << 30, shared_bytes=1 << 34, registers=1 << 16, threads=1_024
)
"""A stand-in: so few programs that persistent ones loop, and memory enough for any."""

_RESERVED_SHARED_BYTES = 1 << 10
"""What CUDA adds to a program's shared memory."""

_REGISTER_STEP = 8
"""Registers are given to the threads of a warp in steps of this many each."""


def runs_on(device: torch.device) -> bool:
    """Whether kernels can be launched on tensors of this device, in this process."""
    return device.type == ("cpu" if INTERPRETED else "cuda")


@cache
def processors(device: torch.device) -> Processors:
    """What the device has. *Cost*: a look-up; asks the driver once for each device."""
    if INTERPRETED:
        return _INTERPRETER
    # Of torch's own description of the class, the last four are missing.
    properties: Any = torch.cuda.get_device_properties(device)
    return Processors(
        count=int(properties.multi_processor_count),
        program_shared_bytes=int(properties.shared_memory_per_block_optin),
        shared_bytes=int(properties.shared_memory_per_multiprocessor),
        registers=int(properties.regs_per_multiprocessor),
        threads=int(properties.max_threads_per_multi_processor),
    )


def resident_programs(
    device_has: Processors, *, num_warps: int, registers: int, shared_bytes: int
) -> int:
    """Programs that are resident on all processors at a time, at least one on each.

    ``registers``: of a thread. Programs beyond so many would wait for others to end.
    """
    threads = 32 * num_warps
    rounded = -(-registers // _REGISTER_STEP) * _REGISTER_STEP
    each = min(
        device_has.threads // threads,
        device_has.registers // (rounded * threads),
        device_has.shared_bytes // (shared_bytes + _RESERVED_SHARED_BYTES),
    )
    return device_has.count * max(1, each)
