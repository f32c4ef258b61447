"""Moves of pages between a GPU and page-locked host memory, queued: loads run beside a step's work.

    main   wait: B(n-1) | stores n | A | page copies, forward pass n | wait: B | stores n+1 ...
    side                       wait: A | loads n ────────────────| B |

Stores run on the main stream: they read what the steps before have left, and pages that they save
are overwritten right behind them. Loads run on a stream of their own, beside the step that they are
launched with, behind everything queued before it: the stores (whose pages the loads may be given)
and all steps that ever wrote these pages. The next launch waits for them, on the device, before its
first work: from there on the loaded pages are like any others. The host waits for ``B`` when the
step lands, so a slot is nobody's but the moves' until then.

Nothing here is recorded into a CUDA graph: a recording replays the forward pass alone.

*Unmeasured*: written without a GPU at hand. Its tests prove the order of the work and the bytes'
places on a stand-in for streams, not that copies overlap, nor their speed.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from radixserve.device.transfer import Transfer
from radixserve.tiers.moves import Load, Moves, Store

STAGED_BYTES = 32 << 20
"""Most device memory that one part of a step's stores, or of its loads, is gathered in; twice that
while the next part follows. It comes out of what ``runner/sizing.py`` leaves free."""

_T = TypeVar("_T")


class Queues(Protocol):
    """The streams of one device, or a test's stand-in. Streams and events are torch's."""

    @property
    def side(self) -> Any:
        """The stream beside the main one."""
        ...

    def main(self) -> Any:
        """The stream that steps run on."""
        ...

    def event(self) -> Any:
        """A new event that keeps the time."""
        ...

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Inside, work is queued on this stream."""
        ...


class CudaQueues:
    """Those of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.side: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own

    def main(self) -> Any:
        return torch.cuda.current_stream(self._device)

    def event(self) -> Any:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's own

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream)


class CudaMover:
    """Queues moves between a device's pool and page-locked slots."""

    def __init__(
        self, storage: torch.Tensor, pages: torch.Tensor, transfer: Transfer, queues: Queues
    ) -> None:
        """``storage``: ``KVTensors.storage``, on the device. ``pages``: the slots,
        [num_slots, num_layers, 2, page_size, num_kv_heads, head_dim], on the host, page-locked."""
        # [num_pages, num_layers, 2, page_size, num_kv_heads, head_dim], a view.
        self._pool = storage.permute(2, 0, 1, 3, 4, 5)
        self._slots = pages
        self._transfer = transfer
        self._queues = queues
        self._at_once = max(1, STAGED_BYTES // pages[0].nbytes)
        self._loaded: Any = None
        """The event behind the loads that the main stream has yet to wait for."""

    def perform(self, moves: Moves) -> "CudaMoving":
        """Queue the moves. If that fails, none is under way any more. *Cost*: a copy a page, and a
        kernel for many pages."""
        queues = self._queues
        main = queues.main()
        if self._loaded is not None:
            main.wait_event(self._loaded)
            self._loaded = None
        if not moves:
            return CudaMoving([])
        try:
            return self._queue(moves, main)
        except BaseException:
            for stream in (main, queues.side):
                self._mark(stream).synchronize()
            raise

    def _queue(self, moves: Moves, main: Any) -> "CudaMoving":
        begun = self._mark(main)
        self._store(moves.stores)
        stored = self._mark(main)
        if not moves.loads:
            return CudaMoving([(begun, stored)])
        side = self._queues.side
        side.wait_event(stored)
        with self._queues.on(side):
            loading = self._mark(side)
            self._load(moves.loads)
            self._loaded = self._mark(side)
        return CudaMoving([(begun, stored), (loading, self._loaded)])

    def _mark(self, stream: Any) -> Any:
        event = self._queues.event()
        event.record(stream)
        return event

    def _store(self, stores: Sequence[Store]) -> None:
        for some in _in_parts(stores, self._at_once):
            gathered = self._pool.index_select(0, self._index([store.page for store in some]))
            for store, page in zip(some, gathered, strict=True):
                self._slots[store.slot].copy_(page, non_blocking=True)

    def _load(self, loads: Sequence[Load]) -> None:
        for some in _in_parts(loads, self._at_once):
            gathered = self._pool.new_empty(len(some), *self._pool.shape[1:])
            for load, page in zip(some, gathered, strict=True):
                page.copy_(self._slots[load.slot], non_blocking=True)
            self._pool.index_copy_(0, self._index([load.page for load in some]), gathered)

    def _index(self, pages: Sequence[int]) -> torch.Tensor:
        (index,) = self._transfer.put(np.array(pages, dtype=np.int64))
        return index


class CudaMoving:
    """Moves that events tell the end of."""

    def __init__(self, spans: Sequence[tuple[Any, Any]]) -> None:
        """``spans``: (begin, end) of stretches of work, each behind the one before it."""
        self._spans = spans

    def wait(self) -> float:
        """Seconds on the device, stores and loads together."""
        if not self._spans:
            return 0.0
        self._spans[-1][1].synchronize()
        return float(sum(begin.elapsed_time(end) for begin, end in self._spans)) / 1e3


def _in_parts(moves: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(moves), size):
        yield moves[start : start + size]
