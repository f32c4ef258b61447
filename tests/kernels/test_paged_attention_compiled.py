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

SHARED_BYTES = {80: 163 << 10, 90: 227 << 10}
"""What one program may have, by compute capability."""


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

    @property
    def is_main(self) -> bool:
        """Whether speed matters so much that no register may be spilled."""
        return self.capability == 90 and self.dtype == "bf16"


VARIANTS = (
    Variant(90, "bf16", 128, 16, is_tall=False),
    Variant(90, "bf16", 128, 16, is_tall=True),
    Variant(90, "bf16", 80, 16, is_tall=False),
    Variant(90, "fp16", 192, 256, is_tall=True, has_soft_cap=True, has_window=True),
    Variant(80, "bf16", 128, 16, is_tall=False),
    Variant(80, "fp32", 256, 16, is_tall=True),
)


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
        assert found["shared_bytes"] <= SHARED_BYTES[variant.capability], variant
        if variant.dtype != "fp32":
            uses_groups = variant.capability == 90 and variant.is_tall
            assert found["warp_group_products" if uses_groups else "warp_products"] > 0, variant
        if variant.is_main:
            assert found["async_copies"] > 0, variant
            assert found["stack_bytes"] == 0, variant
    assert report["merge"]["stack_bytes"] == 0


def main() -> None:
    """Compile everything, and print what came out as the last line, in JSON."""
    import triton  # noqa: PLC0415

    if "nvidia" not in triton.backends.backends:
        print(json.dumps({"missing": "this triton has no compiler for NVIDIA GPUs"}))
        return
    found = [{**asdict(variant), **compile_attention(variant)} for variant in VARIANTS]
    print(json.dumps({"variants": found, "merge": compile_merge()}))


def compile_attention(variant: Variant) -> dict[str, int]:
    from radixserve_kernels.paged_attention.kernel import attention_kernel  # noqa: PLC0415
    from radixserve_kernels.paged_attention.launch import head_parts  # noqa: PLC0415
    from radixserve_kernels.paged_attention.tuning import launch_config  # noqa: PLC0415
    from radixserve_kernels.paged_attention.work import tile_shape  # noqa: PLC0415

    config = launch_config(
        variant.head_dim, 4 if variant.dtype == "fp32" else 2, is_tall=variant.is_tall
    )
    low, high = head_parts(variant.head_dim)
    tiles = tile_shape(4)
    constants = {
        "COUNT_INDEX": 0,
        "PERSISTENT": not variant.is_tall,
        "NUM_KV_HEADS": 8,
        "GROUP": tiles.group,
        "PAGE_SIZE": variant.page_size,
        "D_LOW": low,
        "D_HIGH": high,
        "BLOCK_M": tiles.tall if variant.is_tall else tiles.short,
        "BLOCK_N": config.block_n,
        "HAS_SOFT_CAP": variant.has_soft_cap,
        "HAS_WINDOW": variant.has_window,
    }
    types = {
        **dict.fromkeys(("query", "keys", "values", "out"), f"*{variant.dtype}"),
        **dict.fromkeys(("page_table", "items", "counts"), "*i32"),
        **dict.fromkeys(("partials", "partial_lse"), "*fp32"),
        **dict.fromkeys(("scale", "soft_cap"), "fp32"),
    }
    return compile_kernel(
        attention_kernel,
        types,
        constants,
        variant.capability,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def compile_merge() -> dict[str, int]:
    from radixserve_kernels.paged_attention.kernel import merge_kernel  # noqa: PLC0415
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
    return compile_kernel(merge_kernel, types, constants, 90, num_warps=MERGE_WARPS)


def compile_kernel(
    kernel: object,
    types: dict[str, str],
    constants: dict[str, int],
    capability: int,
    **options: int,
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
        "stack_bytes": stack_bytes(compiled.asm["cubin"]),
        "async_copies": len(re.findall(r"cp\.async\.c[ag]\.shared", ptx)),
        "warp_products": len(re.findall(r"mma\.sync", ptx)),
        "warp_group_products": len(re.findall(r"wgmma\.mma_async", ptx)),
    }


def stack_bytes(binary: bytes) -> int:
    """A thread's memory outside of registers: spilled ones, as these kernels have nothing else."""
    import triton  # noqa: PLC0415

    path = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    path.write_bytes(binary)
    tool = triton.knobs.nvidia.cuobjdump.path
    usage = subprocess.run(
        [tool, "-res-usage", str(path)], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"STACK:(\d+)", usage)
    assert found is not None, usage
    return int(found[1])


if __name__ == "__main__":
    main()
