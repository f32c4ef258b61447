"""Copies of keys and values laid out as those who attend to them want them.

Even keys that lie in one run are copied: when a layer's turn comes again, the model's weights have
swept the caches, and torch's fused attention and its matrix products, which read a head at a time,
take longer on cold memory than copying and attending to the warm copy do together (one row behind
1,024 keys: 168 us in place, 131 us by way of a copy).

Knows slots; knows no rows and no queries. Not thread-safe: a copy is valid until the next one.
"""

from dataclasses import dataclass

import torch

from radixserve.attention.scratch import Scratch
from radixserve.attention.step_plan import KeySet


@dataclass(frozen=True, slots=True)
class DenseKeys:
    """Keys and values with those of each head contiguous, as matrix products want them: torch
    copies any others into fresh memory on every call."""

    keys: torch.Tensor
    """[Hkv, L, W]; what its columns hold is ``product.py``'s to say, the first D are the keys."""
    values: torch.Tensor
    """[Hkv, L, D]."""


class KeyCopies:
    """Copies keys and values out of one layer's flat tensors, [num_slots, Hkv, D]."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._laid_out: tuple[torch.Size, int, torch.dtype] | None = None

    def by_slot(self, flat: torch.Tensor, keys: KeySet, name: str) -> torch.Tensor:
        """The keys (or values) in order, [length, Hkv, D], in scratch ``name``."""
        gathered = self._scratch.take(name, (keys.length, *flat.shape[1:]), flat.dtype)
        if keys.index is not None:
            return torch.index_select(flat, 0, keys.index, out=gathered)
        for run in keys.runs:
            gathered[run.first : run.first + run.length].copy_(
                flat[run.slot : run.slot + run.length]
            )
        return gathered

    def by_head(
        self, flat_keys: torch.Tensor, flat_values: torch.Tensor, keys: KeySet, width: int
    ) -> DenseKeys:
        """Both, head by head, the keys in rows of ``width``.

        As many times as D goes into the width, the columns repeat the keys; those left are 1.
        """
        _, num_heads, head_dim = flat_keys.shape
        k = self._scratch.take("keys", (num_heads, keys.length, width), flat_keys.dtype)
        v = self._scratch.take("values", (num_heads, keys.length, head_dim), flat_keys.dtype)
        num_copies, num_extra = divmod(width, head_dim)
        self._copy_by_head(flat_values, keys, v)
        for copy in range(num_copies):
            part = k[..., copy * head_dim : (copy + 1) * head_dim]
            if copy == 0:
                self._copy_by_head(flat_keys, keys, part)
            else:
                part.copy_(k[..., :head_dim])
        layout = (k.shape, k.data_ptr(), k.dtype)
        if num_extra and layout != self._laid_out:
            k[..., num_copies * head_dim :].fill_(1)
        # Nobody else writes there, so these columns still hold what the last layer's copy put.
        self._laid_out = layout
        return DenseKeys(k, v)

    def _copy_by_head(self, flat: torch.Tensor, keys: KeySet, out: torch.Tensor) -> None:
        if keys.index is not None:
            # Copied twice: one index_select along a strided dimension takes 500 times as long.
            out.copy_(self.by_slot(flat, keys, "by_slot").transpose(0, 1))
            return
        by_head = flat.transpose(0, 1)
        for run in keys.runs:
            out[:, run.first : run.first + run.length].copy_(
                by_head[:, run.slot : run.slot + run.length]
            )
