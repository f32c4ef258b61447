"""Shapes of the gated activation that its test and its bench share."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class SiluMulCase:
    """One call: T rows of ``inner`` gates and as many factors."""

    num_tokens: int
    inner: int


TEST_CASES = (
    SiluMulCase(0, 96),
    SiluMulCase(1, 96),
    SiluMulCase(5, 1_001),
    SiluMulCase(130, 96),
    SiluMulCase(3, 11_008),
)

# Inner sizes of Qwen3-0.6B, Llama-3.2-1B, Qwen3-8B, Llama-3.1-8B.
BENCH_CASES = tuple(
    SiluMulCase(num_tokens, inner)
    for inner in (3_072, 8_192, 12_288, 14_336)
    for num_tokens in (1, 64, 8_192)
)


def make_gate_up(
    case: SiluMulCase, dtype: torch.dtype, device: torch.device, *, seed: int = 0
) -> torch.Tensor:
    """Random [T, 2 * inner]: the same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    return (3.0 * torch.randn(case.num_tokens, 2 * case.inner, generator=generator)).to(
        device, dtype
    )
