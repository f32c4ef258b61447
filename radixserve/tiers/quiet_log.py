"""Warnings that come at most so often: a full disk must not fill the log as well."""

import logging
import time
from collections.abc import Callable


class QuietLog:
    """Passes one warning of a kind through in each interval and counts the others. May be used by
    several threads: at worst one line too many comes."""

    def __init__(
        self,
        logger: logging.Logger,
        interval_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._next_s: dict[str, float] = {}
        self._num_silent: dict[str, int] = {}

    def warning(self, kind: str, message: str, *args: object) -> None:
        """``kind`` is one of a few names; a line of its own kind may have come a moment ago."""
        now_s = self._clock()
        if now_s < self._next_s.get(kind, now_s):
            self._num_silent[kind] = self._num_silent.get(kind, 0) + 1
            return
        self._next_s[kind] = now_s + self._interval_s
        num_silent = self._num_silent.pop(kind, 0)
        if num_silent:
            message += f" (and {num_silent:,} more like this since the last line)"
        self._logger.warning(message, *args)
