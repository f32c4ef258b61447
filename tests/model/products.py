"""Weights and rows for tests of products, and what exact arithmetic makes of them."""

import math

import torch

from radixserve.model.linear_int4 import quantise_int4
from radixserve.model.linear_int8 import quantise_int8
from radixserve_kernels.linear.reference import weight_of_int4, weight_of_int8

DTYPES = (torch.float32, torch.bfloat16)
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
"""Of a result relative to the greatest: half a unit in bfloat16's last place, and the sums' own."""


def weight_of(out: int, ins: int, dtype: torch.dtype, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, ins, generator=generator) / math.sqrt(ins)
    # Outputs of different sizes, as trained ones are, and off centre.
    weight = weight.mul(torch.linspace(0.2, 3.0, out).unsqueeze(1)).add(0.01)
    return weight.to(dtype)


def rows_of(count: int, ins: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, ins, generator=torch.Generator().manual_seed(count)).to(dtype)


def bias_of(out: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.linspace(-1, 1, out).to(dtype)


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.mm(x.double(), weight.double().T)
    return product if bias is None else product + bias.double()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    assert found.is_contiguous()
    return float((found.double() - expected).abs().max() / expected.abs().max())


def int8_weight(weight: torch.Tensor) -> torch.Tensor:
    return weight_of_int8(*quantise_int8(weight))


def int4_weight(weight: torch.Tensor) -> torch.Tensor:
    return weight_of_int4(*quantise_int4(weight))
