"""A disk tier without files and threads: what is handed in ends when the test says so, or fails.

It stands for the worst that the threads of ``tiers/disk_tier.py`` may do within their contract: a
slot that is being read into holds junk until the read has ended, and what a write keeps is what
lies in its slot at the very end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from radixserve.tiers.disk_tier import Done
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_names import PageKey

JUNK_BYTE = 0xA5


@dataclass(slots=True, eq=False)
class _Job:
    kind: Literal["read", "write"]
    slot: SlotId
    key: PageKey
    is_cleared: bool = False


class _Figures:
    """What is told of a directory; there is none."""

    num_pages = used_bytes = limit_bytes = num_stored = num_rejected = 0


class SlowDisk:
    """Keeps pages by key. ``buffer``: uint8[num_slots, page_bytes], the host slots' memory."""

    def __init__(
        self,
        buffer: npt.NDArray[np.uint8],
        files: dict[PageKey, npt.NDArray[np.uint8]] | None = None,
    ) -> None:
        self._buffer = buffer
        self.directory = _Figures()
        self.files = {} if files is None else files
        self.under_way: list[_Job] = []
        self.num_failures = 0
        """How many of the next jobs to end are to fail."""
        self.on_done: Callable[[], None] = lambda: None
        self._done: list[Done] = []
        self.num_read = self.num_written = self.num_failed = 0
        self.is_closed = False

    def contains(self, owner: str, name: bytes) -> bool:
        return any((key.owner, key.name) == (owner, name) for key in self.files)

    def read(self, slot: SlotId, key: PageKey) -> None:
        self._hand_in(_Job("read", slot, key))
        self._buffer[slot] = JUNK_BYTE

    def write(self, slot: SlotId, key: PageKey) -> None:
        self._hand_in(_Job("write", slot, key))

    def _hand_in(self, job: _Job) -> None:
        assert all(other.slot != job.slot for other in self.under_way), "two jobs on one slot"
        self.under_way.append(job)

    def touch(self, keys: Sequence[PageKey]) -> None:
        for key in keys:
            assert len(key.name) == 16

    def clear(self, owner: str | None) -> None:
        for key in list(self.files):
            if owner is None or key.owner == owner:
                del self.files[key]
        for job in self.under_way:
            job.is_cleared |= owner is None or job.key.owner == owner

    def slots(self) -> set[SlotId]:
        return {job.slot for job in self.under_way} | {done.slot for done in self._done}

    @property
    def has_done(self) -> bool:
        return bool(self._done)

    @property
    def num_under_way(self) -> int:
        return len(self.under_way)

    def take_done(self) -> list[Done]:
        done, self._done = self._done, []
        return done

    def wait(self, timeout_s: float | None = None) -> bool:
        if not self._done:
            self.end_one()
        return self.has_done

    def end_one(self, which: int = 0) -> bool:
        """End one of the jobs under way; False if there is none."""
        if not self.under_way:
            return False
        job = self.under_way.pop(which % len(self.under_way))
        ok = not job.is_cleared and not self.num_failures
        if self.num_failures:
            self.num_failures -= 1
            self.num_failed += 1
            if job.kind == "read":
                self.files.pop(job.key, None)
        if job.kind == "read":
            ok = ok and job.key in self.files
            if ok:
                self._buffer[job.slot] = self.files[job.key]
                self.num_read += 1
        elif ok:
            self.files[job.key] = self._buffer[job.slot].copy()
            self.num_written += 1
        self._done.append(Done(job.kind, job.slot, job.key, ok, 0.001, 0.001))
        self.on_done()
        return True

    def close(self, timeout_s: float) -> None:
        while self.end_one():
            pass
        self.is_closed = True
