"""The keys and values of every page and layer: one tensor, carved into views once.

    storage   [num_layers, 2 (keys, values), num_pages, page_size, num_kv_heads, head_dim]
    layers[i] keys and values of layer i, each [num_pages, page_size, num_kv_heads, head_dim]

Who may write which page is the cache's business; here a page is an index. Fresh pages hold garbage.
The memory is reserved at once but, on a CPU, taken only as pages are first written.
"""

from collections.abc import Sequence

import torch

from radixserve.cache.prefix_cache import PageCopy


def bytes_per_page(
    *, num_layers: int, page_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype
) -> int:
    """Bytes of one page in all layers, keys and values."""
    return num_layers * 2 * page_size * num_kv_heads * head_dim * dtype.itemsize


class KVTensors:
    """Owns the storage of all pages."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_pages: int,
        page_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_layers, 2, num_pages, page_size, num_kv_heads, head_dim)
        self._storage = torch.empty(shape, dtype=dtype, device=device)
        self.num_pages = num_pages
        self.page_size = page_size
        self.layers: tuple[tuple[torch.Tensor, torch.Tensor], ...] = tuple(
            (layer[0], layer[1]) for layer in self._storage
        )
        """Per layer: keys and values, views of the storage."""

    @property
    def num_bytes(self) -> int:
        return self._storage.nbytes

    def copy_pages(self, copies: Sequence[PageCopy]) -> None:
        """Perform a step's page copies, in all layers. No page may be both source and target.

        *Mutates* the target pages. *Cost*: reads and writes each page once, and a page of scratch.
        """
        if not copies:
            return
        device = self._storage.device
        sources = torch.tensor([copy.source for copy in copies], device=device)
        targets = torch.tensor([copy.target for copy in copies], device=device)
        self._storage.index_copy_(2, targets, self._storage.index_select(2, sources))
