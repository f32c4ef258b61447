"""Casts inside kernels round as torch's do, under the interpreter too."""

import pytest
import torch
import triton
import triton.language as tl

from radixserve_kernels.rounding.kernel import narrow
from tests.kernels.judging import DEVICE


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]  # Triton has no types
def cast_kernel(out_ptr, x_ptr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, narrow(tl.load(x_ptr + at), out_ptr.dtype.element_ty))


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    out = torch.full(x.shape, torch.nan, dtype=dtype, device=DEVICE)
    cast_kernel[(1,)](out, x.to(DEVICE), BLOCK=len(x), enable_fp_fusion=True)
    return out.cpu()


def bit_patterns(count: int) -> torch.Tensor:
    """Float32 numbers of every kind: random bits, ties, carries, infinities, NaN, subnormals."""
    generator = torch.Generator().manual_seed(0)
    named = [0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF]
    named += [0x00000001, 0x00008000, 0x00018000, 0x007FFFFF, 0x3F808000, 0x3F818000, 0x3F808001]
    named += [0x3FFFFFFF, 0x3F7FFFFF, 0x7F7FFFFF, 0xBF807FFF]
    random = torch.randint(0, 1 << 32, (count - len(named),), generator=generator)
    bits = torch.cat((torch.tensor(named), random))
    return torch.where(bits < 1 << 31, bits, bits - (1 << 32)).int().view(torch.float32)


def test_bfloat16_is_rounded_to_the_nearest_and_ties_to_even() -> None:
    x = bit_patterns(4096)
    ours, theirs = cast(x, torch.bfloat16), x.bfloat16()
    numbers = ~x.isnan()
    assert torch.equal(ours[numbers].view(torch.int16), theirs[numbers].view(torch.int16))
    assert ours[~numbers].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_types_are_rounded_as_torch_rounds(dtype: torch.dtype) -> None:
    # None so large that float16 does not hold it.
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 10.0
    assert torch.equal(cast(x, dtype), x.to(dtype))
