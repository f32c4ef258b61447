"""Small arrays between host and device: what a step needs to know, and what it found.

    put    host arrays ──one packed copy──▶ device tensors       returns at once
    fetch  device tensors ──▶ host tensors                        returns at once; ``wait`` waits

On a GPU both are queued behind the work queued before them, from and into pinned memory, so the
host never waits except in ``Fetch.wait``, which waits for that fetch and nothing later. Pinned
memory is torch's to reuse: its allocator knows which copies are still under way.

On a CPU a tensor shares the memory of the array it was made from: whoever puts an array keeps it
unchanged while the tensors are in use.
"""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.generic]

_ALIGNMENT = 16
"""Bytes. Every array of a packed copy begins at a multiple of it, for kernels' sake."""


class Fetch(Protocol):
    """Tensors on their way to the host."""

    def wait(self) -> tuple[torch.Tensor, ...]:
        """The tensors, on the host, in the order given. May be called again."""
        ...


class Transfer(Protocol):
    """Moves arrays to one device and tensors back."""

    @property
    def device(self) -> torch.device: ...

    def put(self, *arrays: Array) -> tuple[torch.Tensor, ...]:
        """The arrays as tensors on the device, of the same shapes and dtypes."""
        ...

    def fetch(self, *tensors: torch.Tensor) -> Fetch:
        """Begin to copy tensors to the host. They may be changed by work queued after this."""
        ...


def make_transfer(device: torch.device) -> Transfer:
    """The transfer for a device: pinned and queued on a GPU, none at all on a CPU."""
    return CudaTransfer(device) if device.type == "cuda" else HostTransfer()


class HostTransfer:
    """Where host and device are one."""

    device = torch.device("cpu")

    def put(self, *arrays: Array) -> tuple[torch.Tensor, ...]:
        """Views of the arrays. *Cost*: no copy."""
        return tuple(torch.from_numpy(array) for array in arrays)

    def fetch(self, *tensors: torch.Tensor) -> "HostFetch":
        """The tensors themselves. *Cost*: no copy, so nobody may change them afterwards."""
        return HostFetch(tensors)


class HostFetch:
    """Nothing to wait for."""

    def __init__(self, tensors: tuple[torch.Tensor, ...]) -> None:
        self._tensors = tensors

    def wait(self) -> tuple[torch.Tensor, ...]:
        return self._tensors


class CudaTransfer:
    """Queued copies through pinned memory, on the device's current stream."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def put(self, *arrays: Array) -> tuple[torch.Tensor, ...]:
        """*Cost*: one copy for all of them, of their bytes; none is kept."""
        contiguous = [np.ascontiguousarray(array) for array in arrays]
        starts, size = [], 0
        for array in contiguous:
            starts.append(size)
            size += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        staged = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        packed = staged.numpy()
        for start, array in zip(starts, contiguous, strict=True):
            packed[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
        there = staged.to(self.device, non_blocking=True)
        return tuple(
            there[start : start + array.nbytes].view(_torch_dtype(array.dtype)).view(array.shape)
            for start, array in zip(starts, contiguous, strict=True)
        )

    def fetch(self, *tensors: torch.Tensor) -> "CudaFetch":
        """*Cost*: a copy each."""
        # Into pinned memory, since non_blocking from a GPU; waiting for the event makes it ours.
        copies = tuple(tensor.to("cpu", non_blocking=True) for tensor in tensors)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
        event.record(torch.cuda.current_stream(self.device))
        return CudaFetch(copies, event)


class CudaFetch:
    """Copies that an event tells the end of."""

    def __init__(self, tensors: tuple[torch.Tensor, ...], event: Any) -> None:
        self._tensors = tensors
        self._event = event

    def wait(self) -> tuple[torch.Tensor, ...]:
        self._event.synchronize()
        return self._tensors


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype=dtype)).dtype
