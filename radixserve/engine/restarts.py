"""When to start a dead engine again, and when to give up.

A life that delivered a token or lasted ``STABLE_S`` was a good one; the next start is immediate.
One that ended before, with nothing to do or while it loaded, is the beginning of a crash loop: the
next starts wait longer and longer, and after ``MAX_IDLE_DEATHS`` in a row there are none. One that
ended with requests inside and no token is the trial's business (``trials.py``), which starts at
once; but more of these in a row than it takes to find any one culprit mean that it is no request's
fault.
"""

from typing import Final

STABLE_S: Final = 60.0
MAX_IDLE_DEATHS: Final = 5
MAX_BARREN_DEATHS: Final = 24
"""A trial among 2**20 requests takes fewer."""
_FIRST_DELAY_S: Final = 0.5
_MAX_DELAY_S: Final = 30.0


class RestartPolicy:
    """Counts the deaths in a row that came too early."""

    def __init__(self) -> None:
        self._num_idle = 0
        self._num_barren = 0

    def died(self, *, lived_s: float, had_work: bool, has_progressed: bool) -> None:
        """A life has ended. A start that failed is one of 0 s without work."""
        if has_progressed or lived_s >= STABLE_S:
            self._num_idle = self._num_barren = 0
        if had_work:
            self._num_barren += not has_progressed
        else:
            self._num_idle += 1

    def found(self) -> None:
        """Whose fault the last deaths were is known, and it is gone: they count no more."""
        self._num_barren = 0

    @property
    def delay_s(self) -> float | None:
        """How long to wait before the next start; None: give up."""
        if self._num_idle >= MAX_IDLE_DEATHS or self._num_barren >= MAX_BARREN_DEATHS:
            return None
        if self._num_idle <= 1:
            return 0.0
        delay_s: float = _FIRST_DELAY_S * 2 ** (self._num_idle - 2)
        return min(delay_s, _MAX_DELAY_S)
