"""The meaning of the gated activation, written to be read: the kernel is tested against it.

    out[t, i] = g / (1 + exp(-g)) * gate_up[t, inner + i]        with g = gate_up[t, i]

Everything is computed and returned in float64. *Source*: arXiv 2002.05202 (SwiGLU).
"""

import torch


def silu_mul_reference(gate_up: torch.Tensor) -> torch.Tensor:
    """From [T, 2 * inner], gate first, to float64 [T, inner]."""
    gate, up = gate_up.double().chunk(2, dim=-1)
    return gate / (1.0 + torch.exp(-gate)) * up
