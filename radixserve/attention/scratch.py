"""Buffers that outlive a call, because on a CPU a fresh one costs more than what is put into it.

A large ``torch.empty`` is an mmap; its first touch faults in every page, which takes longer than
copying the same bytes. So each named buffer is allocated once, grows geometrically, and is handed
out again and again. A buffer's contents are garbage: whoever takes it writes before reading.

Forbidden: taking a name again while the tensor handed out before is still in use.
"""

from math import prod

import torch


class Scratch:
    """Named, reusable, growing buffers of one dtype each."""

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A contiguous uninitialised tensor of ``shape``, valid until ``name`` is taken again.

        *Mutates*: the first so many elements of the buffer ``name`` change owner.
        *Cost*: O(1), except that a buffer too small is replaced by one of at least twice its size.
        """
        size = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.dtype != dtype:
            kept = buffer.numel() if buffer is not None and buffer.dtype == dtype else 0
            # A tensor born in inference mode could not be written outside of it later.
            with torch.inference_mode(False):
                buffer = torch.empty(max(size, 2 * kept), dtype=dtype)
            self._buffers[name] = buffer
        return buffer[:size].view(shape)
