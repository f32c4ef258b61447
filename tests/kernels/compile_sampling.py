"""Compile the sampling kernels for GPUs that need not be there; what came out, as JSON on stdout.

    python compile_sampling.py

Run by ``test_sampling_compile.py`` in a process of its own, without the interpreter.
"""

import json
import re
import subprocess
import sys
import tempfile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from radixserve_kernels.penalize import kernel as penalize
from radixserve_kernels.sample import kernel as sample

VOCAB_BLOCKS = 1024
"""As for 262,144 tokens: the greatest vocabulary in use, hence the most registers."""

TYPES = {
    "logits_rows_ptr": "*i32",
    "temperatures_ptr": "*fp32",
    "top_k_ptr": "*i32",
    "top_p_ptr": "*fp64",
    "min_p_ptr": "*fp32",
    "uniforms_ptr": "*fp64",
    "maxima_ptr": "*fp32",
    "sums_ptr": "*fp64",
    "listed_ptr": "*i32",
    "candidates_ptr": "*i32",
    "token_ids_ptr": "*i64",
    "is_sound_ptr": "*i1",
    "tallies_ptr": "*i32",
    "slots_ptr": "*i32",
    "penalties_ptr": "*fp32",
    "out_ptr": "*fp32",
}
"""Of pointers; what is neither here nor a constant is an int32."""

CONSTANTS = {
    "BLOCK": sample.DEFAULT_TILING.block,
    "GRID_BLOCKS": sample.DEFAULT_TILING.grid_blocks,
    "TILE_BLOCKS": sample.DEFAULT_TILING.tile_blocks,
    "ALL_BLOCKS": VOCAB_BLOCKS,
    "CANDIDATES": sample.DEFAULT_TILING.candidates,
    "PIVOTS": sample.PIVOTS,
    "TILE": penalize.TILE,
}

KERNELS = (
    (sample.maxima_kernel, sample.GRID_WARPS),
    (sample.sums_kernel, sample.GRID_WARPS),
    (sample.choose_kernel, sample.CHOOSE_WARPS),
    (penalize.penalize_kernel, penalize.NUM_WARPS),
)

TARGETS = (("bf16", 90), ("fp32", 80))


def compile_for(kernel: Any, num_warps: int, dtype: str, capability: int) -> bytes:
    """As a launch would, whose pointers are multiples of 16."""
    types = TYPES | {"logits_ptr": f"*{dtype}"} | dict.fromkeys(CONSTANTS, "constexpr")
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if name.endswith("_ptr") or name == "logits_stride"
    }
    constants = {name: CONSTANTS[name] for name in kernel.arg_names if name in CONSTANTS}
    compiled = triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps, "enable_fp_fusion": True},
    )
    binary: bytes = compiled.asm["cubin"]
    return binary


def inspected(binary: bytes) -> dict[str, int]:
    """Registers, and the bytes of a thread's stack: what it spills."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert usage is not None, text
    return {"registers": int(usage[1]), "stack_bytes": int(usage[2])}


def main() -> None:
    assert not triton.knobs.runtime.interpret, "the interpreter compiles nothing"
    found = {
        f"{kernel.__name__} {dtype} sm_{capability}": inspected(
            compile_for(kernel, num_warps, dtype, capability)
        )
        for dtype, capability in TARGETS
        for kernel, num_warps in KERNELS
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
