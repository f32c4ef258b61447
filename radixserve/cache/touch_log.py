"""When how many tokens were last touched: recency as a log, and an LRU cache read off it.

    position   oldest ............. recent .............. head
               |   remembered       |  what LRU would hold |

Every touch appends an entry: a time, a class, a weight in tokens. Tokens that are touched again
leave the entry they were in, so an entry's weight is what has not been touched since. Then the
newest entries that together weigh as much as the cache holds are what an LRU cache would hold, and
whether LRU would have had a prefix is one comparison. (It is exact but for the entry at the border,
which counts as lost.)

Entries live in a ring; what falls off its end is forgotten. Positions count up for ever.

Costs: O(1) for every call, amortised; ``reached`` O(log size) a time asked for.
"""

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


class TouchLog:
    """Mutable. ``times_s``, ``classes`` and ``weights`` are indexed by position modulo ``size``."""

    # One entry of an ``array`` is read and written some four times as fast as one of numpy's; the
    # public arrays are views of the same memory.
    __slots__ = (
        "_classes",
        "_recent_tokens",
        "_times_s",
        "_weights",
        "capacity_tokens",
        "classes",
        "head",
        "recent",
        "size",
        "times_s",
        "weights",
    )

    def __init__(self, size: int, capacity_tokens: int) -> None:
        self.size = size
        self.capacity_tokens = capacity_tokens
        self._times_s = array("d", bytes(8 * size))
        self._classes = array("q", bytes(8 * size))
        self._weights = array("q", bytes(8 * size))
        self.times_s: npt.NDArray[np.float64] = np.frombuffer(self._times_s)
        self.classes: npt.NDArray[np.int64] = np.frombuffer(self._classes, dtype=np.int64)
        self.weights: npt.NDArray[np.int64] = np.frombuffer(self._weights, dtype=np.int64)
        self.head = 0
        """The position that the next entry gets."""
        self.recent = 0
        """The oldest position whose tokens an LRU cache would hold."""
        self._recent_tokens = 0

    @property
    def oldest(self) -> int:
        """The oldest position remembered."""
        return max(0, self.head - self.size)

    def append(self, time_s: float, class_: int, num_tokens: int) -> int:
        """Tokens are touched at ``time_s``, no earlier than any before; returns their position."""
        position = self.head
        if self.recent == position - self.size:
            self._let_recent_go()
        self.head = position + 1
        slot = position % self.size
        self._times_s[slot] = time_s
        self._classes[slot] = class_
        self._weights[slot] = num_tokens
        self._recent_tokens += num_tokens
        while self._recent_tokens > self.capacity_tokens:
            self._let_recent_go()
        return position

    def leave(self, position: int, num_tokens: int) -> None:
        """Tokens of an entry are touched again, or forgotten for good; all that are left, if it has
        fewer (a run may stand for a few more than it had)."""
        if position < self.head - self.size:
            return
        slot = position % self.size
        num_tokens = min(num_tokens, self._weights[slot])
        self._weights[slot] -= num_tokens
        if position >= self.recent:
            self._recent_tokens -= num_tokens

    def _let_recent_go(self) -> None:
        self._recent_tokens -= self._weights[self.recent % self.size]
        self.recent += 1

    def slots(self, first: int, end: int) -> Iterator[slice]:
        """The slots of the positions ``[first, end)``, in order: one or two slices of the ring."""
        while first < end:
            slot = first % self.size
            num = min(end - first, self.size - slot)
            yield slice(slot, slot + num)
            first += num

    def reached(self, times_s: npt.NDArray[np.float64], first: int) -> npt.NDArray[np.int64]:
        """For each time, the end of the positions from ``first`` on that were touched by then."""
        ends = np.full(len(times_s), first)
        for slots in self.slots(first, self.head):
            ends += np.searchsorted(self.times_s[slots], times_s, side="right")
        return ends
