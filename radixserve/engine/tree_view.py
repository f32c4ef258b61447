"""The tree as one viewer sees it, kept up with the mirror: what to tell of it next.

Who sees all sees the mirror's nodes as they are. Anybody else sees the nodes of their own
namespaces, and the public ones on the way to these as far as their own ways part there:

    a b c ── d e ── f g          public, split where others have parted
           │      └─ (A) x y     A's
           └─ (B) z              B's

    A sees   a b c d e           one public node, with no locks and no age
              └─ x y

So nothing that others do, not even where they part from public tokens, shows in what a viewer is
told: neither in nodes nor in their ids, which are counted for each viewer from 1, nor in their
order, which follows from when the viewer's own nodes were made. That is so because a public node at
which a viewer's ways part or leave cannot be merged with another, and goes on under its own serial
number if it is split. The first picture is not begun before the mirror is whole: how it came
together shows what else there is.

What is to be told is a set of nodes, not a list of changes. So a view's memory is bounded by the
nodes there are and those last told of, however seldom it is read, and who reads seldom is told the
newest. After each part what the viewer knows is a tree by itself.

Costs: O(1) a changed node that the viewer sees, and O(log) where they are put in order; O(own nodes
below public ones + public nodes above) when the former have changed.
"""

from radixserve.cache.tree_log import PUBLIC_OWNER
from radixserve.engine.interface import TreeViewer, ViewedNode
from radixserve.engine.tree_mirror import Changes, MirrorNode, OwnerChanges, TreeMirror

OWN = 1


