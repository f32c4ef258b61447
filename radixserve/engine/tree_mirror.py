"""The radix tree as the engine tells of it, for all who look: one mirror, many views.

    TreeNews ──▶ TreeMirror.apply() ──▶ Changes, by owner ──▶ each view takes what is its viewer's

Holds what the engine knows to be told, hence a tree by itself after each ``apply``; complete once
``is_whole``. Knows no viewers. Costs: O(rows) to apply; some 400 bytes of memory a node.
"""

from array import array
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple

from radixserve.cache.tree_log import NUM_COLUMNS, PUBLIC_OWNER, TreeNews
from radixserve.ids import Namespace

_ROW: Final = Struct(f"={NUM_COLUMNS}q")


class MirrorNode(NamedTuple):
    """A row: see ``tree_log.NUM_COLUMNS``."""

    serial: int
    parent: int
    start: int
    end: int
    locks: int
    idle_since_ms: int
    owner: int


@dataclass(slots=True)
class OwnerChanges:
    """What became of one owner's nodes: serial numbers."""

    gone: list[int] = field(default_factory=list)
    told: list[int] = field(default_factory=list)
    """New ones, and those of which something is new."""
    moved: list[int] = field(default_factory=list)
    """Of these, those that had another parent before."""
    has_border_changed: bool = False
    """Whether other nodes of the owner's hang below public ones than before, or elsewhere."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What one message changed."""

    by_owner: dict[int, OwnerChanges]
    opened: list[int]
    closed: list[int]

    def of(self, owner: int) -> OwnerChanges:
        """Those of one owner: to be filled."""
        changes = self.by_owner.get(owner)
        if changes is None:
            changes = self.by_owner[owner] = OwnerChanges()
        return changes


class TreeMirror:
    """All nodes that the engine has told of. Mutable; mutated by ``apply`` alone."""

    def __init__(self) -> None:
        self.nodes: dict[int, MirrorNode] = {}
        """By serial number."""
        self.names: dict[int, Namespace] = {}
        """Of owners who have nodes; the public has none."""
        self.by_owner: dict[int, dict[int, None]] = {PUBLIC_OWNER: {}}
        """Each owner's serial numbers: an ordered set."""
        self.borders: dict[int, dict[int, None]] = {}
        """Those of them that hang below public nodes, if there are any."""
        self.is_whole = False
        self.now_ms = 0
        """The engine's clock when it told the news last."""

    def apply(self, news: TreeNews) -> Changes:
        """Take in what the engine says. *Cost*: O(rows)."""
        changes = Changes({}, [number for number, _ in news.opened], news.closed)
        self._forget(news.gone, changes)
        for number, name in news.opened:
            self.names[number] = name
            self.by_owner[number] = {}
        for row in _ROW.iter_unpack(news.rows):
            self._insert(MirrorNode._make(row), changes)
        for number in news.closed:
            del self.names[number]
            del self.by_owner[number]
        self.is_whole = news.is_whole
        self.now_ms = news.now_ms
        return changes

    def _forget(self, gone: bytes, changes: Changes) -> None:
        for serial in array("q", gone):
            owner = self.nodes.pop(serial).owner
            del self.by_owner[owner][serial]
            of_owner = changes.of(owner)
            of_owner.gone.append(serial)
            if self._leave_border(owner, serial):
                of_owner.has_border_changed = True

    def _insert(self, node: MirrorNode, changes: Changes) -> None:
        serial, owner = node.serial, node.owner
        before = self.nodes.get(serial)
        self.nodes[serial] = node
        of_owner = changes.of(owner)
        of_owner.told.append(serial)
        if before is None:
            self.by_owner[owner][serial] = None
        elif before.parent == node.parent:
            return
        else:
            of_owner.moved.append(serial)
        if owner == PUBLIC_OWNER:
            return
        left = self._leave_border(owner, serial)
        # A parent that is new, too, has come before.
        parent = self.nodes.get(node.parent)
        is_border = parent is not None and parent.owner == PUBLIC_OWNER
        if is_border:
            self.borders.setdefault(owner, {})[serial] = None
        if left or is_border:
            of_owner.has_border_changed = True

    def _leave_border(self, owner: int, serial: int) -> bool:
        """Whether it hung below a public node."""
        border = self.borders.get(owner)
        if border is None or serial not in border:
            return False
        del border[serial]
        if not border:
            del self.borders[owner]
        return True
