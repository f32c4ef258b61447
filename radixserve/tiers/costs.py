"""What a page costs to compute and what to bring up, as measured here; and what follows from it.

    worth loading    a page's transfer takes less time than computing its tokens
    streams wait     while answers stream, a step moves and reads pages for 3% of its time at most

Costs are ratios of two sums (seconds and tokens, or seconds and pages) in which what lies N units
back counts half: so a small step, mostly overhead, weighs little, and a change shows soon. One
observation counts as no more than eight times what was expected, so that a hiccup (another process,
a page fault) does not decide anything, while a lasting change does.

What has not been measured is worth trying. What was found not worth it is tried again now and then,
or nobody would ever find out that it has become so. Knows no clock: who observes measures.

Costs: O(1), well below 1 µs.
"""

from collections.abc import Callable
from typing import Final

_TRIED_AGAIN: Final = 256
"""Of so many questions answered with no, the last one is answered with yes."""
_STREAM_SHARE: Final = 0.03
_MAX_MOVED_PAGES: Final = 256
_SURPRISE: Final = 8.0


class _Rate:
    """Seconds per unit, over about the last ``half_life`` units. Mutable."""

    __slots__ = ("_half_life", "_num_units", "_seconds")

    def __init__(self, half_life: float) -> None:
        self._half_life = half_life
        self._seconds = 0.0
        self._num_units = 0.0

    @property
    def seconds(self) -> float | None:
        """Per unit; None before anything was observed."""
        return self._seconds / self._num_units if self._num_units else None

    def observe(self, num_units: int, seconds: float) -> None:
        """``num_units`` took so long. Nothing, and what took no time, tells nothing."""
        if num_units <= 0 or seconds <= 0.0:
            return
        expected = self.seconds
        if expected is not None:
            seconds = min(seconds, _SURPRISE * expected * num_units)
        kept = 0.5 ** (num_units / self._half_life)
        self._seconds = self._seconds * kept + seconds
        self._num_units = self._num_units * kept + num_units


class _Verdict:
    """Says no only so many times in a row. Mutable."""

    __slots__ = ("_num_noes",)

    def __init__(self) -> None:
        self._num_noes = 0

    def of(self, is_worth_it: bool) -> bool:
        """The answer."""
        self._num_noes = 0 if is_worth_it else (self._num_noes + 1) % _TRIED_AGAIN
        return is_worth_it or not self._num_noes


class Costs:
    """What was measured of one engine. Mutable."""

    __slots__ = (
        "_disk",
        "_host",
        "_page_size",
        "_per_move",
        "_per_read",
        "_per_read_cpu",
        "_per_token",
    )

    def __init__(self, page_size: int) -> None:
        self._page_size = page_size
        self._per_token = _Rate(half_life=4096)
        self._per_move = _Rate(half_life=512)
        self._per_read = _Rate(half_life=512)
        self._per_read_cpu = _Rate(half_life=512)
        self._host = _Verdict()
        self._disk = _Verdict()

    def observe_prefill(self, num_tokens: int, seconds: float) -> None:
        """A step that mostly prefilled ran ``num_tokens`` tokens."""
        self._per_token.observe(num_tokens, seconds)

    def observe_moves(self, num_pages: int, seconds: float) -> None:
        """A step moved ``num_pages`` between the device and the host, either way."""
        self._per_move.observe(num_pages, seconds)

    def observe_read(self, num_pages: int, seconds: float, cpu_seconds: float) -> None:
        """``num_pages`` were read from files into the host, and verified; for ``cpu_seconds`` of
        that a core worked."""
        self._per_read.observe(num_pages, seconds)
        self._per_read_cpu.observe(num_pages, cpu_seconds)

    @property
    def page_move_s(self) -> float | None:
        """Seconds to move one page between device and host; None if not measured."""
        return self._per_move.seconds

    @property
    def page_read_s(self) -> float | None:
        """Seconds to read one page from a file; None if not measured."""
        return self._per_read.seconds

    @property
    def page_prefill_s(self) -> float | None:
        """Seconds to compute a page's tokens; None if not measured."""
        per_token = self._per_token.seconds
        return None if per_token is None else per_token * self._page_size

    def is_worth_host(self) -> bool:
        """Whether a page in host memory is worth loading. *Mutates* the count of noes."""
        return self._host.of(self._seems_worth_host())

    def is_worth_disk(self) -> bool:
        """Whether a page in a file is: it is read, and then loaded. *Mutates* likewise."""
        return self._disk.of(self._seems_worth_disk())

    def judges(self, *, loads: bool) -> tuple[Callable[[], bool], Callable[[], bool]]:
        """What to ask about host memory, and about files: for who ``loads`` the two above, for
        others the same without a trial now and then, of which nobody would learn."""
        if loads:
            return self.is_worth_host, self.is_worth_disk
        return self._seems_worth_host, self._seems_worth_disk

    def _seems_worth_host(self) -> bool:
        return self._is_cheaper(self.page_move_s)

    def _seems_worth_disk(self) -> bool:
        read_s, move_s = self.page_read_s, self.page_move_s
        return self._is_cheaper(None if read_s is None else read_s + (move_s or 0.0))

    def _is_cheaper(self, transfer_s: float | None) -> bool:
        prefill_s = self.page_prefill_s
        return transfer_s is None or prefill_s is None or transfer_s < prefill_s

    def max_moved_pages(self, streams_s: float | None) -> int:
        """How many pages the next step may load and back up: all of 3% of ``streams_s``, the
        seconds that a step of the streams takes, and at least one; None: nobody streams."""
        if streams_s is None:
            return _MAX_MOVED_PAGES
        move_s = self.page_move_s
        if move_s is None:
            return 1
        return max(1, min(_MAX_MOVED_PAGES, int(_STREAM_SHARE * streams_s / move_s)))

    def max_read_pages(self, max_moved_pages: int) -> int:
        """How many pages may be read from files meanwhile, that is in as much of a core's time as
        so many moves take: at least one. Threads read, but on a CPU the cores are the streams'."""
        if max_moved_pages >= _MAX_MOVED_PAGES:
            # Nobody streams.
            return max_moved_pages
        move_s, read_s = self.page_move_s, self._per_read_cpu.seconds
        if move_s is None or read_s is None:
            return 1
        return max(1, int(max_moved_pages * move_s / read_s))
