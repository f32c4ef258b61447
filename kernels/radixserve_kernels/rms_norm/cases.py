"""Shapes of the norm that its test and its bench share."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class RmsNormCase:
    """One call: T rows of ``hidden`` elements."""

    num_tokens: int
    hidden: int


TEST_CASES = (
    RmsNormCase(0, 64),
    RmsNormCase(1, 64),
    RmsNormCase(3, 96),
    RmsNormCase(5, 1_000),
    RmsNormCase(130, 96),
    RmsNormCase(3, 5_120),
    RmsNormCase(1, 16_384),
    # Longer than a program keeps in registers, and no multiple of what it takes at a time.
    RmsNormCase(3, 20_001),
)

# Hidden sizes of Qwen3-0.6B, Llama-3.2-1B, Qwen3-8B and Llama-3.1-8B (the same), Qwen3-32B.
BENCH_CASES = tuple(
    RmsNormCase(num_tokens, hidden)
    for hidden in (1_024, 2_048, 4_096, 5_120)
    for num_tokens in (1, 64, 8_192)
)


@dataclass(frozen=True, slots=True)
class RmsNormInputs:
    """Random tensors of a case."""

    hidden: torch.Tensor
    """[T, hidden]"""
    update: torch.Tensor
    """[T, hidden]"""
    weight: torch.Tensor
    """[hidden]"""


def make_inputs(
    case: RmsNormCase, dtype: torch.dtype, device: torch.device, *, seed: int = 0
) -> RmsNormInputs:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    shape = (case.num_tokens, case.hidden)
    return RmsNormInputs(
        torch.randn(shape, generator=generator).to(device, dtype),
        torch.randn(shape, generator=generator).to(device, dtype),
        (1.0 + 0.2 * torch.randn(case.hidden, generator=generator)).to(device, dtype),
    )