class TreeView:
    """What one viewer knows of one mirror, and what not yet."""

    def __init__(self, mirror: TreeMirror, viewer: TreeViewer, page_size: int) -> None:
        self._mirror = mirror
        self._viewer = viewer
        self._page_size = page_size
        self._ids: dict[int, int] = {}
        """By serial number: what the viewer knows."""
        self._serials: dict[int, int] = {}
        """The other way round."""
        self._num_ids = 0
        self._now_ms = 0
        self._owners: dict[int, int] = {}
        """What the viewer calls the owners that it sees."""
        self._num_owners = OWN
        self._due: dict[int, None] = {}
        """Serial numbers of nodes to be told of."""
        self._moved: set[int] = set()
        """Those of them that the viewer knows below another parent."""
        self._order: list[int] = []
        """What was due when the telling began, reversed."""
        self._gone: list[int] = []
        """Ids."""
        self._public: dict[int, MirrorNode] = {}
        """If the viewer does not see all: the public nodes as it sees them, by serial number."""
        self._is_border_stale = True
        self._open(list(mirror.names))
        if viewer.sees_all:
            self._due.update(dict.fromkeys(mirror.nodes))
        else:
            for owner in self._owners:
                self._due.update(mirror.by_owner[owner])

    def feed(self, changes: Changes) -> None:
        """The mirror has changed. *Cost*: O(changes of nodes that are seen)."""
        self._open(changes.opened)
        if self._viewer.sees_all:
            for of_owner in changes.by_owner.values():
                self._take_in(of_owner)
        else:
            for owner in changes.by_owner.keys() & self._owners.keys():
                self._take_in(changes.by_owner[owner])
        for number in changes.closed:
            self._owners.pop(number, None)

    def take(
        self, num_nodes: int, now_ms: int | None = None
    ) -> tuple[list[ViewedNode], list[int]] | None:
        """About ``num_nodes`` nodes to be told of next, with their ages at ``now_ms`` by the
        engine's clock (when it told the last news), and the ids of those that are gone; None if
        there is nothing to be told."""
        if not self._viewer.sees_all:
            if not self._mirror.is_whole:
                return None
            if self._is_border_stale:
                self._draw_public()
        if not self._due and not self._gone:
            return None
        self._now_ms = self._mirror.now_ms if now_ms is None else now_ms
        nodes: list[ViewedNode] = []
        # At once: what they hung below may be among the gone.
        for serial in self._in_order(self._moved):
            self._tell(serial, nodes)
        self._moved.clear()
        while self._due and len(nodes) < num_nodes:
            if not self._order:
                self._order = self._in_order(self._due)[::-1]
            serial = self._order.pop()
            if serial in self._due:
                self._tell(serial, nodes)
        gone, self._gone = sorted(self._gone), []
        return nodes, gone

    def find(self, node_id: int) -> MirrorNode | None:
        """A node that the viewer knows, as it sees it."""
        serial = self._serials.get(node_id)
        return None if serial is None else self._seen(serial)

    def _open(self, owners: list[int]) -> None:
        for number in owners:
            if self._viewer.owns(self._mirror.names[number]):
                self._owners[number] = OWN
            elif self._viewer.sees_all:
                self._num_owners += 1
                self._owners[number] = self._num_owners

    def _take_in(self, changes: OwnerChanges) -> None:
        for serial in changes.gone:
            self._forget(serial)
        for serial in changes.told:
            self._due[serial] = None
        self._moved.update(serial for serial in changes.moved if serial in self._ids)
        self._is_border_stale |= changes.has_border_changed

    def _forget(self, serial: int) -> None:
        self._due.pop(serial, None)
        self._moved.discard(serial)
        known = self._ids.pop(serial, None)
        if known is not None:
            del self._serials[known]
            self._gone.append(known)

    def _seen(self, serial: int) -> MirrorNode | None:
        return self._public.get(serial) or self._mirror.nodes.get(serial)

    def _in_order(self, serials: "dict[int, None] | set[int]") -> list[int]:
        if self._viewer.sees_all:
            return list(serials)
        return sorted(serials, key=self._rank)

    def _rank(self, serial: int) -> tuple[int, int]:
        """Parents first, then as own nodes were made: a public one counts as the first below."""
        node = self._public.get(serial)
        if node is not None:
            # Its idle time is of no use: there the first is kept.
            return node.start, node.idle_since_ms
        return self._mirror.nodes[serial].start, serial

    def _tell(self, serial: int, nodes: list[ViewedNode]) -> None:
        """Tell of a node, after those above it of which the viewer does not know."""
        way = [serial]
        while True:
            node = self._seen(way[-1])
            assert node is not None, "what is due is there"
            if node.parent == 0 or node.parent in self._ids:
                break
            way.append(node.parent)
        for one in reversed(way):
            self._due.pop(one, None)
            nodes.append(self._row(one))

    def _row(self, serial: int) -> ViewedNode:
        node = self._seen(serial)
        assert node is not None
        known = self._ids.get(serial)
        if known is None:
            self._num_ids += 1
            known = self._ids[serial] = self._num_ids
            self._serials[known] = serial
        is_told = self._viewer.sees_all or node.owner != PUBLIC_OWNER
        age_s = None
        if is_told and not node.locks:
            age_s = round(max(0, self._now_ms - node.idle_since_ms) / 1000, 1)
        return ViewedNode(
            id=known,
            parent=self._ids[node.parent] if node.parent else 0,
            start=node.start,
            tokens=node.end - node.start,
            pages=(node.end - 1) // self._page_size - node.start // self._page_size + 1,
            locks=node.locks if is_told else None,
            age_s=age_s,
            owner=PUBLIC_OWNER if node.owner == PUBLIC_OWNER else self._owners[node.owner],
        )

    def _draw_public(self) -> None:
        """Find the public nodes at which the viewer's ways part or leave, and tell what is new of
        them."""
        self._is_border_stale = False
        nodes = self._mirror.nodes
        first_below: dict[int, int] = {}
        """By public node on the way: the viewer's first node below."""
        num_below: dict[int, int] = {}
        """By public node on the way: how many ways come from below."""
        borders = self._mirror.borders
        # The oldest first: then each public node is climbed once, however many ways lead there.
        for top in sorted(top for owner in self._owners for top in borders.get(owner, ())):
            at = nodes[top].parent
            num_below[at] = 2
            while at and at not in first_below:
                first_below[at] = top
                at = nodes[at].parent
                if at:
                    num_below[at] = num_below.get(at, 0) + 1
        before, self._public = self._public, {}
        for serial in first_below:
            if num_below[serial] > 1:
                self._public[serial] = self._seen_public(serial, first_below, num_below)
        for serial in before:
            if serial not in self._public:
                self._forget(serial)
        for serial, node in self._public.items():
            old = before.get(serial)
            if old is None or old[:4] != node[:4]:
                self._due[serial] = None
                if old is not None and serial in self._ids:
                    self._moved.add(serial)

    def _seen_public(
        self, serial: int, first_below: dict[int, int], num_below: dict[int, int]
    ) -> MirrorNode:
        """A public node that goes up to the next one that the viewer sees."""
        nodes = self._mirror.nodes
        top = nodes[serial]
        while top.parent and num_below[top.parent] < 2:
            top = nodes[top.parent]
        return nodes[serial]._replace(
            parent=top.parent, start=top.start, locks=0, idle_since_ms=first_below[serial]
        )
