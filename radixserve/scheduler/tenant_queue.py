"""One tenant's waiting requests: a line for each priority, the smallest value first.

Within a line ``waiting.py`` has the order. Between lines it is strict, but for this: a line that
has had ``MAX_CLASS_WAIT`` admissions of its tenant go by without one of its own comes next; of
several such, the one that has gone without for longest. So *a line with a candidate is admitted
from at least once in any ``MAX_CLASS_WAIT + c`` admissions of its tenant*, where the tenant has
``c`` lines, and important requests keep all but ``c - 1`` of every ``MAX_CLASS_WAIT``.

Priorities are the tenant's own affair: they order its requests and nobody else's. Clients choose
them, so they must not be a way past other tenants.

Costs: O(lines) for ``peek``, and what the lines take.
"""

from bisect import insort
from collections.abc import Iterator

from radixserve.request import Request
from radixserve.scheduler.policy import MAX_CLASS_WAIT
from radixserve.scheduler.waiting import WaitingQueue


class TenantQueue:
    """The lines of one tenant. Owned by ``FairQueue``."""

    def __init__(self, name: str, max_overtakes: int) -> None:
        self.name = name
        self.in_turn = False
        """Whether ``FairQueue`` looks at it when it chooses."""
        self._max_overtakes = max_overtakes
        self._num_admissions = 0
        self._lines: dict[int, WaitingQueue] = {}
        self._priorities: list[int] = []
        self._last_admission: dict[int, int] = {}
        """By priority: how many admissions the tenant had had at the line's last, or when it
        came to be."""

    def __len__(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    def __iter__(self) -> Iterator[WaitingQueue]:
        return iter(self._lines.values())

    def line(self, priority: int) -> WaitingQueue:
        """The line of that priority; a new one if there is none."""
        line = self._lines.get(priority)
        if line is None:
            line = self._lines[priority] = WaitingQueue(self._max_overtakes)
            self._last_admission[priority] = self._num_admissions
            insort(self._priorities, priority)
        return line

    def drop(self, priority: int) -> None:
        """Let a line go that is empty."""
        assert not len(self._lines[priority]), f"somebody waits in line {priority} of {self.name}"
        del self._lines[priority], self._last_admission[priority]
        self._priorities.remove(priority)

    def note_admission(self, priority: int) -> None:
        """One was admitted from this line."""
        self._num_admissions += 1
        self._last_admission[priority] = self._num_admissions

    def peek(self) -> Request | None:
        """The candidate that is next in order, if there is any. Does not take it out."""
        for priority in self._order():
            request = self._lines[priority].peek()
            if request is not None:
                return request
        return None

    def _order(self) -> list[int]:
        last = self._last_admission
        newest = self._num_admissions - MAX_CLASS_WAIT
        if len(last) == 1 or min(last.values()) > newest:
            return self._priorities
        overdue = [priority for priority in self._priorities if last[priority] <= newest]
        return sorted(overdue, key=last.__getitem__) + self._priorities
