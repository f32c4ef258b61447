"""The kernels compile for real GPUs, fit their shared memory, and use their matrix instructions.

Compiling needs no GPU, but a process without the interpreter, so this file runs itself as a script.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from radixserve_kernels.paged_attention.tuning import MERGE_REGISTERS

SHARED_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}
"""What one program may have, by compute capability."""

SMALL_SPILL = 32
"""Bytes of a thread's stack that do no harm: eight registers, of 255."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to compile the attention kernel."""

    capability: int
    dtype: str
    head_dim: int
    page_size: int
    is_tall: bool
    has_soft_cap: bool = False
    has_window: bool = False
    choice: int = 0
    """Which of ``launch_configs`` that fit."""
    is_static: bool = False
    """Whether programs step through tall items, as in a static plan."""

    @property
    def is_main(self) -> bool:
        """Whether speed matters so much that no register may be spilled."""
        return self.capability == 90 and self.dtype == "bf16"


VARIANTS = (
    Variant(90, "bf16", 128, 16, is_tall=False),
    Variant(90, "bf16", 128, 16, is_tall=True),
    Variant(90, "bf16", 128, 16, is_tall=True, choice=2),
    Variant(90, "bf16", 128, 16, is_tall=True, is_static=True),
    Variant(80, "bf16", 128, 16, is_tall=True, is_static=True),
    Variant(90, "bf16", 80, 16, is_tall=False),
    Variant(90, "fp16", 192, 256, is_tall=True, has_soft_cap=True, has_window=True),
    Variant(90, "fp32", 128, 16, is_tall=True),
    Variant(90, "fp32", 256, 16, is_tall=True),
    Variant(80, "bf16", 128, 16, is_tall=False),
    Variant(89, "fp16", 256, 16, is_tall=True),
    Variant(89, "fp32", 128, 16, is_tall=True),
    Variant(120, "bf16", 256, 16, is_tall=True),
    Variant(120, "fp32", 128, 16, is_tall=True),
)
"""Not every entry of the table: each takes a compiler seconds."""


def test_compiles_within_the_limits_of_real_gpus(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("TRITON_")
    }
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    if "missing" in report:
        pytest.skip(report["missing"])
    assert len(report["variants"]) == len(VARIANTS)
    for variant, found in zip(VARIANTS, report["variants"], strict=True):
        limit = min(SHARED_BYTES[variant.capability], found["config_shared_bytes"])
        assert found["shared_bytes"] <= limit, variant
        if not (variant.has_soft_cap or variant.has_window):
            assert found["registers"] <= found["config_registers"], variant
            assert found["stack_bytes"] <= SMALL_SPILL, variant
        if variant.dtype != "fp32":
            uses_groups = variant.capability == 90 and variant.is_tall
            assert found["warp_group_products" if uses_groups else "warp_products"] > 0, variant
        if variant.is_main:
            assert found["async_copies"] > 0, variant
            assert found["stack_bytes"] == 0, variant
    assert report["merge"]["stack_bytes"] == 0
    assert report["merge"]["registers"] <= MERGE_REGISTERS


def main() -> None:
    """Compile everything, and print what came out as the last line, in JSON."""
    import triton  # noqa: PLC0415

    if "nvidia" not in triton.backends.backends:
        print(json.dumps({"missing": "this triton has no compiler for NVIDIA GPUs"}))
        return
    found = [{**asdict(variant), **compile_attention(variant)} for variant in VARIANTS]
    print(json.dumps({"variants": found, "merge": compile_merge()}))


