"""Prefixes that somebody asked to keep for a while: evicted after all others, while it lasts.

A *mark* says "keep the first ``depth`` tokens of this path until then". It lies on the node in
which that depth lies, and holds back that node alone: what is above has a child, and no inner node
is evictable. What hangs on the node behind the mark may go as ever, down to the mark's page:

    start         depth          end
      |============|--------------|      marked up to depth; pages behind it are anybody's
      |============|                     trimmed so far, the node is held back

``Retention`` stands between the tree and an eviction policy and shows it the nodes that are not
held back. It never refuses: if the policy has no node left, the node whose marks end soonest loses
them and is the policy's. So marks change which page is evicted, never how many can be.

The priority is one step, not a slope: as long as its time lasts a mark puts its pages behind all
that is unmarked, however worthless or dear that is, and then it is gone and they are judged like
any others. Between marked pages, those go first whose time ends soonest; in that sense alone a mark
weakens as it ages.

Bounds: a namespace's marks weigh BUDGET_SHARE of the pool at most; beyond that its oldest go. All
together weigh TOTAL_SHARE at most; beyond that the namespace whose marks weigh most, the new one
among them, gives up its oldest. So a few namespaces cannot crowd the marks of a modest one out;
many small ones that are one client's can. A mark weighs the pages down to its depth (what two of
them share counts for both), so there are never more marks than pages. One that alone weighs too
much is cut to what is allowed. A deeper mark on the same path that lasts as long takes an older
one's place.

Knows nodes as the policy does, and seconds of a given clock, which is held where it goes back.

Costs: nothing but a look at ``node.marks`` while there are none; a mark O(nodes on the path + marks
on them + log marks), amortised; its end O(marks on its node + log marks). Those on one node are few
but on public ones, where every namespace may have its own.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from radixserve.cache.eviction import EvictionPolicy
from radixserve.cache.node import Node, Root
from radixserve.ids import Namespace

BUDGET_SHARE: Final = 1 / 4
"""The share of the pool that marks of one namespace may hold back."""

TOTAL_SHARE: Final = 1 / 2
"""The share of the pool that all marks together may hold back."""


class Keep(NamedTuple):
    """A wish: keep the first ``num_tokens`` tokens for ``seconds`` after the lease ends."""

    num_tokens: int
    seconds: float


@dataclass(slots=True, eq=False)
class Mark:
    """A wish granted. Lies in ``node.marks`` as long as it lives. Mutable."""

    node: Node
    depth: int
    until_s: float
    num_pages: int
    namespace: Namespace
    serial: int


class Retention:
    """An ``EvictionPolicy`` that lets another decide among what nobody asked to keep."""

    __slots__ = (
        "_by_namespace",
        "_clock",
        "_ends",
        "_heaviest",
        "_held",
        "_held_ends",
        "_marks",
        "_now_s",
        "_page_size",
        "_serial",
        "_weights",
        "budget_pages",
        "policy",
        "total_pages",
        "weight_pages",
    )

    def __init__(
        self,
        policy: EvictionPolicy,
        clock: Callable[[], float],
        num_pages: int,
        page_size: int,
    ) -> None:
        self.policy = policy
        self.budget_pages = int(BUDGET_SHARE * num_pages)
        self.total_pages = int(TOTAL_SHARE * num_pages)
        self.weight_pages = 0
        """What all marks weigh."""
        self._clock = clock
        self._now_s = float("-inf")
        self._page_size = page_size
        self._serial = 0
        self._marks: set[Mark] = set()
        self._by_namespace: dict[Namespace, OrderedDict[Mark, None]] = {}
        """Oldest first."""
        self._weights: dict[Namespace, int] = {}
        # Heaps. Entries of what is no longer marked, weighed so, or held, are skipped, and swept
        # once they outnumber the living.
        self._heaviest: list[tuple[int, int, Namespace]] = []
        """By weight, negative."""
        self._ends: list[tuple[float, int, Mark]] = []
        self._held: dict[Node, int] = {}
        """Evictable nodes held back -> serial number of the living entry."""
        self._held_ends: list[tuple[float, int, Node]] = []

    @property
    def name(self) -> str:
        """The policy's: marks are honoured under any."""
        return self.policy.name

    def _now(self) -> float:
        self._now_s = max(self._now_s, self._clock())
        return self._now_s

    # Marks

    def mark(self, node: Node, keep: Keep, namespace: Namespace) -> None:
        """Mark the path to ``node``, which is locked, as far as the wish of somebody in
        ``namespace`` goes and is allowed. On public tokens each namespace has marks of its own.

        *Mutates* marks on that path, and on others if the budget is exceeded.
        """
        now_s = self._now()
        self._let_marks_end(now_s)
        until_s = now_s + keep.seconds
        allowed = min(self.budget_pages, self.total_pages) * self._page_size
        depth = min(keep.num_tokens, node.end, allowed)
        if depth < 1 or until_s <= now_s:
            return
        while node.start >= depth:
            assert node.parent is not None
            node = node.parent
        above = node
        while not isinstance(above, Root):
            for mark in tuple(above.marks or ()):
                if mark.namespace != namespace:
                    continue
                if mark.depth <= depth and mark.until_s <= until_s:
                    self._take(mark)
                elif mark.depth >= depth and mark.until_s >= until_s:
                    return
            assert above.parent is not None
            above = above.parent
        self._make_room(namespace, -(-depth // self._page_size))
        self._put(node, depth, until_s, namespace)

    def _make_room(self, namespace: Namespace, num_pages: int) -> None:
        while self._weights.get(namespace, 0) + num_pages > self.budget_pages:
            self._give_up(next(iter(self._by_namespace[namespace])))
        while self.weight_pages + num_pages > self.total_pages:
            heaviest = self._heaviest_namespace()
            own = self._weights.get(namespace, 0)
            if own and own + num_pages >= self._weights[heaviest]:
                heaviest = namespace
            self._give_up(next(iter(self._by_namespace[heaviest])))

    def _heaviest_namespace(self) -> Namespace:
        """The namespace whose marks weigh most. There are marks."""
        while True:
            weight, _, namespace = self._heaviest[0]
            if self._weights.get(namespace) == -weight:
                return namespace
            heapq.heappop(self._heaviest)

    def _weigh(self, namespace: Namespace, num_pages: int) -> None:
        """A namespace's marks weigh ``num_pages`` more, or less."""
        self.weight_pages += num_pages
        weight = self._weights.get(namespace, 0) + num_pages
        if weight:
            self._weights[namespace] = weight
            self._serial += 1
            heapq.heappush(self._heaviest, (-weight, self._serial, namespace))
        else:
            del self._weights[namespace]
        if len(self._heaviest) > 2 * len(self._weights) + 16:
            entries = enumerate(self._weights.items(), self._serial)
            self._heaviest = [(-weight, serial, name) for serial, (name, weight) in entries]
            self._serial += len(self._heaviest)
            heapq.heapify(self._heaviest)

    def _put(self, node: Node, depth: int, until_s: float, namespace: Namespace) -> None:
        num_pages = -(-depth // self._page_size)
        self._serial += 1
        mark = Mark(node, depth, until_s, num_pages, namespace, self._serial)
        node.marks = [*(node.marks or ()), mark]
        self._marks.add(mark)
        self._by_namespace.setdefault(namespace, OrderedDict())[mark] = None
        self._weigh(namespace, num_pages)
        if len(self._ends) > 2 * len(self._marks) + 16:
            self._ends = [entry for entry in self._ends if entry[2] in self._marks]
            heapq.heapify(self._ends)
        heapq.heappush(self._ends, (until_s, mark.serial, mark))

    def _take(self, mark: Mark) -> None:
        """The mark is no more. Its node may be held back without a reason now."""
        node, namespace = mark.node, mark.namespace
        assert node.marks is not None
        node.marks = [other for other in node.marks if other is not mark] or None
        self._marks.remove(mark)
        self._weigh(namespace, -mark.num_pages)
        del self._by_namespace[namespace][mark]
        if not self._by_namespace[namespace]:
            del self._by_namespace[namespace]

    def _give_up(self, mark: Mark) -> None:
        """As ``_take``, and the policy has the node if nothing else holds it back."""
        self._take(mark)
        node = mark.node
        if node in self._held:
            del self._held[node]
            self.add(node)

    def _let_marks_end(self, now_s: float) -> None:
        while self._ends and (self._ends[0][0] <= now_s or self._ends[0][2] not in self._marks):
            mark = heapq.heappop(self._ends)[2]
            if mark in self._marks:
                self._give_up(mark)

    def num_marks(self, namespace: Namespace) -> int:
        """How many marks a namespace has now. *Mutates*: marks whose time is over go."""
        self._let_marks_end(self._now())
        return len(self._by_namespace.get(namespace, ()))

    def _is_held_back(self, node: Node, end: int) -> bool:
        """Whether the last page of the edge, if it ended at ``end``, lies above a mark."""
        page_start = (end - 1) // self._page_size * self._page_size
        return node.marks is not None and max(mark.depth for mark in node.marks) > page_start

    # What may be evicted

    def touch(self, node: Node, num_counted_tokens: int = 0) -> None:
        """A lease lets go of this node and of all above it."""
        self.policy.touch(node, num_counted_tokens)

    def add(self, node: Node) -> None:
        """The node has become evictable: the policy has it, unless it is held back."""
        if node.marks is None or not self._is_held_back(node, node.end):
            self.policy.add(node)
        else:
            self._hold(node)

    def _hold(self, node: Node) -> None:
        assert node.marks is not None
        self._serial += 1
        self._held[node] = self._serial
        if len(self._held_ends) > 2 * len(self._held) + 16:
            self._held_ends = [entry for entry in self._held_ends if self._is_living(entry)]
            heapq.heapify(self._held_ends)
        until_s = max(mark.until_s for mark in node.marks)
        heapq.heappush(self._held_ends, (until_s, self._serial, node))

    def _is_living(self, entry: tuple[float, int, Node]) -> bool:
        return self._held.get(entry[2]) == entry[1]

    def remove(self, node: Node) -> None:
        """The node has stopped being evictable."""
        if self._held.pop(node, None) is None:
            self.policy.remove(node)

    def victim(self) -> Node | None:
        """The policy's victim; if it has none, the node whose marks end soonest."""
        if self._ends:
            self._let_marks_end(self._now())
        node = self.policy.victim()
        if node is not None or not self._held:
            return node
        while not self._is_living(self._held_ends[0]):
            heapq.heappop(self._held_ends)
        node = heapq.heappop(self._held_ends)[2]
        del self._held[node]
        for mark in tuple(node.marks or ()):
            self._take(mark)
        self.policy.add(node)
        return self.policy.victim()

    def floor(self, node: Node) -> int:
        """As the policy says, but not above a mark."""
        depth = self.policy.floor(node)
        if node.marks is None:
            return depth
        return max(depth, *(mark.depth for mark in node.marks))

    # What happens to nodes

    def split(self, upper: Node, lower: Node) -> None:
        """Each half has the marks that lie in it; the lower one may have lost what held it back."""
        self.policy.split(upper, lower)
        if lower.marks is not None:
            marks = lower.marks
            upper.marks = [mark for mark in marks if mark.depth <= upper.end] or None
            lower.marks = [mark for mark in marks if mark.depth > upper.end] or None
            for mark in upper.marks or ():
                mark.node = upper
            if lower in self._held and not self._is_held_back(lower, lower.end):
                del self._held[lower]
                self.policy.add(lower)

    def merge(self, chain: Sequence[Node], kept: Node) -> None:
        """One node has all marks of the chain."""
        self.policy.merge(chain, kept)
        marks = [mark for node in chain for mark in node.marks or ()]
        for node in chain:
            node.marks = None
        kept.marks = marks or None
        for mark in marks:
            mark.node = kept

    def trim(self, node: Node, end: int) -> None:
        """Eviction is about to cut a node that the policy has; what is left may be held back."""
        self.policy.trim(node, end)
        if node.marks is None:
            return
        assert max(mark.depth for mark in node.marks) <= end, f"{node} is cut into a mark"
        if self._is_held_back(node, end):
            self.policy.remove(node)
            self._hold(node)

    def drop(self, node: Node) -> None:
        """What is forgotten is marked no longer."""
        self.policy.drop(node)
        for mark in node.marks or ():
            self._take(mark)

    def __contains__(self, node: Node) -> bool:
        return node in self._held or node in self.policy

    def __len__(self) -> int:
        return len(self._held) + len(self.policy)
