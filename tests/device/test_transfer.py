"""What goes to the device arrives, and what comes back is what was there."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from radixserve.device.transfer import CudaTransfer, HostTransfer, Transfer, make_transfer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def arrays() -> list[npt.NDArray[Any]]:
    rng = np.random.default_rng(0)
    return [
        rng.integers(-(2**60), 2**60, 7),
        rng.integers(-(2**30), 2**30, (3, 5), dtype=np.int32),
        np.empty(0, dtype=np.int64),
        rng.random(3, dtype=np.float32),
        rng.integers(-(2**30), 2**30, (4, 6), dtype=np.int32)[:, ::2],
        rng.random((2, 2, 2)),
        rng.integers(0, 255, 5, dtype=np.uint8),
    ]


def check(transfer: Transfer) -> None:
    sent = arrays()
    there = transfer.put(*sent)
    for array, tensor in zip(sent, there, strict=True):
        assert tensor.device.type == transfer.device.type
        assert tensor.shape == array.shape
        np.testing.assert_array_equal(tensor.cpu().numpy(), array)
    fetch = transfer.fetch(*there)
    for array, tensor in zip(sent, fetch.wait(), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
    assert all(map(torch.equal, fetch.wait(), fetch.wait()))
    assert transfer.fetch().wait() == ()


def test_on_the_host_nothing_is_copied() -> None:
    transfer = make_transfer(torch.device("cpu"))
    assert isinstance(transfer, HostTransfer)
    check(transfer)
    array = np.arange(4)
    (tensor,) = transfer.put(array)
    array[2] = 9
    assert tensor.tolist() == [0, 1, 9, 3]


@needs_gpu
def test_on_a_gpu() -> None:
    transfer = make_transfer(torch.device("cuda"))
    assert isinstance(transfer, CudaTransfer)
    check(transfer)


@needs_gpu
def test_a_fetch_keeps_what_was_there_when_it_was_queued() -> None:
    transfer = make_transfer(torch.device("cuda"))
    tensor = torch.arange(5, device="cuda")
    fetch = transfer.fetch(tensor)
    tensor.zero_()
    assert fetch.wait()[0].tolist() == [0, 1, 2, 3, 4]


def test_the_packed_copy_is_cut_where_it_was_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packing without a GPU: pinned memory is plain, and the device is this one."""
    real = torch.empty

    def empty(size: int, *, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        assert pin_memory, "the copy would wait"
        return real(size, dtype=dtype)

    monkeypatch.setattr(torch, "empty", empty)
    sent = arrays()
    for array, tensor in zip(sent, CudaTransfer(torch.device("cpu")).put(*sent), strict=True):
        assert tensor.data_ptr() % 16 == 0
        np.testing.assert_array_equal(tensor.numpy(), array)
