"""The engine's end of the live picture of the tree: when to look at what has changed, and how long.

    watch(3) ──▶ a TreeLog hangs at the tree ──▶ take() after each step ──▶ TreeNews

While steps run, whoever looks may cost them next to nothing: after each look the next one waits
until so many times as long has passed that the looks, whatever the tree's size and the machine's
speed, take ``PICTURE_SHARE`` of the time while the first picture is told, and ``NEWS_SHARE`` at
most from then on. A round of news begins ``PAUSE_S`` after the one before has ended, so that what
changes often is told once. While there is nothing to step, looks follow each other until all is
told, each short enough for a message to wait for.

Knows the tree and time; no process, no sockets. Costs: unwatched, one ``if``; the marks that the
tree makes while watched are ``cache/tree_log.py``'s.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from radixserve.cache.radix_tree import RadixTree
from radixserve.cache.tree_log import PathTokens, TreeLog, TreeNews

BUSY_NODES: Final = 256
"""Told in one look while steps run: some 0.3 to 0.6 ms."""
IDLE_NODES: Final = 1000
"""Told in one look otherwise: some 2 ms, for which a message may have to wait."""
PICTURE_SHARE: Final = 1 / 150
NEWS_SHARE: Final = 1 / 300
"""Of the time may go into looks while steps run. Sending adds about a quarter."""
PAUSE_S: Final = 0.4
"""Who watches is told every half second (``tree_watch.py``)."""


class TreeFeed:
    """Looks at one tree's log in time. ``clock``: the one that the tree's ``now_s`` is read off."""

    def __init__(self, tree: RadixTree, clock: Callable[[], float] = time.monotonic) -> None:
        self._tree = tree
        self._clock = clock
        self.picture = 0
        """The number of the picture that is told, or was told last."""
        self._due_s = 0.0
        """Not before this the next look while steps run."""

    @property
    def has_news(self) -> bool:
        """Whether anything is to be told, be it in a while."""
        log = self._tree.log
        return log is not None and log.has_news

    def watch(self, picture: int) -> None:
        """Begin to tell a new picture, which bears this number. *Cost*: O(nodes below roots)."""
        self._tree.log = TreeLog(self._tree)
        self.picture = picture
        self._due_s = self._clock()

    def unwatch(self) -> None:
        """Tell nothing any more, at no cost."""
        self._tree.log = None

    def take(self, *, is_busy: bool) -> TreeNews | None:
        """What is to be told now, if anything. ``is_busy``: a step waits."""
        log = self._tree.log
        if log is None or not self.has_news:
            return None
        begun_s = self._clock()
        if is_busy and begun_s < self._due_s:
            return None
        share = NEWS_SHARE if log.is_whole else PICTURE_SHARE
        news = log.take(BUSY_NODES if is_busy else IDLE_NODES, begun_s)
        ended_s = self._clock()
        self._due_s = ended_s + (ended_s - begun_s) / share
        if not log.has_news:
            self._due_s = max(self._due_s, ended_s + PAUSE_S)
        return news

    def read(self, serial: int, spans: Sequence[tuple[int, int]]) -> PathTokens | None:
        """See ``TreeLog.read``; None, too, if nothing is told."""
        log = self._tree.log
        return None if log is None else log.read(serial, spans)
