"""A bell that a thread can ring for a loop that sleeps in a poll: a pipe, and a byte in it.

Knows nothing of who rings and why. Cost: a system call each.
"""

import contextlib
import os
from typing import Self


class Wake:
    """``fd`` is readable from ``ring`` until ``clear``."""

    def __init__(self) -> None:
        self.fd, self._bell = os.pipe()
        for fd in (self.fd, self._bell):
            os.set_blocking(fd, False)

    def ring(self) -> None:
        """From any thread. Never waits: a pipe that is full is readable as it is."""
        with contextlib.suppress(OSError):
            os.write(self._bell, b"\0")

    def clear(self) -> None:
        """Take note. Who rings afterwards is heard again."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.fd, 4096):
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._bell)
        os.close(self.fd)
