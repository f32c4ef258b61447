"""One step's forward and backward pass: from a batch to gradients.

Knows nothing of plans, files or optimizers. Layers are compiled one by one, as they are all alike:
a length of rows costs some seconds the first time. The output product takes the positions that
count and no others: for all of them it would be nearly half of a step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from radixserve.demo.batches import Batch
from radixserve.demo.network import Network


@dataclass(frozen=True, slots=True)
class Losses:
    """Nats a token, in the mean: scalars on the device."""

    answers: Tensor
    text: Tensor


class Learner:
    """The forward and backward pass of one network, compiled or not."""

    def __init__(self, network: Network, *, is_compiled: bool) -> None:
        self._network = network
        self._layers: list[Callable[..., Tensor]] = list(network.layers)
        self._losses = _losses
        if is_compiled:
            self._layers = [torch.compile(layer, dynamic=False) for layer in network.layers]
            self._losses = torch.compile(_losses, dynamic=True)

    def __call__(self, batch: Batch, device: str) -> Losses:
        """Add the gradient of the loss to the parameters'."""
        ids, positions, targets, weights, is_answer = (
            torch.from_numpy(part).to(device)
            for part in (
                batch.ids,
                batch.positions,
                batch.targets,
                batch.weights,
                batch.is_answer,
            )
        )
        hidden = self._network.hidden(ids, self._layers)
        chosen = hidden.flatten(0, 1)[positions]
        losses = self._losses(chosen, self._network.embedding, targets)
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has not typed it
        with torch.no_grad():
            is_text = (weights > 0) & ~is_answer
            return Losses(_mean(losses, is_answer), _mean(losses, is_text))


def _losses(chosen: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
    logits = functional.linear(chosen, embedding.to(chosen.dtype)).float()
    return functional.cross_entropy(logits, targets, reduction="none")


def _mean(losses: Tensor, mask: Tensor) -> Tensor:
    return (losses * mask).sum() / mask.sum().clamp(min=1)
