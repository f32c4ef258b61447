"""The keys and values of every page and layer: one tensor, carved into views once.

    storage   [num_layers, 2 (keys, values), num_pages, page_size, num_kv_heads, head_dim]
    layers[i] keys and values of layer i, each [num_pages, page_size, num_kv_heads, head_dim]

Who may write which page is the cache's business; here a page is an index. Fresh pages hold garbage.
The memory is reserved at once but, on a CPU, taken only as pages are first written.

A step's page copies are one launch of a kernel where kernels are asked for, and torch's otherwise.
Both may perform them in any order, so the list is checked here, where it still is on the host.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from radixserve.cache.prefix_cache import PageCopy
from radixserve.device.transfer import Transfer
from radixserve_kernels.page_copy.reference import page_copy_reference


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
        transfer: Transfer,
        use_kernel: bool,
    ) -> None:
        """On the device of ``transfer``, which also takes the copies' page numbers there.

        ``use_kernel``: pages are copied by the Triton kernel, which must run on that device.
        """
        shape = (num_layers, 2, num_pages, page_size, num_kv_heads, head_dim)
        self.storage = torch.empty(shape, dtype=dtype, device=transfer.device)
        """[num_layers, 2, num_pages, page_size, num_kv_heads, head_dim]."""
        self._transfer = transfer
        self._copy = _copy_kernel() if use_kernel else page_copy_reference
        self.num_pages = num_pages
        self.page_size = page_size
        self.layers: tuple[tuple[torch.Tensor, torch.Tensor], ...] = tuple(
            (layer[0], layer[1]) for layer in self.storage
        )
        """Per layer: keys and values, views of the storage."""

    @property
    def num_bytes(self) -> int:
        return self.storage.nbytes

    def copy_pages(self, copies: Sequence[PageCopy]) -> None:
        """Perform a step's page copies, in all layers, without waiting for the device.

        No page may be both source and target, none twice a target.
        *Mutates* the target pages. *Cost*: the kernel reads and writes each page once; torch does
        so twice, through scratch of a page a copy. No copy, no work.
        """
        if not copies:
            return
        sources = np.array([copy.source for copy in copies], dtype=np.int64)
        targets = np.array([copy.target for copy in copies], dtype=np.int64)
        distinct = set(targets.tolist())
        assert len(distinct) == len(copies), f"a page is the target of two copies: {copies}"
        assert distinct.isdisjoint(sources.tolist()), f"a page is source and target: {copies}"
        self._copy(self.storage, *self._transfer.put(sources, targets))


def _copy_kernel() -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]:
    # Here, because Triton is not everywhere: torch's builds for CPUs come without it.
    from radixserve_kernels.page_copy.kernel import page_copy  # noqa: PLC0415

    return page_copy
