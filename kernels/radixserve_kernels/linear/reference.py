"""The meaning of the products, written to be read: kernels are tested against it.

    out[t, o] = sum_i x[t, i] * weight[o, i] + bias[o]

    8 bits: weight[o, i] = bytes[o, i] * scales[o]
    4 bits: weight[o, i] = (half - 8) * scale + zero, with (scale, zero) = scales[o, i // 32]; of
            the 16 bytes of 32 inputs the lower halves are the first 16, the upper ones the others

Everything is computed and returned in float64.
"""

import torch

GROUP = 32
"""Inputs that share a scale and a zero, in 4 bits."""


def linear_reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """``x``: [T, in], ``weight``: [out, in], ``bias``: [out]. Returns float64[T, out]."""
    product = x.double() @ weight.double().T
    return product if bias is None else product + bias.double()


def weight_of_int8(quantised: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """From int8[out, in] and [out] to float64[out, in]."""
    return quantised.double() * scales.double().unsqueeze(1)


def weight_of_int4(packed: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """From uint8[out, in / 2] and [out, in / 32, 2] to float64[out, in]."""
    num_outputs, num_groups, _ = scales.shape
    bytes_ = packed.view(num_outputs, num_groups, GROUP // 2)
    halves = torch.cat((bytes_ & 15, bytes_ >> 4), dim=-1).double()
    scale, zero = scales.double().unsqueeze(-2).unbind(-1)
    return ((halves - 8) * scale + zero).view(num_outputs, num_groups * GROUP)
