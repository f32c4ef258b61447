"""KV tensors: views of one storage, and page copies in all layers."""

import torch

from radixserve.cache.prefix_cache import PageCopy
from radixserve.ids import PageId
from radixserve.runner.kv_tensors import KVTensors, bytes_per_page


def make(num_pages: int = 6) -> KVTensors:
    return KVTensors(
        num_layers=2,
        num_pages=num_pages,
        page_size=3,
        num_kv_heads=2,
        head_dim=4,
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
    )


def test_layers_are_contiguous_views_of_the_stated_size() -> None:
    kv = make()
    assert [tensor.shape for layer in kv.layers for tensor in layer] == [(6, 3, 2, 4)] * 4
    assert all(tensor.is_contiguous() for layer in kv.layers for tensor in layer)
    page = bytes_per_page(
        num_layers=2, page_size=3, num_kv_heads=2, head_dim=4, dtype=torch.bfloat16
    )
    assert kv.num_bytes == 6 * page == 6 * 2 * 2 * 3 * 2 * 4 * 2


def test_copies_reach_every_layer_and_no_other_page() -> None:
    kv = make()
    for number, tensor in enumerate(tensor for layer in kv.layers for tensor in layer):
        tensor.copy_(torch.arange(6)[:, None, None, None] + 10 * number)
    # One source for two targets, as forks of one prompt have it.
    copies = [(1, 4), (1, 0), (5, 2)]
    kv.copy_pages([PageCopy(PageId(source), PageId(target)) for source, target in copies])
    for number, tensor in enumerate(tensor for layer in kv.layers for tensor in layer):
        expected = [page + 10 * number for page in (1, 1, 5, 3, 1, 5)]
        assert tensor[:, 0, 0, 0].tolist() == expected
        assert (tensor == tensor[:, :1, :1, :1]).all()
    kv.copy_pages(())
