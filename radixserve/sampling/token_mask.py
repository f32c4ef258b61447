"""Which tokens may come next, as packed bits, and how they are put onto logits.

A mask has a bit per token: bit i of 32-bit word w is token ``32 * w + i``, set if it may come. In
memory, on the little-endian machines that this runs on, token ``8 * b + i`` is bit i of byte b, and
that is how a mask travels: V / 8 bytes, unpacked where the logits are.

Knows no grammar: whoever has a mask (``constraint.py``) is asked for it when it is applied, since
it may still be in the making.
"""

import sys
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

assert sys.byteorder == "little", "masks are read as bytes"

PackedMasks = npt.NDArray[np.uint8]

_MOST: npt.NDArray[np.float32] = np.where(
    np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1, bitorder="little"),
    np.float32(np.inf),
    np.float32(-np.inf),
)
"""What the logits of eight tokens may be at most, by their byte of a mask: float32[256, 8]."""


class TokenMask(Protocol):
    """A mask in the making."""

    def wait(self) -> npt.NDArray[np.uint32]:
        """The mask, when it is there: uint32[ceil(V / 32)]. Not to be changed or kept."""
        ...


def pack(masks: Sequence[TokenMask]) -> PackedMasks:
    """Several masks, at least one, waited for: uint8[R, 4 * ceil(V / 32)], memory of its own."""
    return np.stack([mask.wait() for mask in masks]).view(np.uint8)


def forbid(logits: torch.Tensor, packed: torch.Tensor) -> None:
    """Make every token that its row's mask lacks minus infinity. What is no number stays so.

    ``logits``: float32[R, V], *mutated*; ``packed``: uint8[R, B], 8 B >= V, on the same device.
    *Cost*: a pass over the logits, and 5 bytes for each of them. Never waits for the device.
    """
    num_rows, vocab_size = logits.shape
    bits = torch.arange(8, dtype=torch.uint8, device=packed.device)
    has = ((packed.unsqueeze(-1) >> bits) & 1).view(torch.bool)  # [R, B, 8]
    most = torch.where(has.view(num_rows, -1)[:, :vocab_size], torch.inf, -torch.inf)
    torch.minimum(logits, most, out=logits)


def forbid_on_host(logits: torch.Tensor, packed: PackedMasks) -> None:
    """The same on a CPU, in a tenth of the time. *Mutates* ``logits``."""
    num_rows, vocab_size = logits.shape
    most = np.take(_MOST, packed, axis=0).reshape(num_rows, -1)[:, :vocab_size]
    values: npt.NDArray[np.float32] = logits.numpy()
    # Of what is no number, the sampler is the judge.
    with np.errstate(invalid="ignore"):
        np.minimum(values, most, out=values)
