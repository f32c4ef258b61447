"""Whether to believe the index: it is measured against LRU all the time.

What LRU would have had is known for every request, whichever order rules (``touch_log.py``). If
over some 1,000 requests the cache found fewer tokens than LRU would have, by one per cent of what
was asked for, LRU's order rules for a while, then the index gets another chance. Each defeat
doubles the while, so what trying costs is bounded.
"""

import math
from typing import Final

_WINDOW_REQUESTS: Final = 1000
_TOLERATED: Final = 0.01
_FIRST_TERM_REQUESTS: Final = 300
_LONGEST_TERM_REQUESTS: Final = 64 * _FIRST_TERM_REQUESTS
_RESPITE_REQUESTS: Final = 200
"""How long a freshly seated index is not judged: the cache is still the other's."""


class LRUDuel:
    """The running comparison. Mutable."""

    __slots__ = (
        "_judged_at",
        "_lead_tokens",
        "_mean_tokens",
        "_num_requests",
        "_term",
        "follows_lru",
        "num_defeats",
    )

    def __init__(self) -> None:
        self.follows_lru = False
        """Whether LRU's order rules now."""
        self.num_defeats = 0
        self._lead_tokens = 0.0
        self._mean_tokens = 0.0
        self._num_requests = 0
        self._judged_at = 0
        self._term = _FIRST_TERM_REQUESTS

    def observe(self, *, asked: int, found: int, lru_found: int) -> None:
        """One request asked for so many tokens; here so many were cached, in LRU's cache so many.

        *Mutates* ``follows_lru``.
        """
        self._num_requests += 1
        self._mean_tokens += (asked - self._mean_tokens) / min(self._num_requests, _WINDOW_REQUESTS)
        window = _WINDOW_REQUESTS * self._mean_tokens
        if not window:
            return
        self._lead_tokens *= math.exp(-asked / window)
        self._lead_tokens += found - lru_found
        if self._num_requests < self._judged_at:
            return
        if self.follows_lru:
            self.follows_lru = False
            self._lead_tokens = 0.0
            self._judged_at = self._num_requests + _RESPITE_REQUESTS
        elif self._lead_tokens < -_TOLERATED * window:
            self.follows_lru = True
            self.num_defeats += 1
            self._lead_tokens = 0.0
            self._judged_at = self._num_requests + self._term
            self._term = min(2 * self._term, _LONGEST_TERM_REQUESTS)
