"""The host tier's memory, and the moves of pages between it and the device pool.

    pages    [num_slots, num_layers, 2 (keys, values), page_size, num_kv_heads, head_dim]
    buffer   [num_slots, page_bytes] uint8: the same memory, for whoever writes it to files

A page lies in one piece here, where the device pool has a piece of it in each layer. Which slot
holds what, and who may touch it when, is ``tiers/``' business; here a slot is an index.

On a CPU the moves are made when they are asked for, page by page: gathering many pages first costs
a second pass over them. With 12 layers of 4 heads of 64 in bfloat16 (196,608 bytes a page) and two
threads: 7 to 21 us a page stored, 8 to 15 us loaded, for 1 to 256 pages at once; gathered by
``index_select``, 37 to 109 us. The memory is taken only as slots are first written.

On a GPU the memory is page-locked, all of it at once, and ``cuda_moves.py`` queues the copies.
"""

import time
import weakref
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from radixserve.device.transfer import Transfer
from radixserve.errors import ConfigError
from radixserve.runner.cuda_moves import CudaMover, CudaQueues
from radixserve.runner.kv_tensors import KVTensors
from radixserve.tiers.moves import Moves

_GIB = 1 << 30


class Moving(Protocol):
    """A step's moves, under way."""

    def wait(self) -> float:
        """How long they took, in seconds. Blocks until all of them are done. May be called
        again."""
        ...


class Mover(Protocol):
    """Copies pages between the pool and the slots."""

    def perform(self, moves: Moves) -> Moving:
        """Begin all stores, then all loads. To be called in every launch, before its other work,
        also with no moves. *Mutates* both memories."""
        ...


class HostPages:
    """Owns the memory of all slots."""

    def __init__(self, num_slots: int, kv: KVTensors, transfer: Transfer) -> None:
        """For the pages of ``kv``, on the device of ``transfer``.

        *Raises* ``ConfigError`` if the machine does not give the memory. *Cost*: on a GPU all of it
        is taken and locked, on a CPU none.
        """
        storage = kv.storage
        page_shape = (*storage.shape[:2], *storage.shape[3:])
        num_bytes = num_slots * storage.nbytes // kv.num_pages
        is_on_gpu = transfer.device.type == "cuda"
        try:
            memory = torch.empty(num_bytes, dtype=torch.uint8)
            if is_on_gpu:
                self._lock(memory)
        except RuntimeError as error:
            raise ConfigError(
                f"the host cache, {num_bytes / _GIB:.2f} GiB"
                f"{' of page-locked memory' if is_on_gpu else ''}, cannot be had from this "
                f"machine: {error}; lower host_cache_gib"
                f"{', or raise the limit of locked memory (ulimit -l)' if is_on_gpu else ''}"
            ) from error
        pages = memory.view(storage.dtype).view(num_slots, *page_shape)
        self.buffer: npt.NDArray[np.uint8] = memory.numpy().reshape(num_slots, -1)
        """uint8[num_slots, page_bytes]. Read or written only while no move touches the slot."""
        self._mover: Mover = (
            CudaMover(storage, pages, transfer, CudaQueues(transfer.device))
            if is_on_gpu
            else HostMover(storage, pages)
        )

    def perform(self, moves: Moves) -> Moving:
        """Begin a step's moves, behind all work queued so far: first the stores, then the loads.

        The loads may still be under way while the step's own work runs, which therefore must not
        touch their pages; the next step's work waits for them. So this is called in every launch,
        first of all, whether it has moves or not.

        *Mutates* the target slots and pages. *Cost*: on a CPU, that of the copies.
        """
        slots = [store.slot for store in moves.stores]
        pages = [load.page for load in moves.loads]
        assert len(set(slots)) == len(slots), f"a slot is the target of two stores: {moves}"
        assert len(set(pages)) == len(pages), f"a page is the target of two loads: {moves}"
        assert set(slots).isdisjoint(load.slot for load in moves.loads), (
            f"a slot is source and target: {moves}"
        )
        return self._mover.perform(moves)

    def _lock(self, memory: torch.Tensor) -> None:
        """Page-lock memory until this object is gone. *Raises* ``RuntimeError``.

        Not by ``pin_memory``: torch's allocator rounds what it locks up to a power of two.
        """
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's own
        status = runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
        torch.cuda.check_error(status)
        weakref.finalize(self, _unlock, memory)


def _unlock(memory: torch.Tensor) -> None:
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]  # torch's own
    runtime.cudaHostUnregister(memory.data_ptr())


class HostMover:
    """Where the pool is in host memory, too: a move has been made when ``perform`` returns."""

    def __init__(self, storage: torch.Tensor, pages: torch.Tensor) -> None:
        self._storage = storage
        self._pages = pages

    def perform(self, moves: Moves) -> "Moved":
        if not moves:
            return NOTHING_MOVED
        begun_s = time.perf_counter()
        for store in moves.stores:
            self._pages[store.slot].copy_(self._storage[:, :, store.page])
        for load in moves.loads:
            self._storage[:, :, load.page].copy_(self._pages[load.slot])
        return Moved(time.perf_counter() - begun_s)


class Moved:
    """Moves that are done."""

    def __init__(self, moved_s: float) -> None:
        self._moved_s = moved_s

    def wait(self) -> float:
        return self._moved_s


NOTHING_MOVED = Moved(0.0)
