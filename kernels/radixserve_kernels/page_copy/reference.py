"""The meaning of a step's page copies, and the CPU's way to perform them."""

import torch


def page_copy_reference(
    storage: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor
) -> None:
    """Page ``sources[i]`` to page ``targets[i]``, in all layers, keys and values.

    ``storage``: [num_layers, 2, num_pages, page_size, num_kv_heads, head_dim]; ``sources``,
    ``targets``: int64[n]. No page may be both a source and a target, none twice a target.
    *Mutates* the target pages. *Cost*: reads and writes each page twice, and n pages of scratch.
    """
    storage.index_copy_(2, targets, storage.index_select(2, sources))
