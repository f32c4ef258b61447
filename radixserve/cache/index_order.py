"""The evictable nodes in order of an index that depends on a class and on an age.

    cell (class, age bucket)    a queue, the node untouched longest in front

All nodes of a cell are worth the same, so the order is one of cells: the next victim is the front
of the least non-empty one. A node walks from cell to cell as it ages; it is moved when its old cell
is next looked at after its time, together with its neighbours in the queue. A new index reorders
cells and touches no node. A cell just looked at is left alone for 1/16 of its greatest age, so that
a look moves several nodes; each may be that late.

A node that enters with an old time goes to the front of its cell if it is older than the front,
else to the back; in between it may wait for those before it, hence age late, by one bucket at most.

Costs: ``enter`` and ``leave`` O(log cells); ``first`` amortised O(log cells) plus the moves, of
which a node makes at most NUM_AGES between two touches. Of the NUM_CLASSES * NUM_AGES cells few are
in use.
"""

import heapq
import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from radixserve.cache.node import Node
from radixserve.cache.return_class import NUM_CLASSES
from radixserve.cache.return_statistics import AGE_EDGES_S, NUM_AGES

_NUM_CELLS: Final = NUM_CLASSES * NUM_AGES
_UPPER_EDGES_S: Final = (*AGE_EDGES_S[1:], float("inf"))
_PATIENCE: Final = 1 / 16
"""For how much of its greatest age a cell is left alone once it has been looked at."""


class IndexOrder:
    """Queues by cell. Knows nodes as handles only."""

    __slots__ = ("_cell_of", "_cells", "_due", "_due_at", "_index", "_is_ranked", "_ranked")

    def __init__(self) -> None:
        self._index: Sequence[float] = [0.0] * _NUM_CELLS
        self._cells: dict[int, OrderedDict[Node, float]] = {}
        self._cell_of: dict[Node, int] = {}
        # Two heaps of cells: by index, each cell once; and by the time when a cell's front gets too
        # old for it, of which ``_due_at`` names the living entry. Empty cells are dropped when they
        # come up.
        self._ranked: list[tuple[float, int, int]] = []
        self._is_ranked: set[int] = set()
        self._due: list[tuple[float, int]] = []
        self._due_at: dict[int, float] = {}

    def set_index(self, index: Sequence[float]) -> None:
        """Order by ``index``, by class and in it by age. *Cost*: O(non-empty cells)."""
        self._index = index
        self._is_ranked = {cell for cell in self._is_ranked if self._cells.get(cell)}
        self._ranked = [self._rank(cell) for cell in self._is_ranked]
        heapq.heapify(self._ranked)

    def _rank(self, cell: int) -> tuple[float, int, int]:
        # Of equals the older ones first: where nothing is known yet, that is roughly LRU.
        return self._index[cell], -(cell % NUM_AGES), cell

    def enter(self, node: Node, class_: int, touched_s: float, now_s: float) -> None:
        """The node, of that class and last touched then, is evictable now."""
        age = max(bisect_right(AGE_EDGES_S, now_s - touched_s) - 1, 0)
        cell = class_ * NUM_AGES + age
        self._cell_of[node] = cell
        queue = self._cells.get(cell)
        if queue is None:
            queue = self._cells[cell] = OrderedDict()
        if not queue:
            queue[node] = touched_s
            if cell not in self._is_ranked:
                self._is_ranked.add(cell)
                heapq.heappush(self._ranked, self._rank(cell))
            self._expect(cell, touched_s + _UPPER_EDGES_S[age])
            return
        front_s = next(iter(queue.values()))
        queue[node] = touched_s
        if touched_s < front_s:
            queue.move_to_end(node, last=False)
            self._expect(cell, touched_s + _UPPER_EDGES_S[age])

    def _expect(self, cell: int, time_s: float) -> None:
        """Look at a cell at that time, if not sooner anyway."""
        if time_s < self._due_at.get(cell, math.inf):
            self._due_at[cell] = time_s
            heapq.heappush(self._due, (time_s, cell))

    def leave(self, node: Node) -> None:
        """The node is not evictable any more. *Raises* ``KeyError`` if it was not."""
        del self._cells[self._cell_of.pop(node)][node]

    def first(self, now_s: float) -> Node | None:
        """The node of the least index by now, or None. It stays."""
        self._move_the_aged(now_s)
        ranked = self._ranked
        while ranked:
            cell = ranked[0][2]
            queue = self._cells.get(cell)
            if queue:
                return next(iter(queue))
            heapq.heappop(ranked)
            self._is_ranked.remove(cell)
            self._cells.pop(cell, None)
        return None

    def _move_the_aged(self, now_s: float) -> None:
        due = self._due
        while due and due[0][0] <= now_s:
            time_s, cell = heapq.heappop(due)
            if self._due_at.get(cell) != time_s:
                continue
            del self._due_at[cell]
            queue = self._cells.get(cell)
            class_, age = divmod(cell, NUM_AGES)
            upper_s = _UPPER_EDGES_S[age]
            next_upper_s = _UPPER_EDGES_S[min(age + 1, NUM_AGES - 1)]
            while queue:
                node, touched_s = next(iter(queue.items()))
                # The same difference as in ``enter``: a sum may round to the other side of the
                # edge, and then the node would enter the cell that it has just left, for ever.
                if now_s - touched_s < upper_s:
                    later_s = math.nextafter(now_s + _PATIENCE * upper_s, math.inf)
                    self._expect(cell, max(touched_s + upper_s, later_s))
                    break
                del queue[node]
                # Most go to the next cell together, all of them younger than those there.
                older = self._cells.get(cell + 1) if now_s - touched_s < next_upper_s else None
                if older and touched_s >= next(iter(older.values())):
                    older[node] = touched_s
                    self._cell_of[node] = cell + 1
                else:
                    self.enter(node, class_, touched_s, now_s)

    def __contains__(self, node: Node) -> bool:
        return node in self._cell_of

    def __len__(self) -> int:
        return len(self._cell_of)
