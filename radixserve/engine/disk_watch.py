"""Whether the disk below does anything: nobody is to wait for one that hangs.

A read takes milliseconds, and what it spares seconds at most. A network file system that has gone
away may not answer for minutes. So the disk is *stuck* if it was given something to do and has done
nothing for ``PATIENCE_S``: then whoever waits for it computes, until it does something again.

Knows the tiers and the clock; no requests. *Cost*: O(1).
"""

import logging
import time
from typing import Final

from radixserve.tiers.tiers import Tiers

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 5.0
"""As long as a disk that sleeps may take to spin up."""

LOOK_S: Final = 1.0
"""How often whoever sleeps is to look: a disk that is stuck wakes nobody."""


class DiskWatch:
    """See the module. Without ``tiers`` there is no disk."""

    def __init__(self, tiers: Tiers | None) -> None:
        self._tiers = tiers
        self._last_s = 0.0
        """When it last had nothing to do, or was found to have done something."""
        self._is_told = False
        self.is_awaited = False
        """Whether nothing can be planned until it has done something, or somebody comes: to be said
        by whoever plans."""

    @property
    def holds_up(self) -> bool:
        """Whether it is awaited, and there is hope."""
        return self.is_awaited and not self.is_stuck

    @property
    def is_busy(self) -> bool:
        """Whether it has anything to do."""
        return self._tiers is not None and self._tiers.is_busy

    @property
    def is_stuck(self) -> bool:
        """Whether it has done nothing for too long."""
        if self._tiers is None or not self._tiers.is_busy or self._tiers.has_news:
            return False
        return time.perf_counter() - self._last_s > PATIENCE_S

    def look(self) -> bool:
        """To be called before each plan, and so before what the disk has done is taken in. Returns
        whether it is stuck, and says so once."""
        if self._tiers is None:
            return False
        if self._tiers.has_news or not self._tiers.is_busy:
            self._last_s = time.perf_counter()
            self._is_told = False
            return False
        if not self.is_stuck:
            return False
        if not self._is_told:
            self._is_told = True
            logger.warning(
                "the cache directory has not answered for %.0f s: what it holds is computed",
                PATIENCE_S,
            )
        return True
