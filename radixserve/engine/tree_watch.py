"""Who watches the radix tree: one mirror for all, and each one's view of it, read at its pace.

    engine ──TreeChanged──▶ mirror ──▶ view of each watcher ──at most every PAUSE_S──▶ its reader

The engine notes what becomes of its nodes while anybody watches, and for ``LINGER_S`` longer, for a
page that is loaded again. It is asked for a picture when the first one comes, and when there is
another engine: then what was told is void, all watchers are told so, and what the old engine said
is ignored. Who comes later is shown the mirror.

Nobody can be too slow, and the engine never waits: what a view holds is bounded (``tree_view.py``).
Everything runs on one event loop.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from radixserve.engine.interface import (
    NodeTokens,
    TreeEvent,
    TreeFigures,
    TreeLost,
    TreeNodes,
    TreeViewer,
    TreeWhole,
)
from radixserve.engine.messages import PathRead, ReadPath, Reply, TreeChanged, WatchTree
from radixserve.engine.tree_mirror import Changes, TreeMirror
from radixserve.engine.tree_view import TreeView
from radixserve.types import EngineStats

LINGER_S: Final = 60.0
"""How long the engine goes on noting what becomes of nodes after the last watcher has gone."""
PAUSE_S: Final = 0.5
"""Once the first picture is complete, news come in rounds so far apart."""
MAX_NODES: Final = 1000
"""In one event: some 5 ms, in which the server does nothing else."""


class TreeWatch:
    """Implements ``interface.TreeStream``. Made by ``TreeWatchers.open``, fed by them."""

    def __init__(self, watchers: "TreeWatchers", viewer: TreeViewer) -> None:
        self._watchers = watchers
        self._viewer = viewer
        self._view = watchers.view_for(viewer)
        self._begun_s = watchers.clock()
        self._due_s = self._begun_s
        """When the next round begins."""
        self._figures_due_s = self._begun_s
        self._figures: EngineStats | None = None
        self._is_lost = False
        self._is_whole = False
        """Whether the reader knows that the picture is."""
        self._is_ended = False
        self._called = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[TreeEvent]:
        return self

    async def __anext__(self) -> TreeEvent:
        while not self._is_ended:
            event = self._next()
            if event is not None:
                # Between the parts of a picture others have their turn.
                await asyncio.sleep(0)
                return event
            self._called.clear()
            with contextlib.suppress(TimeoutError):
                left_s = max(0.0, self._due_s - self._watchers.clock())
                await asyncio.wait_for(self._called.wait(), left_s)
        raise StopAsyncIteration

    async def read(
        self, node_id: int, *, num_before: int, num_first: int, num_last: int
    ) -> NodeTokens | None:
        """See ``interface.TreeStream``."""
        node = self._view.find(node_id)
        if node is None or self._is_ended:
            return None
        middle = min(node.end, node.start + num_first)
        spans = [
            (max(0, node.start - num_before), node.start),
            (node.start, middle),
            (max(middle, node.end - num_last), node.end),
        ]
        reply = await self._watchers.ask(ReadPath(node.serial, spans))
        assert isinstance(reply, PathRead), reply
        path = reply.tokens
        if path is None:
            return None
        # The engine may be another one by now, where somebody else's node has that number.
        is_theirs = path.namespace is None or self._viewer.owns(path.namespace)
        if not (is_theirs or self._viewer.sees_all):
            return None
        before, first, last = path.spans
        return NodeTokens(start=node.start, end=node.end, before=before, first=first, last=last)

    async def aclose(self) -> None:
        """Watch no more; iteration ends. Idempotent."""
        self._watchers.close(self)
        self.end()

    def feed(self, changes: Changes) -> None:
        """The mirror has changed."""
        self._view.feed(changes)
        if not self._is_whole:
            self._called.set()

    def restart(self) -> None:
        """There is another mirror."""
        self._view = self._watchers.view_for(self._viewer)
        self._is_lost = True
        self._is_whole = False
        self._called.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._is_ended = True
        self._called.set()

    def _next(self) -> TreeEvent | None:
        """What is to be told now. A round ends where there is nothing more."""
        if self._is_lost:
            self._is_lost = False
            return TreeLost()
        now_s = self._watchers.clock()
        if self._is_whole and now_s < self._due_s:
            return None
        part = self._view.take(MAX_NODES, self._watchers.engine_ms(now_s))
        if part is not None:
            return TreeNodes(now_s - self._begun_s, *part)
        if not self._is_whole and self._watchers.is_whole:
            self._is_whole = True
            return TreeWhole()
        if self._viewer.sees_all and now_s >= self._figures_due_s:
            figures = self._watchers.stats()
            self._figures_due_s = now_s + self._watchers.pause_s
            if figures != self._figures:
                self._figures = figures
                return TreeFigures(figures)
        self._due_s = now_s + self._watchers.pause_s
        return None


class TreeWatchers:
    """All who watch. ``send`` takes a message to the engine, and neither waits nor raises; ``ask``
    returns its reply, or raises; ``stats`` are its newest figures."""

    def __init__(
        self,
        send: Callable[[WatchTree], None],
        ask: Callable[[ReadPath], Awaitable[Reply]],
        stats: Callable[[], EngineStats],
        *,
        linger_s: float = LINGER_S,
        pause_s: float = PAUSE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self.ask = ask
        self.stats = stats
        self.pause_s = pause_s
        self.clock = clock
        self._linger_s = linger_s
        self._watches: set[TreeWatch] = set()
        self._mirror = TreeMirror()
        self._told_s = 0.0
        """When the engine told the last news, by this side's clock."""
        self._page_size = 1
        self._picture = 0
        self._is_asked = False
        """Whether the engine tells, or will, the picture of that number."""
        self._unwatching: asyncio.TimerHandle | None = None
        """Tells the engine to tell no more, unless somebody comes before."""

    @property
    def is_whole(self) -> bool:
        """Whether the mirror shows all that there is."""
        return self._mirror.is_whole

    def engine_ms(self, now_s: float) -> int:
        """What the tree's clock says when this side's says ``now_s``."""
        return self._mirror.now_ms + int(1000 * (now_s - self._told_s))

    def view_for(self, viewer: TreeViewer) -> TreeView:
        """A view of the mirror, of which nothing has been told yet."""
        return TreeView(self._mirror, viewer, self._page_size)

    def open(self, viewer: TreeViewer, page_size: int) -> TreeWatch:
        """Watch a tree whose pages hold so many tokens."""
        self._stay()
        self._page_size = page_size
        watch = TreeWatch(self, viewer)
        self._watches.add(watch)
        if not self._is_asked:
            self._ask_for_picture()
        return watch

    def feed(self, message: TreeChanged) -> None:
        """Take in what the engine says, unless it is of a picture that nobody wants any more."""
        if message.picture != self._picture or not self._is_asked:
            return
        changes = self._mirror.apply(message.news)
        self._told_s = self.clock()
        for watch in self._watches:
            watch.feed(changes)

    def close(self, watch: TreeWatch) -> None:
        """Forget a watcher; a while after the last one the engine is told. Idempotent."""
        if watch in self._watches:
            self._watches.remove(watch)
            if not self._watches:
                loop = asyncio.get_running_loop()
                self._unwatching = loop.call_later(self._linger_s, self._leave)

    def restart(self) -> None:
        """The engine that was watched is gone, and another one is there."""
        self._stay()
        self._forget()
        for watch in self._watches:
            watch.restart()
        if self._watches:
            self._ask_for_picture()

    def end(self) -> None:
        """End every watch: the engine is gone, or about to go, or cannot be watched."""
        for watch in tuple(self._watches):
            self.close(watch)
            watch.end()
        self._stay()
        self._forget()

    def _ask_for_picture(self) -> None:
        self._is_asked = True
        self._picture += 1
        self._send(WatchTree(self._picture))

    def _leave(self) -> None:
        self._forget()
        self._send(WatchTree(None))

    def _forget(self) -> None:
        self._is_asked = False
        self._mirror = TreeMirror()

    def _stay(self) -> None:
        if self._unwatching is not None:
            self._unwatching.cancel()
            self._unwatching = None
