"""The threads between host memory and files: pages are written and read behind the engine's back.

    engine    --write(slot, key)-->  writes, in order  --one writer-->   files
    engine    --read(slot, key)--->  reads, in order   --two readers-->  host slots
    engine    <--take_done()-------  what has been done, with or without success

A thread touches the memory of the slot it was given, from the moment the job is handed in until its
``Done`` has been taken, and no other: the owner of the slots pins it for so long. That bounds the
queues too. A page that was read has been verified in its slot (``page_file.py``) when its ``Done``
comes with ``ok``; without it the slot holds anything.

Nothing here raises into the engine: a page that cannot be written is not kept, one that cannot be
read is computed. Every job ends in exactly one ``Done``, also when it is given up (``clear``,
``close``).

Costs: handing in a job and taking what is done some 2 µs each; no file system call is ever made in
the caller's thread, but by ``close`` and, a rename for each owner, by ``clear``.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_directory import PageDirectory
from radixserve.tiers.page_names import PageKey

logger = logging.getLogger(__name__)

_MAX_TOUCHED_PAGES = 2**16
"""Pages that wait to be touched: more are not, while the file system does not keep up."""


@dataclass(frozen=True, slots=True)
class Done:
    """The end of one job."""

    kind: Literal["read", "write"]
    slot: SlotId
    key: PageKey
    ok: bool
    """Read: the slot holds the page. Write: the file is there."""
    seconds: float
    """What the transfer took, without the time in the queue; 0 if it was given up."""
    cpu_seconds: float
    """For how much of that a core worked."""


@dataclass(slots=True, eq=False)
class _Job:
    kind: Literal["read", "write"]
    slot: SlotId
    key: PageKey
    is_cleared: bool = False


class DiskTier:
    """Moves pages between slots and files in threads of its own. Owns the directory.

    ``on_done`` is called by these threads each time that something is done: it must be quick and
    must not call back.
    """

    def __init__(
        self,
        directory: PageDirectory,
        buffer: npt.NDArray[np.uint8],
        *,
        num_readers: int = 2,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        """``buffer``: uint8[num_slots, page_bytes], the host slots' memory, C-contiguous."""
        assert buffer.ndim == 2
        assert buffer.shape[1] == directory.page_bytes
        assert buffer.flags.c_contiguous
        self.directory = directory
        self.on_done = on_done
        self._buffer = buffer
        lock = threading.Lock()
        self._lock = lock
        self._write_added = threading.Condition(lock)
        self._read_added = threading.Condition(lock)
        self._ended = threading.Condition(lock)
        self._writes: deque[_Job | tuple[PageKey, ...]] = deque()
        """To be written; and of pages used again, the keys (``touch``)."""
        self._num_touched_pages = 0
        """Of the latter."""
        self._reads: deque[_Job] = deque()
        self._running: list[_Job] = []
        self._num_under_way = 0
        """Jobs handed in that have not ended."""
        self._done: deque[Done] = deque()
        self._is_closing = False
        self._must_sweep = True
        """There may be files to delete."""
        self._threads = [
            threading.Thread(target=self._write_all, name="page-writer", daemon=True),
            *(
                threading.Thread(target=self._read_all, name=f"page-reader-{number}", daemon=True)
                for number in range(num_readers)
            ),
        ]
        for thread in self._threads:
            thread.start()

    def contains(self, owner: str, name: bytes) -> bool:
        """Whether there is a file of this name. *Cost*: O(1), no file is looked at."""
        return self.directory.contains(owner, name)

    def write(self, slot: SlotId, key: PageKey) -> None:
        """Keep the slot's page in a file. Its memory must not change until the ``Done``."""
        job = _Job("write", slot, key)
        with self._lock:
            self._num_under_way += 1
            if self._is_closing:
                self._end(job, ok=False)
                return
            self._writes.append(job)
            self._write_added.notify()

    def read(self, slot: SlotId, key: PageKey) -> None:
        """Bring a page into the slot, if its file is there, sound and the page of this identity.

        *Mutates* the slot's memory, until the ``Done``.
        """
        job = _Job("read", slot, key)
        with self._lock:
            self._num_under_way += 1
            if self._is_closing:
                self._end(job, ok=False)
                return
            self._reads.append(job)
            self._read_added.notify()

    def touch(self, keys: Sequence[PageKey]) -> None:
        """These pages of one prefix, first page first, have been of use: they go last, the first
        page last of all, since none is of use without those before it. Takes effect behind the
        writes handed in so far; none at all behind a file system that does not keep up."""
        with self._lock:
            keeps_up = self._num_touched_pages < _MAX_TOUCHED_PAGES
            if not self._is_closing and keys and keeps_up:
                self._num_touched_pages += len(keys)
                self._writes.append(tuple(keys))
                self._write_added.notify()

    def clear(self, owner: str | None) -> None:
        """Forget the pages of one owner, or all, those under way included: a job that was handed in
        before ends without success. *Cost*: O(all pages) in memory and a rename for each owner;
        a thread deletes the files."""
        with self._lock:
            queued = (job for job in (*self._writes, *self._reads) if isinstance(job, _Job))
            for job in (*queued, *self._running):
                if owner is None or job.key.owner == owner:
                    job.is_cleared = True
        self.directory.clear(owner)
        with self._lock:
            self._must_sweep = True
            self._write_added.notify()

    def slots(self) -> set[SlotId]:
        """Those of which a ``Done`` is still to be taken. *Cost*: O(jobs)."""
        with self._lock:
            queued = (job for job in (*self._writes, *self._reads) if isinstance(job, _Job))
            under_way = {job.slot for job in (*queued, *self._running)}
            return under_way | {done.slot for done in self._done}

    @property
    def num_under_way(self) -> int:
        """Jobs that have been handed in and have not ended."""
        return self._num_under_way

    @property
    def has_done(self) -> bool:
        """Whether ``take_done`` would return anything."""
        return bool(self._done)

    def take_done(self) -> list[Done]:
        """What has ended since the last call, in the order in which it did."""
        with self._lock:
            done = list(self._done)
            self._done.clear()
        return done

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until something can be taken; returns whether it can. Returns at once if it can
        already, or if nothing is under way that might end."""
        with self._lock:
            self._ended.wait_for(lambda: self._done or not self._num_under_way, timeout_s)
            return bool(self._done)

    def close(self, timeout_s: float) -> None:
        """Give up what is to be read, write what is to be written for so long, end the threads and
        close the directory. Idempotent. *Blocks* for ``timeout_s`` at most: a thread that the file
        system does not let go is left behind (it ends with the process), and so is the lock."""
        until_s = time.monotonic() + timeout_s
        with self._lock:
            self._is_closing = True
            for job in self._reads:
                self._end(job, ok=False)
            self._reads.clear()
            self._write_added.notify_all()
            self._read_added.notify_all()
            self._ended.wait_for(lambda: not self._num_under_way, timeout_s)
            dropped = [job for job in self._writes if isinstance(job, _Job)]
            for job in dropped:
                self._end(job, ok=False)
            self._writes.clear()
        if dropped:
            logger.warning("closing: %d pages were not written in time", len(dropped))
        for thread in self._threads:
            thread.join(max(until_s - time.monotonic(), 0.05))
        if not any(thread.is_alive() for thread in self._threads):
            self.directory.close()

    def _end(self, job: _Job, *, ok: bool, seconds: float = 0.0, cpu_seconds: float = 0.0) -> None:
        """Needs the lock."""
        self._num_under_way -= 1
        is_sound = ok and not job.is_cleared
        self._done.append(Done(job.kind, job.slot, job.key, is_sound, seconds, cpu_seconds))
        self._ended.notify_all()

    def _write_all(self) -> None:
        while True:
            with self._lock:
                self._write_added.wait_for(
                    lambda: self._writes or self._must_sweep or self._is_closing
                )
                job = self._writes.popleft() if self._writes else None
                if isinstance(job, _Job):
                    self._running.append(job)
                elif job is not None:
                    self._num_touched_pages -= len(job)
                else:
                    if self._is_closing:
                        return
                    self._must_sweep = False
            if isinstance(job, _Job):
                self._run(job)
            else:
                self._tidy(job)

    def _tidy(self, touched: tuple[PageKey, ...] | None) -> None:
        """Touch these pages; or, if nothing else is to be done, delete what was cleared."""
        try:
            if touched is not None:
                self.directory.touch(touched)
            # Bit by bit: pages to be written do not wait for thousands to be deleted, nor does
            # closing; what is left then goes after the next start.
            elif self.directory.sweep():
                with self._lock:
                    self._must_sweep = True
        except Exception:
            # As in ``_run``.
            logger.exception("the cache directory could not be tidied")

    def _read_all(self) -> None:
        while True:
            with self._lock:
                self._read_added.wait_for(lambda: self._reads or self._is_closing)
                if not self._reads:
                    return
                job = self._reads.popleft()
                self._running.append(job)
            self._run(job)

    def _run(self, job: _Job) -> None:
        page = self._buffer[job.slot]
        begun_s, begun_cpu_s = time.perf_counter(), time.thread_time()
        ok = False
        try:
            if not job.is_cleared:
                if job.kind == "read":
                    ok = self.directory.read(job.key, page)
                else:
                    ok = self.directory.write(job.key, page, lambda: not job.is_cleared)
        except Exception:
            # A thread that ends would leave jobs without a Done, and requests waiting for ever.
            logger.exception("a page could not be handled; it is computed again when needed")
        seconds = time.perf_counter() - begun_s
        cpu_seconds = time.thread_time() - begun_cpu_s
        with self._lock:
            self._running.remove(job)
            self._end(job, ok=ok, seconds=seconds, cpu_seconds=cpu_seconds)
        self.on_done()
