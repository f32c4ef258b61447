"""Puts a test's tensors where the kernels run: on the GPU, or on the CPU under the interpreter."""

import torch

from tests.kernels.judging import DEVICE


def on_device(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the device, with the same strides, in memory of its own and so aligned alike."""
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE
    ).copy_(tensor)
