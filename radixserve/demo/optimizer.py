"""Muon for matrices, AdamW for everything else: how the demo model's weights are moved.

Muon replaces a matrix's (smoothed) gradient by the nearest orthogonal matrix, so that all its
directions move equally far. Matrices that the network keeps joined (query, key and value; gate and
up) are taken apart for it, and those of one shape are computed together.

    smoothed = momentum * smoothed + gradient
    update   = orthogonal(gradient + momentum * smoothed)
    weight  -= rate * (sqrt(max(1, rows / columns)) * update + decay * weight)

*Source*: Keller Jordan, https://kellerjordan.github.io/posts/muon/ (the iteration and its three
numbers); AdamW: https://arxiv.org/abs/1711.05101.

The state is a dictionary of tensors, by the parameters' names. Most of a step's arithmetic is the
iteration's products.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from radixserve.demo.network import Network, Shape

MOMENTUM = 0.95
BETAS = (0.9, 0.95)
ADAM_EPS = 1e-8
MAX_GRADIENT = 1.0
"""Longest gradient, all parameters taken together; a longer one is scaled down to it."""
_NUM_ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """About the nearest matrices whose singular values are all alike, float32[n, rows, columns].

    Singular values come out between about 0.7 and 1.2, which is near enough. Computed in ``dtype``.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    current = (matrices.transpose(1, 2) if tall else matrices).to(dtype)
    current = current / (current.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(dtype)
    for _ in range(_NUM_ITERATIONS):
        square = torch.bmm(current, current.transpose(1, 2))
        mixed = torch.baddbmm(square, square, square, beta=b, alpha=c)
        current = torch.baddbmm(current, mixed, current, beta=a)
    return (current.transpose(1, 2) if tall else current).float()


def parts(name: str, matrix: Tensor, shape: Shape) -> list[Tensor]:
    """The matrices that one parameter holds, as views of it."""
    if name.endswith("qkv"):
        own = shape.num_heads * shape.head_dim
        shared = shape.num_kv_heads * shape.head_dim
        return list(torch.split(matrix, [own, shared, shared]))
    return list(matrix.chunk(2)) if name.endswith("gate_up") else [matrix]


class Optimizer:
    """Moves the weights of one network. Mutable: its moments."""

    def __init__(
        self,
        network: Network,
        *,
        matrix_rate: float,
        other_rate: float,
        weight_decay: float,
        dtype: torch.dtype,
    ) -> None:
        """``dtype``: what Muon's products are computed in. bfloat16 is near enough, but forty times
        slower than float32 on a processor that does not multiply it."""
        self._shape = network.shape
        self._dtype = dtype
        self._rates = (matrix_rate, other_rate)
        self._weight_decay = weight_decay
        self._num_steps = 0
        self._matrices: dict[str, Tensor] = {}
        self._others: dict[str, Tensor] = {}
        for name, weight in network.named_parameters():
            is_matrix = weight.ndim == 2 and name != "embedding"
            (self._matrices if is_matrix else self._others)[name] = weight
        self._momentum = _zeros(self._matrices)
        self._means, self._squares = _zeros(self._others), _zeros(self._others)

    @torch.no_grad()
    def step(self, scale: float) -> float:
        """Move by the gradients, with the rates times ``scale``; returns how long the gradient was.

        *Mutates* the weights; frees the gradients.
        """
        weights = [*self._matrices.values(), *self._others.values()]
        length = torch.nn.utils.clip_grad_norm_(weights, MAX_GRADIENT)
        self._num_steps += 1
        self._move_matrices(self._rates[0] * scale)
        self._move_others(self._rates[1] * scale)
        for weight in weights:
            weight.grad = None
        return float(length)

    def _move_matrices(self, rate: float) -> None:
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for name, weight in self._matrices.items():
            assert weight.grad is not None, f"{name} has no gradient"
            smoothed = self._momentum[name].mul_(MOMENTUM).add_(weight.grad)
            ahead = weight.grad.add(smoothed, alpha=MOMENTUM)
            views = zip(
                parts(name, weight, self._shape), parts(name, ahead, self._shape), strict=True
            )
            for view, direction in views:
                by_shape.setdefault(view.shape, []).append((view, direction))
        for shape, pairs in by_shape.items():
            stacked = torch.stack([direction for _, direction in pairs])
            updates = orthogonal(stacked, dtype=self._dtype)
            stretch = max(1.0, shape[0] / shape[1]) ** 0.5
            for (view, _), update in zip(pairs, updates, strict=True):
                view.mul_(1 - rate * self._weight_decay)
                view.add_(update, alpha=-rate * stretch)

    def _move_others(self, rate: float) -> None:
        early, late = (1 - beta**self._num_steps for beta in BETAS)
        for name, weight in self._others.items():
            assert weight.grad is not None, f"{name} has no gradient"
            mean, square = self._means[name], self._squares[name]
            mean.lerp_(weight.grad, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(weight.grad, weight.grad, value=1 - BETAS[1])
            if weight.ndim == 2:
                weight.mul_(1 - rate * self._weight_decay)
            spread = (square / late).sqrt_().add_(ADAM_EPS)
            weight.addcdiv_(mean, spread, value=-rate / early)

    def state(self) -> dict[str, Any]:
        """What ``load`` takes: references to the tensors, not copies."""
        return {
            "num_steps": self._num_steps,
            "momentum": self._momentum,
            "means": self._means,
            "squares": self._squares,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state, of the same network. *Raises* ``KeyError`` if it is of
        another."""
        self._num_steps = state["num_steps"]
        for name in ("momentum", "means", "squares"):
            for parameter, tensor in getattr(self, f"_{name}").items():
                tensor.copy_(state[name][parameter])


def _zeros(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(weight) for name, weight in weights.items()}
