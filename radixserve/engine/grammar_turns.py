"""Whose new grammar is tried next: one at a time, the tenants taking turns.

Trying a grammar may take seconds (``grammar_guard.py``), and whoever writes grammars that do would
otherwise keep everybody else's waiting. So of each tenant one is tried, then one of the next; and
of each only so many wait. Who goes away meanwhile is not tried at all.

    tenant a   g1 g2 g3 g4 ...
    tenant b   g5                   tried: g1, g5, g2, g3, ...

Knows no grammars: what is done in a turn is a function that blocks, in a thread. Used by one event
loop. Cost: O(1).
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from radixserve.errors import OverloadedError, ShuttingDownError

MAX_WAITING: Final = 32
"""Grammars of one tenant that may wait."""

_RETRY_AFTER_S: Final = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    function: Callable[[], None]
    done: "asyncio.Future[None]"


class GrammarTurns:
    """The lines of those who wait, by tenant. ``close`` ends it."""

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[_Turn]] = OrderedDict()
        """None that is empty; the one whose turn is next comes first."""
        self._taking: asyncio.Task[None] | None = None

    async def take(self, tenant: str, function: Callable[[], None]) -> None:
        """Have ``function`` called in a thread, when it is the tenant's turn. *Raises* what it
        raises; ``OverloadedError`` if too many of the tenant's wait; ``ShuttingDownError``."""
        line = self._lines.setdefault(tenant, deque())
        if len(line) >= MAX_WAITING:
            raise OverloadedError(
                f"{len(line)} of your requests wait already for their grammars to be checked, and "
                f"{MAX_WAITING} may; try again in {_RETRY_AFTER_S:g} s",
                retry_after_s=_RETRY_AFTER_S,
            )
        turn = _Turn(function, asyncio.get_running_loop().create_future())
        line.append(turn)
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take_turns())
        try:
            await turn.done
        finally:
            # If nobody waits for it any more. Else it is there no more.
            if turn in line:
                line.remove(turn)

    async def close(self) -> None:
        """Whoever waits is told that there is no more. A thread that is busy is left to itself."""
        if self._taking is not None:
            self._taking.cancel()
            await asyncio.wait((self._taking,))
        for line in self._lines.values():
            for turn in line:
                _fail(turn, ShuttingDownError("the server is shutting down"))

    async def _take_turns(self) -> None:
        while self._lines:
            tenant, line = self._lines.popitem(last=False)
            if not line:
                continue
            turn = line.popleft()
            # To the back. Also if it is empty now: who comes next finds this line.
            self._lines[tenant] = line
            try:
                await asyncio.to_thread(turn.function)
            except asyncio.CancelledError:
                _fail(turn, ShuttingDownError("the server is shutting down"))
                raise
            except Exception as error:
                _fail(turn, error)
            else:
                if not turn.done.done():
                    turn.done.set_result(None)


def _fail(turn: _Turn, error: Exception) -> None:
    if not turn.done.done():
        turn.done.set_exception(error)