def compile_attention(variant: Variant) -> dict[str, int]:
    from radixserve_kernels.paged_attention.items import tile_shape  # noqa: PLC0415
    from radixserve_kernels.paged_attention.kernel import attention_kernel  # noqa: PLC0415
    from radixserve_kernels.paged_attention.tuning import (  # noqa: PLC0415
        head_parts,
        launch_configs,
    )

    element_bytes = 4 if variant.dtype == "fp32" else 2
    config = [
        config
        for config in launch_configs(variant.head_dim, element_bytes, is_tall=variant.is_tall)
        if config.shared_bytes <= SHARED_BYTES[variant.capability]
    ][variant.choice]
    low, high = head_parts(variant.head_dim)
    tiles = tile_shape(4)
    constants = {
        "COUNT_INDEX": 0,
        "PERSISTENT": variant.is_static or not variant.is_tall,
        "NUM_KV_HEADS": 8,
        "GROUP": tiles.group,
        "PAGE_SIZE": variant.page_size,
        "D_LOW": low,
        "D_HIGH": high,
        "TILE_PARTS": (tiles.tall if variant.is_tall else tiles.short) // config.block_m,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "HAS_SOFT_CAP": variant.has_soft_cap,
        "HAS_WINDOW": variant.has_window,
    }
    types = {
        **dict.fromkeys(("query", "keys", "values", "out"), f"*{variant.dtype}"),
        **dict.fromkeys(("page_table", "items", "counts", "first_slots"), "*i32"),
        **dict.fromkeys(("partials", "partial_lse"), "*fp32"),
        **dict.fromkeys(("scale", "soft_cap"), "fp32"),
    }
    found = compile_kernel(
        attention_kernel,
        types,
        constants,
        variant.capability,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        maxnreg=config.register_limit(
            is_plain=not (variant.has_soft_cap or variant.has_window),
        ),
    )
    return found | {
        "config_registers": config.registers,
        "config_shared_bytes": config.shared_bytes,
    }


def compile_merge() -> dict[str, int]:
    from radixserve_kernels.paged_attention.merge import merge_kernel  # noqa: PLC0415
    from radixserve_kernels.paged_attention.tuning import (  # noqa: PLC0415
        MERGE_BLOCK,
        MERGE_WARPS,
    )

    constants = {
        "COUNT_INDEX": 2,
        "NUM_HEADS": 32,
        "HEAD_DIM": 80,
        "BLOCK_D": 128,
        "BLOCK_S": MERGE_BLOCK,
    }
    types = {
        **dict.fromkeys(("partials", "partial_lse"), "*fp32"),
        **dict.fromkeys(("merges", "counts"), "*i32"),
        "out": "*bf16",
    }
    return compile_kernel(
        merge_kernel, types, constants, 90, num_warps=MERGE_WARPS, maxnreg=MERGE_REGISTERS
    )


def compile_kernel(
    kernel: object,
    types: dict[str, str],
    constants: dict[str, int],
    capability: int,
    **options: int | None,
) -> dict[str, int]:
    """``types`` of the arguments, int32 where not named. Returns what there is to count."""
    import triton  # noqa: PLC0415
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    names = kernel.arg_names  # type: ignore[attr-defined]
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32") for name in names
    }
    # As at run time: pointers and strides that are multiples of 16 are taken to be so.
    divisible = {
        (index,): [["tt.divisibility", 16]]
        for index, (name, kind) in enumerate(signature.items())
        if kind.startswith("*") or (name.endswith("_stride") and name != "table_stride")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=divisible)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={**options, "enable_fp_fusion": True},
    )
    ptx = compiled.asm["ptx"]
    return {
        "shared_bytes": compiled.metadata.shared,
        **usage(compiled.asm["cubin"]),
        "async_copies": len(re.findall(r"cp\.async\.c[ag]\.shared", ptx)),
        "warp_products": len(re.findall(r"mma\.sync", ptx)),
        "warp_group_products": len(re.findall(r"wgmma\.mma_async", ptx)),
    }


def usage(binary: bytes) -> dict[str, int]:
    """A thread's registers, and its memory outside of them: spilled ones, as these kernels have
    nothing else."""
    import triton  # noqa: PLC0415

    path = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    path.write_bytes(binary)
    tool = triton.knobs.nvidia.cuobjdump.path
    text = subprocess.run(
        [tool, "-res-usage", str(path)], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return {"registers": int(found[1]), "stack_bytes": int(found[2])}


if __name__ == "__main__":
    main()
