"""Which unlocked leaf gives up its pages first.

The tree tells a policy when a lease lets go of a path, when a node becomes evictable (an unlocked
leaf) and when it stops being so, and what happens to edges: split, merged, trimmed, dropped. The
policy answers which evictable node is to go next, and how far.

Of a node it owns ``last_access`` and ``record``, in which it keeps what it likes; it may read the
node's place (parent, start, end, children, tokens) and nothing else, and changes none of it.
"""

import heapq
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, Protocol

from radixserve.cache.node import Node


class EvictionPolicy(Protocol):
    """An order on the evictable nodes.

    The tree guarantees: a path is touched while it is still locked, hence not evictable; a node is
    added only while it is not evictable and removed only while it is; when a node is added, merged,
    trimmed or dropped, every lease that held it has touched it since.
    """

    @property
    def name(self) -> str:
        """What it is chosen by."""
        ...

    def touch(self, node: Node, num_counted_tokens: int = 0) -> None:
        """A lease lets go of this node and of all above it.

        It is their last use so far. The first ``num_counted_tokens`` were let go of before by
        another lease of the same request (a choice of it, or itself before it was preempted), so
        to them it is no further request.
        """
        ...

    def add(self, node: Node) -> None:
        """The node has become evictable."""
        ...

    def remove(self, node: Node) -> None:
        """The node has stopped being evictable: locked, merged, grown children, or gone."""
        ...

    def victim(self) -> Node | None:
        """The evictable node to trim next, or None if there is none. It stays evictable."""
        ...

    def floor(self, node: Node) -> int:
        """The depth down to which the victim may be cut before the policy is asked again.

        At least one page goes, wherever it says.
        """
        ...

    def split(self, upper: Node, lower: Node) -> None:
        """An edge was cut in two; ``upper`` is the new node, above ``lower``."""
        ...

    def merge(self, chain: Sequence[Node], kept: Node) -> None:
        """The nodes of a chain, top first, are about to become one, ``kept``."""
        ...

    def trim(self, node: Node, end: int) -> None:
        """Eviction is about to cut an evictable node down to depth ``end``, its start at worst."""
        ...

    def drop(self, node: Node) -> None:
        """The node is about to be forgotten with all that it holds."""
        ...

    def __contains__(self, node: Node) -> bool:
        """Whether the node is evictable."""
        ...

    def __len__(self) -> int:
        """How many nodes are evictable."""
        ...


class LRU:
    """Least recently used first.

    A node that becomes evictable because its lease ended is younger than all others, so a queue
    keeps these in order. A node that becomes evictable because eviction left it one leaf to merge
    with is older than some; those few go into a heap whose dead entries are skipped, and swept once
    they outnumber the living.

    *Cost*: O(1) for touch, O(1) for add, remove and victim of queued nodes; amortised O(log n)
    for those in the heap.
    """

    __slots__ = ("_clock", "_exposed", "_heap", "_queue", "_serial", "_youngest")

    name: Final = "lru"

    def __init__(self) -> None:
        self._clock = 0
        self._queue: OrderedDict[Node, None] = OrderedDict()
        self._youngest = 0
        self._heap: list[tuple[int, int, Node]] = []
        self._exposed: dict[Node, int] = {}
        """Node in the heap -> serial number of its living entry."""
        self._serial = 0

    def touch(self, node: Node, num_counted_tokens: int = 0) -> None:  # noqa: ARG002
        """Make the node and those above it the most recently used ones, the root the very last."""
        above: Node | None = node
        while above is not None:
            self._clock += 1
            above.last_access = self._clock
            above = above.parent

    def add(self, node: Node) -> None:
        """Enter the node at the place that its ``last_access`` gives it."""
        if not self._queue or node.last_access > self._youngest:
            self._youngest = node.last_access
            self._queue[node] = None
            return
        self._serial += 1
        self._exposed[node] = self._serial
        heapq.heappush(self._heap, (node.last_access, self._serial, node))

    def remove(self, node: Node) -> None:
        """Forget the node. *Raises* ``KeyError`` if it is not evictable."""
        if node in self._queue:
            del self._queue[node]
            return
        del self._exposed[node]
        if len(self._heap) > 2 * len(self._exposed) + 16:
            self._heap = [entry for entry in self._heap if self._is_alive(entry)]
            heapq.heapify(self._heap)

    def victim(self) -> Node | None:
        """The evictable node that was let go of longest ago."""
        while self._heap and not self._is_alive(self._heap[0]):
            heapq.heappop(self._heap)
        queued = next(iter(self._queue), None)
        if self._heap and (queued is None or self._heap[0][0] < queued.last_access):
            return self._heap[0][2]
        return queued

    def floor(self, node: Node) -> int:
        """The whole edge may go."""
        return node.start

    def split(self, upper: Node, lower: Node) -> None:
        """Both halves are as recent as the edge was."""
        upper.last_access = lower.last_access

    def merge(self, chain: Sequence[Node], kept: Node) -> None:
        """What is kept is as recent as the topmost was."""
        kept.last_access = chain[0].last_access

    def trim(self, node: Node, end: int) -> None:
        """Of no interest: the rest of the edge is as recent as it was."""

    def drop(self, node: Node) -> None:
        """Of no interest: what is gone has no recency."""

    def _is_alive(self, entry: tuple[int, int, Node]) -> bool:
        return self._exposed.get(entry[2]) == entry[1]

    def __contains__(self, node: Node) -> bool:
        return node in self._queue or node in self._exposed

    def __len__(self) -> int:
        return len(self._queue) + len(self._exposed)
