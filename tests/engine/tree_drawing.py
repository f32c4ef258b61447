"""A page that draws the tree: keeps what it is told, and insists that it makes sense; and a cache
that is asked for things, with somebody who watches its tree."""

import itertools
from typing import NoReturn

import numpy as np

from radixserve.cache.prefix_cache import Lease, PrefixCache
from radixserve.engine.interface import (
    TreeEvent,
    TreeLost,
    TreeNodes,
    TreeViewer,
    TreeWhole,
    ViewedNode,
)
from radixserve.engine.messages import ReadPath, TreeChanged, WatchTree
from radixserve.engine.tree_feed import TreeFeed
from radixserve.engine.tree_watch import TreeWatch, TreeWatchers
from radixserve.ids import Namespace, TokenArray
from radixserve.types import CacheInfo, EngineStats

ADMIN = TreeViewer(sees_all=True, owns=lambda namespace: namespace == "")


def tenant(*names: str) -> TreeViewer:
    """Whose namespaces these are."""
    return TreeViewer(sees_all=False, owns=lambda namespace: namespace in names)


class Drawing:
    """What one viewer has been told."""

    def __init__(self) -> None:
        self.nodes: dict[int, ViewedNode] = {}
        self.is_whole = False
        self.num_ids = 0
        self.num_lost = 0

    def apply(self, event: TreeEvent) -> None:
        match event:
            case TreeNodes(_, nodes, gone):
                self._apply(nodes, gone)
            case TreeWhole():
                assert not self.is_whole
                self.is_whole = True
            case TreeLost():
                self.__init__()  # type: ignore[misc]  # forget everything
                self.num_lost += 1

    def _apply(self, nodes: list[ViewedNode], gone: list[int]) -> None:
        assert nodes or gone
        for one in gone:
            del self.nodes[one]
        for node in nodes:
            assert node.parent == 0 or node.parent in self.nodes, "parents come first"
            if node.id not in self.nodes:
                self.num_ids += 1
                assert node.id == self.num_ids, "ids count from 1, without a gap"
            self.nodes[node.id] = node
        for node in self.nodes.values():
            above = self.nodes.get(node.parent)
            assert above is not None or node.parent == 0, "a node without its parent"
            # The end of a node whose growth has not been told of may lag behind.
            assert node.start >= (0 if above is None else above.start + above.tokens)


def array_of(tokens: "tuple[int, ...] | list[int]") -> TokenArray:
    return np.array(tokens, dtype=np.int32)


def no_figures() -> EngineStats:
    pages = CacheInfo(free_pages=0, cached_pages=0, in_use_pages=0, total_pages=0, page_size=1)
    return EngineStats(num_waiting=0, num_running=0, cache=pages)


class WatchedCache:
    """A cache, its feed and its watchers, without an engine, at a time that a test sets."""

    def __init__(self, page_size: int = 4, num_pages: int = 4096) -> None:
        self.now_s = 100.0
        self.cache = PrefixCache(num_pages, page_size)
        self.cache.tree.now_s = self.now_s
        self.feed = TreeFeed(self.cache.tree, lambda: self.now_s)
        self.watchers = TreeWatchers(
            self._tell, self._ask, no_figures, pause_s=0.0, clock=lambda: self.now_s
        )
        self.watches: list[TreeWatch] = []
        self._names = itertools.count()
        self.leases: dict[object, tuple[Lease, TokenArray]] = {}

    def open(self, viewer: TreeViewer) -> TreeWatch:
        return self.watchers.open(viewer, self.cache.page_size)

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.cache.tree.now_s = self.now_s

    def flush(self) -> None:
        """Let the watchers have all that has happened."""
        while (news := self.feed.take(is_busy=False)) is not None:
            self.watchers.feed(TreeChanged(self.feed.picture, news))

    def begin(self, name: object, namespace: Namespace, tokens: list[int]) -> None:
        """A request comes and computes its prompt."""
        prompt = array_of(tokens)
        lease = self.cache.acquire(namespace, prompt[:-1])
        if lease.pending_copy is not None:
            self.cache.finish_copy(lease)
        self.cache.reserve(lease, len(prompt))
        self.cache.commit(lease, prompt)
        self.leases[name] = lease, prompt

    def end(self, name: object) -> None:
        """It ends."""
        lease, prompt = self.leases.pop(name)
        self.cache.release(lease, prompt)

    def run(self, namespace: Namespace, tokens: list[int]) -> None:
        """A request from beginning to end."""
        name = next(self._names)
        self.begin(name, namespace, tokens)
        self.end(name)

    def told(self, watch: TreeWatch) -> list[TreeEvent]:
        """All that a watcher is told just now."""
        return list(iter(watch._next, None))

    def _tell(self, message: WatchTree) -> None:
        if message.picture is None:
            self.feed.unwatch()
        else:
            self.feed.watch(message.picture)

    async def _ask(self, question: ReadPath) -> NoReturn:
        raise AssertionError("nobody asks here")
