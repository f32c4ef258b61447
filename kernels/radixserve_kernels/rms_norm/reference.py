"""The meaning of the norm, written to be read: the kernel is tested against it.

    rms_norm(x)[t, i] = x[t, i] / sqrt(mean_j(x[t, j]^2) + eps) * weight[i]

Everything is computed and returned in float64. *Source*: arXiv 1910.07467.
"""

import torch


def rms_norm_reference(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The norm of ``x`` [T, hidden] by ``weight`` [hidden]. Returns float64 [T, hidden]."""
    exact = x.double()
    scale = (exact.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    return exact * scale * weight.double()


def add_rms_norm_reference(
    hidden: torch.Tensor, update: torch.Tensor, weight: torch.Tensor, eps: float
) -> torch.Tensor:
    """Add ``update`` to ``hidden``, both [T, hidden], and return the norm of the sum.

    The norm is of the sum as ``hidden``'s dtype holds it. Returns float64 [T, hidden].
    *Mutates* ``hidden``.
    """
    return rms_norm_reference(hidden.add_(update), weight, eps)
