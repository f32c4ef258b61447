"""The ``os`` module with a file system that fails, or does only part of what it is asked."""

import errno
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from radixserve.tiers import directory_lock, directory_scan, page_directory, page_io

CALLS = (
    *("open", "writev", "readv", "rename", "unlink", "utime", "mkdir", "rmdir", "scandir"),
    *("fstat", "ftruncate", "pwrite"),
)
ERRNOS = (
    *(errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EMFILE, errno.EDQUOT),
    *(errno.ESTALE, errno.ENAMETOOLONG),
)


class FailingOs:
    """Stands for ``os`` in the modules of the disk tier. Mutable: set what is to go wrong."""

    def __init__(self) -> None:
        self.fail_at: dict[str, list[int]] = {}
        """Errors to come, by call: the first call of that kind takes the first, and so on; 0 lets
        one pass."""
        self.short_rng: random.Random | None = None
        """Transfers move only some of the bytes, by this."""
        self.num_failures = 0
        self.before: Callable[[str], None] = lambda name: None
        """Called with the name of each call that may fail."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **kwargs: Any) -> Any:
            self.before(name)
            coming = self.fail_at.get(name)
            if coming and (number := coming.pop(0)):
                self.num_failures += 1
                raise OSError(number, os.strerror(number))
            if self.short_rng is not None and name in ("writev", "readv"):
                return self._short(real, *args)
            return real(*args, **kwargs)

        return call

    def _short(
        self, real: Callable[[int, list[memoryview]], int], fd: int, buffers: Sequence[memoryview]
    ) -> int:
        assert self.short_rng is not None
        left = self.short_rng.randint(1, sum(map(len, buffers)))
        some = []
        for buffer in buffers:
            some.append(buffer[:left])
            left -= len(some[-1])
        return real(fd, some)


def use_failing_os(monkeypatch: pytest.MonkeyPatch) -> FailingOs:
    """Put one in the place of ``os`` wherever the disk tier calls it."""
    failing = FailingOs()
    for module in (directory_lock, directory_scan, page_directory, page_io):
        monkeypatch.setattr(module, "os", failing)
    return failing
