"""KV tensors: views of one storage, and page copies in all layers, by torch and by the kernel."""

from collections.abc import Sequence

import pytest
import torch

from radixserve.cache.prefix_cache import PageCopy
from radixserve.device.transfer import HostTransfer, make_transfer
from radixserve.ids import PageId
from radixserve.runner.kv_tensors import KVTensors, bytes_per_page
from radixserve_kernels import target

KERNEL_DEVICE = torch.device("cpu" if target.INTERPRETED else "cuda")


def make(num_pages: int = 6, *, use_kernel: bool = False) -> KVTensors:
    return KVTensors(
        num_layers=2,
        num_pages=num_pages,
        page_size=3,
        num_kv_heads=2,
        head_dim=4,
        dtype=torch.bfloat16,
        transfer=make_transfer(KERNEL_DEVICE) if use_kernel else HostTransfer(),
        use_kernel=use_kernel,
    )


def page_copies(pairs: Sequence[tuple[int, int]]) -> list[PageCopy]:
    return [PageCopy(PageId(source), PageId(target)) for source, target in pairs]


def test_layers_are_contiguous_views_of_the_stated_size() -> None:
    kv = make()
    assert [tensor.shape for layer in kv.layers for tensor in layer] == [(6, 3, 2, 4)] * 4
    assert all(tensor.is_contiguous() for layer in kv.layers for tensor in layer)
    page = bytes_per_page(
        num_layers=2, page_size=3, num_kv_heads=2, head_dim=4, dtype=torch.bfloat16
    )
    assert kv.num_bytes == 6 * page == 6 * 2 * 2 * 3 * 2 * 4 * 2


@pytest.mark.parametrize("use_kernel", [False, True], ids=["torch", "kernel"])
def test_copies_reach_every_layer_and_no_other_page(use_kernel: bool) -> None:
    kv = make(use_kernel=use_kernel)
    for number, tensor in enumerate(tensor for layer in kv.layers for tensor in layer):
        tensor.copy_(torch.arange(6)[:, None, None, None] + 10 * number)
    # One source for two targets, as forks of one prompt have it.
    kv.copy_pages(page_copies([(1, 4), (1, 0), (5, 2)]))
    for number, tensor in enumerate(tensor for layer in kv.layers for tensor in layer):
        expected = [page + 10 * number for page in (1, 1, 5, 3, 1, 5)]
        assert tensor[:, 0, 0, 0].tolist() == expected
        assert (tensor == tensor[:, :1, :1, :1]).all()


@pytest.mark.parametrize("use_kernel", [False, True], ids=["torch", "kernel"])
def test_a_step_without_copies_does_nothing(
    use_kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kv = make(use_kernel=use_kernel)

    def never(*arguments: object) -> None:
        pytest.fail("nothing to copy, yet something was moved")

    monkeypatch.setattr(kv, "_copy", never)
    monkeypatch.setattr(kv, "_transfer", None)
    kv.copy_pages(())


@pytest.mark.parametrize("use_kernel", [False, True], ids=["torch", "kernel"])
def test_copies_that_could_race_are_refused(use_kernel: bool) -> None:
    kv = make(use_kernel=use_kernel)
    before = [tensor.clone() for layer in kv.layers for tensor in layer]
    with pytest.raises(AssertionError, match="source and target"):
        kv.copy_pages(page_copies([(1, 4), (4, 2)]))
    with pytest.raises(AssertionError, match="source and target"):
        kv.copy_pages(page_copies([(3, 3)]))
    with pytest.raises(AssertionError, match="target of two copies"):
        kv.copy_pages(page_copies([(1, 4), (2, 4)]))
    after = [tensor for layer in kv.layers for tensor in layer]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.view(torch.int16), new.view(torch.int16))
