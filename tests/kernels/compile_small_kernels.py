"""Compile the small kernels for GPUs that need not be there; what came out, as JSON on stdout.

    python compile_small_kernels.py

Run by ``test_small_kernels_compile.py`` in a process of its own, without the interpreter.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from radixserve_kernels.kv_store import kernel as kv_store
from radixserve_kernels.page_copy import kernel as page_copy
from radixserve_kernels.rms_norm import kernel as rms_norm
from radixserve_kernels.silu_mul import kernel as silu_mul

CAPABILITIES = (80, 90)


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel with its constants: what a launch of its launcher would compile."""

    name: str
    kernel: Any
    dtype: str
    constants: dict[str, int | bool]
    num_warps: int
    scalars: dict[str, str]
    """The types of what is neither a constant nor a pointer."""
    indices: tuple[str, ...] = ()
    """The pointers to int64."""


def norm(dtype: str, hidden: int, *, has_update: bool) -> Variant:
    block = rms_norm.block_size(hidden)
    return Variant(
        f"rms_norm {hidden} {has_update}",
        rms_norm.rms_norm_kernel,
        dtype,
        {"HIDDEN": hidden, "BLOCK": block, "HAS_UPDATE": has_update},
        rms_norm.num_warps(block),
        {"eps": "fp32"},
    )


def activation(dtype: str, inner: int) -> Variant:
    return Variant(
        f"silu_mul {inner}",
        silu_mul.silu_mul_kernel,
        dtype,
        {"INNER": inner, "BLOCK": silu_mul.BLOCK},
        silu_mul.NUM_WARPS,
        {},
    )


def copying(page_words: int) -> Variant:
    block = min(page_copy.BLOCK_BYTES // 8, triton.next_power_of_2(page_words))
    return Variant(
        f"page_copy {page_words}",
        page_copy.page_copy_kernel,
        "i64",
        {"NUM_PLANES": 72, "PAGE_WORDS": page_words, "BLOCK": block},
        page_copy.num_warps(block),
        {"num_pages": "i32"},
    )


def storing(dtype: str, head_dim: int, *, has_norm: bool) -> Variant:
    block_heads, block_half, num_warps = kv_store.blocks(48, head_dim)
    return Variant(
        f"kv_store {head_dim} {has_norm}",
        kv_store.kv_store_kernel,
        dtype,
        {
            "NUM_HEADS": 32,
            "NUM_KV_HEADS": 8,
            "HEAD_DIM": head_dim,
            "PAGE_SIZE": 16,
            "HAS_NORM": has_norm,
            "BLOCK_HEADS": block_heads,
            "BLOCK_HALF": block_half,
        },
        num_warps,
        {
            "qkv_stride": "i32",
            "keys_page_stride": "i32",
            "keys_slot_stride": "i32",
            "values_page_stride": "i32",
            "values_slot_stride": "i32",
            "eps": "fp32",
        },
        ("positions_ptr", "slots_ptr"),
    )


VARIANTS = (
    norm("bf16", 4_096, has_update=True),
    norm("fp16", 1_000, has_update=False),
    norm("fp32", 20_000, has_update=True),
    activation("bf16", 11_008),
    activation("fp32", 96),
    copying(4_096),
    copying(100),
    storing("bf16", 128, has_norm=True),
    storing("fp16", 80, has_norm=False),
    storing("bf16", 256, has_norm=True),
    storing("fp32", 192, has_norm=False),
)


def compile_for(variant: Variant, capability: int) -> Any:
    """As a launch would, whose pointers and strides are multiples of 16."""
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[str | int]]] = {}
    for index, name in enumerate(variant.kernel.arg_names):
        if name in variant.constants:
            signature[name] = "constexpr"
        elif name in variant.scalars:
            signature[name] = variant.scalars[name]
        else:
            signature[name] = "*i64" if name in variant.indices else f"*{variant.dtype}"
        if signature[name] not in ("constexpr", "fp32"):
            attributes[(index,)] = [["tt.divisibility", 16]]
    return triton.compile(
        ASTSource(variant.kernel, signature, variant.constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": variant.num_warps, "enable_fp_fusion": True},
    )


def inspected(binary: bytes) -> dict[str, Any]:
    """Registers, local memory in bytes, and the widths of the global accesses, in bits."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert usage is not None, text
    return {
        "registers": int(usage[1]),
        "local": int(usage[2]) + int(usage[3]) + len(re.findall(r"\b(?:LDL|STL)\b", text)),
        "loads": [int(bits or 32) for bits in re.findall(r"\bLDG\.E(?:\.(\d+))?\b", text)],
        "stores": [int(bits or 32) for bits in re.findall(r"\bSTG\.E(?:\.(\d+))?\b", text)],
    }


def main() -> None:
    assert not triton.knobs.runtime.interpret, "the interpreter compiles nothing"
    found = {
        f"{variant.name} {variant.dtype} sm_{capability}": inspected(
            compile_for(variant, capability).asm["cubin"]
        )
        for capability in CAPABILITIES
        for variant in VARIANTS
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
