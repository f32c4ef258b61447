"""Who watches the cache: one stream of events a watcher, fed by the engine's messages.

    awaiting a snapshot ──snapshot──▶ current ──too far behind──▶ lost ──reads again──┐
            ▲                                                                         │
            └─────────────────── "lost", and another snapshot is asked for ───────────┘

The engine notes events while anybody watches, and for ``LINGER_S`` longer: beginning to note costs
it a look at all that it holds, which a router that reconnects need not cause again. A snapshot is
asked for when somebody needs one, and ends in the engine's messages exactly where its moment was,
so whoever awaits it ignores what comes before and takes what comes after. Who is current ignores
it.

What a watcher has not read is bounded: beyond it all is dropped, and the watcher is told how many
events it lost, and gets a new snapshot, once it reads again. So the memory of one is O(pages of the
pool) at most, and the engine never waits for anybody. Everything runs on one event loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from radixserve.types import CacheEvent

_SLACK = 2**14

LINGER_S = 60.0
"""How long the engine goes on noting events after the last watcher has gone."""


class CacheWatch:
    """Implements ``interface.CacheEventStream``. Made by ``CacheWatchers.open``, fed by them."""

    def __init__(self, watchers: "CacheWatchers", max_unread: int) -> None:
        self._watchers = watchers
        self._max_unread = max_unread
        self._events: deque[CacheEvent] = deque()
        self._num_unread = 0
        """Hashes in ``_events``, and one for each event."""
        self._is_current = False
        self._num_lost = 0
        """Events dropped since this watcher was current, until it is told."""
        self._is_ended = False
        self._arrived = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[CacheEvent]:
        return self

    async def __anext__(self) -> CacheEvent:
        while not self._events:
            if self._is_ended:
                raise StopAsyncIteration
            if self._num_lost:
                lost = CacheEvent(kind="lost", count=self._num_lost)
                self._num_lost = 0
                return lost
            if not self._is_current:
                self._watchers.ask()
            self._arrived.clear()
            await self._arrived.wait()
        event = self._events.popleft()
        self._num_unread -= _size(event)
        return event

    async def aclose(self) -> None:
        """Watch no more; iteration ends. Idempotent."""
        self._watchers.close(self)
        self.end()

    def begin(self, snapshot: Sequence[CacheEvent]) -> None:
        """Take a snapshot, if one is awaited."""
        if not self._is_current and not self._num_lost:
            self._is_current = True
            self._append(snapshot)

    def feed(self, events: Sequence[CacheEvent]) -> None:
        """Take the next events; drop them, and all that is unread, if that is too much."""
        if self._is_current:
            self._append(events)
            if self._num_unread > self._max_unread:
                self._num_lost = len(self._events)
                self._events.clear()
                self._num_unread = 0
                self._is_current = False
        elif self._num_lost:
            self._num_lost += len(events)

    def restart(self) -> None:
        """What it knows of is gone; a snapshot will come."""
        self._is_current = False

    def end(self) -> None:
        """Nothing more will come, and what has not been read is of no use."""
        self._events.clear()
        self._is_ended = True
        self._arrived.set()

    def _append(self, events: Sequence[CacheEvent]) -> None:
        self._events.extend(events)
        self._num_unread += sum(map(_size, events))
        self._arrived.set()


class CacheWatchers:
    """All who watch. ``send`` tells the engine: a number to send a snapshot under it, None to note
    events no more. It neither waits nor raises."""

    def __init__(self, send: Callable[[int | None], None], *, linger_s: float = LINGER_S) -> None:
        self._send = send
        self._linger_s = linger_s
        self._watches: set[CacheWatch] = set()
        self._serial = 0
        self._is_asked = False
        self._unwatching: asyncio.TimerHandle | None = None
        """Tells the engine to note no more, unless somebody comes before."""

    def open(self, num_pages: int) -> CacheWatch:
        """Watch a pool of ``num_pages``."""
        # Room for two snapshots, each of at most a hash and an event a page, on top of one.
        self._stay()
        watch = CacheWatch(self, 4 * num_pages + _SLACK)
        self._watches.add(watch)
        return watch

    def ask(self) -> None:
        """Somebody needs a snapshot: ask for one, unless one is on its way."""
        if not self._is_asked:
            self._is_asked = True
            self._serial += 1
            self._send(self._serial)

    def feed(self, events: Sequence[CacheEvent], snapshot: int | None) -> None:
        """Hand on what the engine says: a snapshot, if it bears a number, else events."""
        if snapshot is None:
            for watch in self._watches:
                watch.feed(events)
        # Before one asked for by watchers that are gone by now the engine may have looked away.
        elif snapshot == self._serial and self._is_asked:
            self._is_asked = False
            for watch in self._watches:
                watch.begin(events)

    def close(self, watch: CacheWatch) -> None:
        """Forget a watcher; a while after the last one the engine is told. Idempotent."""
        if watch in self._watches:
            self._watches.remove(watch)
            if not self._watches:
                self._is_asked = False
                loop = asyncio.get_running_loop()
                self._unwatching = loop.call_later(self._linger_s, self._send, None)

    def restart(self) -> None:
        """The engine that was watched is gone, and another one is there, whose cache is empty:
        everybody needs a snapshot of that one. What was not read yet stays, and is void with it."""
        self._stay()
        self._is_asked = False
        for watch in self._watches:
            watch.restart()
        if self._watches:
            self.ask()

    def end(self) -> None:
        """End every watch: the engine is gone, or about to go."""
        for watch in tuple(self._watches):
            self.close(watch)
            watch.end()
        self._stay()

    def _stay(self) -> None:
        if self._unwatching is not None:
            self._unwatching.cancel()
            self._unwatching = None


def _size(event: CacheEvent) -> int:
    return 1 + len(event.hashes)
