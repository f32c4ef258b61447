"""Which nodes of the radix tree have come, changed and gone, for whoever draws it.

    hooks in the tree ──▶ marks, O(1) each ──▶ take(): rows of so many nodes, and what is gone

A *row* is what a picture needs of one node: ``NUM_COLUMNS`` integers. No tokens and no pages: how
many pages cover an edge follows from where it starts and ends. Nothing is kept of what a node was,
only that it has to be told of: who takes seldom gets the newest state, and the log's memory is
bounded by the nodes there are and those told of that have gone.

The first picture is made the same way: at first the nodes below the roots are marked, and a node
that is told of for the first time marks its children. So after each ``take`` what has been told of,
the *known* nodes, is a tree by itself:

1. the parent of a known node is known, or a root;
2. a node that is not known is marked as *unseen*, or its parent is not known either.

What splits and merges do to known nodes is told in the very next ``take``, however much it is, lest
a node hang below one that has gone: each cost the tree more than it costs to tell.

Who locks a node locks all above it, so only the lowest is marked, and ``take`` walks up from it. If
that node goes, its mark goes to the one above.

Knows nodes; no clock but the tree's, no process. Every hook runs when the tree is linked as it will
be. Costs: nobody watching, one ``if`` at each hook. Watched, a dictionary's entry; ``take`` about
1 µs a row; beginning, O(nodes below roots).
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from radixserve.cache.lookup import path_tokens
from radixserve.cache.node import Node
from radixserve.ids import Namespace

if TYPE_CHECKING:
    from radixserve.cache.radix_tree import RadixTree

NUM_COLUMNS: Final = 7
"""Of a row: serial number, that of the parent (0: it is a root), depth where the edge starts and
where it ends, locks, when the last lock was taken off (in ms by the tree's clock), owner."""

PUBLIC_OWNER: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeNews:
    """What a ``take`` found. To be applied in this order: forget ``gone``, add ``opened``, insert
    or replace ``rows``, forget ``closed``."""

    gone: bytes
    """Serial numbers, int64 each."""
    opened: list[tuple[int, Namespace]]
    """Owners' numbers that are new, and their names. A number is never used again."""
    rows: bytes
    """``NUM_COLUMNS`` int64 each; a parent comes before its children if both are new."""
    closed: list[int]
    """Owners of whom nothing is known any more."""
    is_whole: bool
    """Whether the known nodes are all that there are: from the first time on."""
    now_ms: int
    """When, by the tree's clock."""


@dataclass(frozen=True, slots=True)
class PathTokens:
    """Tokens of the way to a node."""

    namespace: Namespace | None
    """Whose the node is; None: everybody's."""
    spans: list[list[int]]


class TreeLog:
    """The marks of one tree since somebody began to look. Fed by the tree alone."""

    __slots__ = (
        "_changed",
        "_closed",
        "_gone",
        "_known",
        "_moved",
        "_num_opened",
        "_opened",
        "_owners",
        "_rows",
        "_unseen",
        "_used",
        "_was_whole",
    )

    def __init__(self, tree: "RadixTree") -> None:
        self._known: dict[int, Node] = {}
        """By serial number."""
        # Dictionaries as ordered sets.
        self._unseen: dict[Node, None] = {}
        """Not known, and the parent is."""
        self._moved: dict[Node, None] = {}
        """Known and elsewhere now, or a new one above such."""
        self._changed: dict[Node, None] = {}
        """Known, and something about them alone is new."""
        self._used: dict[Node, None] = {}
        """Their locks are new, and those of all above them."""
        self._gone = array("q")
        self._rows: list[int] = []
        self._owners: dict[Namespace, _Owner] = {}
        self._num_opened = 0
        self._opened: list[tuple[int, Namespace]] = []
        self._closed: list[int] = []
        self._was_whole = False
        for root in tree.roots.values():
            self._see(root.children.values())

    # Hooks

    def changed(self, node: Node) -> None:
        """The edge ends elsewhere, or this node's locks alone are new."""
        if node.serial in self._known:
            self._changed[node] = None

    def used(self, node: Node) -> None:
        """Locks of this node and of all above it have come or gone."""
        if node.parent is not None:
            self._used[node] = None

    def added(self, node: Node) -> None:
        """It hangs in the tree now."""
        parent = node.parent
        assert parent is not None
        if parent.parent is None or parent.serial in self._known:
            self._unseen[node] = None

    def split(self, upper: Node, lower: Node) -> None:
        """``upper`` is new, above ``lower``."""
        if self._has_moved(lower):
            self._moved[upper] = self._moved[lower] = None
        elif lower in self._unseen:
            del self._unseen[lower]
            self._unseen[upper] = None

    def merged(self, chain: Sequence[Node], kept: Node) -> None:
        """The nodes of ``chain``, top first, have become ``kept``, one of them."""
        if any(node in self._used for node in chain):
            self._used[kept] = None
        for node in chain:
            if node is not kept:
                self._used.pop(node, None)
                self.gone(node)
        if self._has_moved(kept):
            self._moved[kept] = None
        else:
            self.added(kept)

    def gone(self, node: Node) -> None:
        """It is not in the tree any more, nor is any node below it."""
        if node in self._used:
            del self._used[node]
            assert node.parent is not None
            self.used(node.parent)
        self._unseen.pop(node, None)
        self._moved.pop(node, None)
        if self._known.pop(node.serial, None) is None:
            return
        self._changed.pop(node, None)
        self._gone.append(node.serial)
        if node.namespace is not None:
            owner = self._owners[node.namespace]
            owner.num_nodes -= 1
            if not owner.num_nodes:
                # A namespace is hostile input: nothing of it stays.
                del self._owners[node.namespace]
                self._closed.append(owner.number)

    def _has_moved(self, node: Node) -> bool:
        """Whether a node that changes its place has to be told of at once."""
        return node.serial in self._known or node in self._moved

    # Whoever looks

    @property
    def has_news(self) -> bool:
        """Whether ``take`` would find anything."""
        return bool(
            self._unseen
            or self._used
            or self._changed
            or self._moved
            or self._gone
            or not self._was_whole
        )

    @property
    def is_whole(self) -> bool:
        """Whether the first picture has been told."""
        return self._was_whole

    def take(self, num_nodes: int, now_s: float) -> TreeNews:
        """The news, at ``now_s`` by the tree's clock: what is gone, what has moved, and about
        ``num_nodes`` other nodes, those not known before first. *Cost*: see the module."""
        while self._moved:
            # Its parent may be new and on the way to it, too.
            way = [next(reversed(self._moved))]
            while (above := way[-1].parent) in self._moved:
                assert above is not None
                way.append(above)
            for node in reversed(way):
                del self._moved[node]
                self._tell(node)
        num_left = num_nodes - len(self._rows) // NUM_COLUMNS
        if self._unseen:
            num_left = self._take_unseen(num_left)
        if num_left > 0:
            num_left = self._take_used(num_left)
        for node in list(islice(self._changed, max(0, num_left))):
            del self._changed[node]
            self._tell(node)
        self._was_whole = self._was_whole or not self._unseen
        news = TreeNews(
            gone=self._gone.tobytes(),
            opened=self._opened,
            rows=array("q", self._rows).tobytes(),
            closed=self._closed,
            is_whole=self._was_whole,
            now_ms=int(1000 * now_s),
        )
        self._gone, self._rows = array("q"), []
        self._opened, self._closed = [], []
        return news

    def read(self, serial: int, spans: Sequence[tuple[int, int]]) -> PathTokens | None:
        """The tokens of spans ``[low, high)`` of the way to a known node; None if it is not there
        any more, or not so deep. *Cost*: O(tokens + nodes on the way)."""
        node = self._known.get(serial)
        if node is None or any(high > node.end for _, high in spans):
            return None
        found = [path_tokens(node, low, high).tolist() for low, high in spans]
        return PathTokens(node.namespace, found)

    def _take_unseen(self, num_nodes: int) -> int:
        """Tell of so many nodes that are not known; returns how many are left to be told."""
        unseen, known, rows = self._unseen, self._known, self._rows
        # The first picture is made here, so this does what ``_tell`` does in fewer steps.
        while unseen and num_nodes > 0:
            # The last one: taking the first off a dictionary takes ever longer.
            node = unseen.popitem()[0]
            parent, serial = node.parent, node.serial
            assert parent is not None
            if serial in known:
                # It has moved, too, and so has been told.
                continue
            known[serial] = node
            if node.children:
                # No child is known before its parent.
                unseen.update(dict.fromkeys(node.children.values()))
            rows += (
                serial,
                parent.serial,
                node.start,
                node.end,
                node.lock_count,
                int(1000 * node.idle_since_s),
                self._count(node.namespace),
            )
            num_nodes -= 1
        return num_nodes

    def _take_used(self, num_nodes: int) -> int:
        """Tell of known nodes whose locks are new, way by way; returns how many of ``num_nodes``
        are left."""
        known = self._known
        walked: set[Node] = set()
        # Each is at least on its own way.
        for node in list(islice(self._used, num_nodes)):
            if num_nodes <= 0:
                break
            del self._used[node]
            above = node
            # From where another way came all above is told.
            while above.parent is not None and above not in walked:
                walked.add(above)
                if above.serial in known:
                    self._changed.pop(above, None)
                    self._tell(above)
                    num_nodes -= 1
                above = above.parent
        return num_nodes

    def _see(self, nodes: Iterable[Node]) -> None:
        known, unseen = self._known, self._unseen
        for node in nodes:
            if node.serial not in known:
                unseen[node] = None

    def _tell(self, node: Node) -> None:
        parent, serial, namespace = node.parent, node.serial, node.namespace
        assert parent is not None
        if serial in self._known:
            owner = PUBLIC_OWNER if namespace is None else self._owners[namespace].number
        else:
            self._known[serial] = node
            self._see(node.children.values())
            owner = self._count(namespace)
        self._rows += (
            serial,
            parent.serial,
            node.start,
            node.end,
            node.lock_count,
            int(1000 * node.idle_since_s),
            owner,
        )

    def _count(self, namespace: Namespace | None) -> int:
        """Its owner's number, for a node that is told of for the first time."""
        if namespace is None:
            return PUBLIC_OWNER
        owner = self._owners.get(namespace)
        if owner is None:
            self._num_opened += 1
            owner = self._owners[namespace] = _Owner(self._num_opened)
            self._opened.append((owner.number, namespace))
        owner.num_nodes += 1
        return owner.number


class _Owner:
    __slots__ = ("num_nodes", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.num_nodes = 0
        """Known ones."""
