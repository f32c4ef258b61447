"""Whether the engine process gets on, judged by what it says and by nothing else.

    anything at all     it is there: a ``Pong`` comes between two steps even if there is no work
    a ``Step``          it gets on with its work

It hangs if it has said nothing for ``timeout_s``, or if it has work and no step ended in that time.
Before it is given up it is looked at once more: a server that was stopped for a while itself, and
finds that much time has passed, must not kill a healthy engine.

No tasks and no process here: the supervisor asks every ``PING_S`` seconds.
"""

import time
from collections.abc import Callable
from typing import Final

PING_S: Final = 5.0
"""How often the engine is asked whether it is there."""
READY_S: Final = 30.0
"""An engine that has said nothing for so long is not ready to serve. Long steps are shorter."""


class Watchdog:
    """Watches one life of the engine. ``clock``: seconds, monotonic."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout_s = timeout_s
        self._clock = clock
        self._heard_s = self._stepped_s = clock()
        self._is_suspected = False

    @property
    def interval_s(self) -> float:
        """How often ``is_hung`` is to be asked."""
        return min(PING_S, self._timeout_s / 4)

    @property
    def quiet_s(self) -> float:
        """How long the engine has said nothing."""
        return self._clock() - self._heard_s

    def heard(self, *, step: bool) -> None:
        """The engine has said something: that a step has ended, or something else."""
        self._heard_s = self._clock()
        if step:
            self._stepped_s = self._heard_s

    def is_hung(self, *, has_work: bool) -> bool:
        """Whether the engine is to be given up. To be asked regularly; *mutates*: it takes two
        times in a row."""
        now_s = self._clock()
        if not has_work:
            # The time in which a step is due begins with the work.
            self._stepped_s = now_s
        is_overdue = now_s - min(self._heard_s, self._stepped_s) > self._timeout_s
        was_suspected, self._is_suspected = self._is_suspected, is_overdue
        return is_overdue and was_suspected
