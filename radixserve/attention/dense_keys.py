"""Keys and values laid out as matrix products want them: those of each head in one block of memory.

Even keys that lie in one run are copied: torch clones operands that are not contiguous on every
call, into fresh memory.

Knows page tables; knows no rows and no queries. Not thread-safe: a copy is valid until the next
one.
"""

from dataclasses import dataclass

import torch

from radixserve.attention.scratch import Scratch
from radixserve_kernels.paged_attention.cpu_gather import gather_by_head


@dataclass(frozen=True, slots=True)
class DenseKeys:
    """Keys and values with those of each head contiguous."""

    keys: torch.Tensor
    """[Hkv, L, W]; what its columns hold is ``product.py``'s to say, the first D are the keys."""
    values: torch.Tensor
    """[Hkv, L, D]."""


class KeyCopies:
    """Copies keys and values out of one layer's pages, [num_pages, P, Hkv, D]."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._laid_out: tuple[torch.Size, int, torch.dtype] | None = None

    def by_head(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        pages: torch.Tensor,
        first_key: int,
        end_key: int,
        width: int,
    ) -> DenseKeys:
        """Keys ``[first_key, end_key)`` of the row with these pages (int32[n]), in rows of
        ``width``.

        As many times as D goes into the width, the columns repeat the keys; those left are 1.
        """
        _, _, num_heads, head_dim = keys.shape
        length = end_key - first_key
        k = self._scratch.take("keys", (num_heads, length, width), keys.dtype)
        v = self._scratch.take("values", (num_heads, length, head_dim), keys.dtype)
        gather_by_head(keys, values, pages, first_key, k, v)
        num_copies, num_extra = divmod(width, head_dim)
        layout = (k.shape, k.data_ptr(), k.dtype)
        if num_extra and layout != self._laid_out:
            k[..., num_copies * head_dim :].fill_(1)
        # Nobody else writes there, so these columns still hold what the last layer's copy put.
        self._laid_out = layout
        return DenseKeys(k, v)
