"""Whose fault a death of the engine process is: a request's, perhaps, or nobody's in it.

    crash (SIGSEGV, SIGABRT, ...), exception    counts
    killed by us: hung, or it talked nonsense   counts
    SIGTERM, SIGINT, SIGHUP, SIGQUIT            from outside: counts against nobody
    SIGKILL                                     from outside, unless the kernel's OOM killer has
                                                been at work since the process began, or it is the
                                                second in a row without one token in between

An operator's ``kill -9`` and the OOM killer's look the same to a parent. The kernel counts its own
(``oom_kill`` in ``/proc/vmstat``, which sees every container of the machine: somebody else's OOM at
the same time makes us look for a culprit where there is none, which costs a few restarts at most).
Where there is no such count, a request that makes the process too large does so again at once, and
two kills without a token between them are taken for that.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from radixserve.engine.client import Exit

_FROM_OUTSIDE: Final = {-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP, -signal.SIGQUIT}
_VMSTAT: Final = Path("/proc/vmstat")


def count_oom_kills(vmstat: Path = _VMSTAT) -> int:
    """How many processes the kernel has killed for memory so far; 0 if it does not say."""
    try:
        lines = vmstat.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


class Blame:
    """Judges the deaths of one engine's processes, life after life."""

    def __init__(self, count_oom_kills: Callable[[], int] = count_oom_kills) -> None:
        self._count_oom_kills = count_oom_kills
        self._oom_kills = 0
        self._was_killed = False
        """Whether the life before ended by SIGKILL from nobody knows where."""

    def begin(self) -> None:
        """A process is about to be started."""
        self._oom_kills = self._count_oom_kills()

    def counts(self, exit_: Exit, *, has_progressed: bool) -> bool:
        """Whether a request may be to blame for a death. ``has_progressed``: whether the process
        had delivered anything."""
        was_killed, self._was_killed = self._was_killed, False
        if exit_.killed_because is not None:
            return True
        if exit_.status in _FROM_OUTSIDE:
            return False
        if exit_.status != -signal.SIGKILL:
            return True
        if self._count_oom_kills() > self._oom_kills:
            return True
        self._was_killed = True
        return was_killed and not has_progressed
