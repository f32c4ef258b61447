"""What is launched on which GPU, and that the unchecked launch is the checked one."""

from dataclasses import replace

import pytest
import torch

from radixserve_kernels.paged_attention.cases import HEAD_DIMS, Case, make_inputs
from radixserve_kernels.paged_attention.items import TALL_ROWS, tile_shape
from radixserve_kernels.paged_attention.launch import (
    launch_attention,
    paged_attention,
    prepare_attention,
)
from radixserve_kernels.paged_attention.splits import ALIGNMENT
from radixserve_kernels.paged_attention.tuning import (
    MOST_REGISTERS,
    LaunchConfig,
    launch_config,
    launch_configs,
    merge_programs,
)
from radixserve_kernels.target import Processors, processors, resident_programs
from tests.kernels.judging import DEVICE, assert_same_bits

A100 = Processors(108, 163 << 10, 164 << 10, 1 << 16, 2_048)
H200 = Processors(132, 227 << 10, 228 << 10, 1 << 16, 2_048)
RTX_4090 = Processors(128, 99 << 10, 100 << 10, 1 << 16, 1_536)


@pytest.mark.parametrize(
    ("num_warps", "registers", "shared_bytes", "each"),
    [
        # Limited by shared memory, of which CUDA takes 1 KiB a program; then by registers, which
        # are given in steps of 8; then by threads.
        (4, 32, 75 << 10, 3),
        (4, 32, 76 << 10, 2),
        (4, 168, 0, 3),
        (4, 169, 0, 2),
        (16, 16, 0, 4),
        # Whatever is launched, one must be.
        (8, 255, 227 << 10, 1),
    ],
)
def test_programs_are_as_many_as_fit(
    num_warps: int, registers: int, shared_bytes: int, each: int
) -> None:
    programs = resident_programs(
        H200, num_warps=num_warps, registers=registers, shared_bytes=shared_bytes
    )
    assert programs == 132 * each


def test_persistent_programs_are_as_many_as_are_resident() -> None:
    short = launch_config(128, 2, H200, is_tall=False)
    found = [short.num_programs(gpu, is_plain=True) for gpu in (A100, H200, RTX_4090)]
    assert found == [108 * 2, 132 * 3, 128]
    # Without a limit a thread may take all registers.
    assert short.num_programs(H200, is_plain=False) == 132 * 2
    assert short.register_limit(is_plain=False) is None
    assert short.register_limit(is_plain=True) == 168
    assert replace(short, registers=MOST_REGISTERS).register_limit(is_plain=True) is None
    assert merge_programs(H200) == 132 * 8


@pytest.mark.parametrize("gpu", [A100, H200, RTX_4090], ids=["a100", "h200", "rtx 4090"])
def test_every_head_size_has_a_launch_that_fits_every_gpu(gpu: Processors) -> None:
    for head_dim in (16, 48, 144, *HEAD_DIMS):
        for element_bytes in (2, 4):
            for is_tall in (False, True):
                config = launch_config(head_dim, element_bytes, gpu, is_tall=is_tall)
                assert config.shared_bytes <= gpu.program_shared_bytes
                for other in launch_configs(head_dim, element_bytes, is_tall=is_tall):
                    assert ALIGNMENT % other.block_n == 0
                    assert TALL_ROWS % other.block_m == 0


def test_a_gpu_without_the_shared_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"allows a program 75008 bytes .* allows 65536"):
        launch_config(256, 2, replace(RTX_4090, program_shared_bytes=1 << 16), is_tall=False)


def test_the_choice_follows_the_device() -> None:
    first, second = launch_configs(256, 2, is_tall=True)
    assert launch_config(256, 2, H200, is_tall=True) == first
    assert launch_config(256, 2, RTX_4090, is_tall=True) == second


@pytest.mark.parametrize("num_heads", [1, 7])
def test_tiles_taken_in_parts_mean_the_same(num_heads: int) -> None:
    """Also where a part ends within a token's heads, or holds no token of the tile."""
    rows = ((30, 30), (60, 75), (3, 300), (20, 300))
    case = Case("parts", rows, num_heads=num_heads, num_kv_heads=1, dtype=torch.float32)
    inputs = make_inputs(case, DEVICE)
    found = [
        paged_attention(
            inputs.query,
            inputs.keys,
            inputs.values,
            inputs.page_table,
            inputs.work(),
            scale=case.scale,
            out=torch.full_like(inputs.query, torch.nan),
            tall_config=LaunchConfig(block_m, 16, 8, 2, MOST_REGISTERS, 0),
        )
        for block_m in (128, 32)
    ]
    assert found[0].isfinite().all()
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_what_is_prepared_once_launches_the_same() -> None:
    case = Case("decode", ((1, 300), (5, 40), (40, 60)), num_heads=4, num_kv_heads=2)
    inputs = make_inputs(case, DEVICE)
    tensors = (inputs.query, inputs.keys, inputs.values, inputs.page_table)
    expected = paged_attention(*tensors, inputs.work(), scale=case.scale)
    heads = (case.num_heads, case.num_kv_heads, case.head_dim)
    prepared = prepare_attention(
        *heads, case.page_size, case.dtype, inputs.query.device, scale=case.scale
    )
    out = torch.full_like(expected, torch.nan)
    launch_attention(prepared, *tensors, inputs.work(), out)
    assert_same_bits(out, expected)


def test_wide_groups_take_their_short_tiles_in_parts() -> None:
    prepared = prepare_attention(64, 1, 128, 16, torch.bfloat16, DEVICE, scale=1.0)
    assert tile_shape(64).short == 64
    assert prepared.short_constants["BLOCK_M"] == 16
    assert prepared.short_constants["TILE_PARTS"] == prepared.short_jobs == 4
    assert prepared.short_programs <= 32 * processors(DEVICE).count
