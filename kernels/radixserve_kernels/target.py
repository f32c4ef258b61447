"""Where kernels run: on a GPU, or under Triton's interpreter on the CPU.

Triton decides once, when a kernel is defined, whether ``TRITON_INTERPRET=1`` holds; so does this
module, when it is imported. Under the interpreter kernels take CPU tensors and run as numpy, slowly
and without a compiler: it proves what they compute, not how fast.
"""

import torch
import triton

INTERPRETED: bool = bool(triton.knobs.runtime.interpret)
"""Whether kernels are interpreted. Their dots are then widened to float32: on bfloat16 operands the
interpreter's ``tl.dot`` returns garbage (seen with triton 3.6 and 3.9)."""

INTERPRETED_PROGRAMS = 4
"""How many programs a persistent grid has under the interpreter: few, so that each loops."""


def runs_on(device: torch.device) -> bool:
    """Whether kernels can be launched on tensors of this device, in this process."""
    return device.type == ("cpu" if INTERPRETED else "cuda")


def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of the GPU (a stand-in under the interpreter)."""
    if INTERPRETED:
        return INTERPRETED_PROGRAMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
