"""A bell that threads ring when they have done something, for a step loop that sleeps.

It may sleep here (``wait_until``), or elsewhere: then ``on_ring`` wakes it. Knows nobody who rings.
"""

import threading
from collections.abc import Callable


class Bell:
    """Rung by any thread; waited for by one."""

    def __init__(self) -> None:
        self._rung = threading.Event()
        self.on_ring: Callable[[], None] = _nobody
        """Called by whoever rings: it must be quick."""

    def ring(self) -> None:
        """Something has been done, and whoever asks finds that out."""
        self._rung.set()
        self.on_ring()

    def wait_until(self, is_time: Callable[[], bool], look_s: float) -> None:
        """Sleep until ``is_time``, which comes true with a ring; or with time, which is looked at
        every ``look_s``."""
        self._rung.clear()
        while not is_time():
            self._rung.wait(look_s)
            self._rung.clear()


def _nobody() -> None:
    """Nobody sleeps elsewhere."""
