"""What the rows of a plan share, read off the tree, and the order in which they lie side by side.

Each row's lease has locked a node, and walking up from there two rows' ways meet where they part:

    root ─┬─ A ─┬─ B ─┬─ (row 0)      rows 0 and 2 part at B, these and 1 at A; 3 shares nothing.
          │     │     └─ (row 2)
          │     └─ (row 1)            In order: 3 1 0 2
          └─ (row 3)                  Levels: A, rows 1 to 4; B, rows 2 to 4

Rows below a node that ends at token e have the same pages ``[0, e // P)``: a page that ends by e is
covered by no edge below, so the way to the node supplies it, in the tree's rules, and a lease's
table begins with its way's. The page in which e lies may be another in each of them. So a level
ends at a whole page, and no other row need be asked. All of these pages' tokens are committed:
they were computed by steps whose results are known, and lie before every token that the row has
still to run. Hence a row always has keys of its own behind its levels.

Which of these places pay is chosen by ``cascade_levels.py``, for the fewest keys read by the costs
given. A row whose new tokens would cost more in a level than it has keys to share, most chunks of
prompts, is in none: else it would keep those from one that it shares with. Where none pays the rows
keep their order. Else those in no level come first, and in each level those that are in none inside
it; rows of the same levels keep their order.

A plan whose rows have the same leases and the same numbers of tokens, in the same order, as one of
the last two that were looked at gets the very same ``Cascade``. It is still right, whatever has
happened meanwhile:

- the first ``num_shared_pages`` entries of a lease's table never change while it lives, and levels
  lie within these. ``commit`` swaps own pages for the tree's, which are further on;
- a locked node is not evicted, cleared or forgotten, nor made public; a split by a newcomer parts
  an edge and no pages;
- who was preempted, has been readmitted or has forked has another lease, and so has whoever came
  upon the same nodes later, when they may have been cut. Leases are compared by identity and kept
  here, so that none is taken for a dead one's successor. A released lease holds an array of page
  ids and nothing else, and a plan of a single row drops them all.

What it misses: rows that come to share more by computing the same tokens (choices of one prompt
that say the same) are looked at again when membership changes, or a number of tokens.

Decides nothing but that: no pages, no locks. Costs: O(rows + nodes above them). For 256 rows about
100 µs, 330 µs if each of them leaves at another depth, and 10 µs where it remembers
(``bench/cascade_plan.py``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Final, NamedTuple

from radixserve.cache.lease import Lease
from radixserve.cache.node import Node
from radixserve.cascade import NO_CASCADE, Cascade, CascadeCosts, Level
from radixserve.scheduler.cascade_levels import choose_levels
from radixserve.scheduler.plan import PlannedRow

_NUM_REMEMBERED: Final = 2
"""Planning ahead, those whose next token cannot be foreseen run in every second step."""

_end: Final = attrgetter("end")


class ArrangedRows(NamedTuple):
    """A plan's rows in tree order, and what they share."""

    rows: tuple[PlannedRow, ...]
    cascade: Cascade


@dataclass(frozen=True, slots=True)
class _Remembered:
    leases: list[Lease | None]
    tokens: list[int]
    cascade: Cascade
    arrange: Callable[[Sequence[PlannedRow]], tuple[PlannedRow, ...]]


class CascadePlanner:
    """Arranges rows. ``costs``: the attention backend's."""

    def __init__(self, costs: CascadeCosts, page_size: int) -> None:
        self._costs = costs
        self._page_size = page_size
        self._remembered: list[_Remembered] = []
        """The newest first."""

    def arrange(self, rows: Sequence[PlannedRow]) -> ArrangedRows:
        """Order rows that are about to be launched, and say what they share. *Cost*: see above."""
        if len(rows) < 2:
            self._remembered.clear()
            return ArrangedRows(tuple(rows), NO_CASCADE)
        leases = [row.request.lease for row in rows]
        tokens = [row.num_scheduled_tokens for row in rows]
        for known in self._remembered:
            if known.leases == leases and known.tokens == tokens:
                break
        else:
            known = self._make(leases, tokens)
            del self._remembered[_NUM_REMEMBERED - 1 :]
            self._remembered.insert(0, known)
        return ArrangedRows(known.arrange(rows), known.cascade)

    def _make(self, leases: list[Lease | None], tokens: list[int]) -> _Remembered:
        nodes = []
        for lease in leases:
            assert lease is not None, "a planned request holds its pages"
            nodes.append(lease.node)
        order, levels = _arranged(nodes, tokens, self._page_size, self._costs)
        if not levels:
            return _Remembered(leases, tokens, NO_CASCADE, tuple)
        return _Remembered(leases, tokens, Cascade(tuple(levels)), itemgetter(*order))


def _arranged(
    nodes: Sequence[Node], tokens: Sequence[int], page_size: int, costs: CascadeCosts
) -> tuple[list[int], list[Level]]:
    """The rows' order and levels; no levels, no order. *Cost*: O(nodes on all ways)."""
    # Which row came through first, and where each met one that had come before it.
    first: dict[Node, int] = {}
    met: list[Node | None] = []
    token_keys = costs.token_keys
    for row, (node, count) in enumerate(zip(nodes, tokens, strict=True)):
        # In any level its tokens would cost more than all levels could spare the row.
        if token_keys * count >= node.end:
            met.append(None)
            continue
        above: Node | None = node
        while above is not None and above not in first:
            first[above] = row
            above = above.parent
        met.append(above)
    meeting = sorted([node for node in dict.fromkeys(met) if node is not None], key=_end)
    if not meeting or meeting[-1].end < page_size:
        return [], []
    number: dict[Node | None, int] = {None: -1}
    number.update(zip(meeting, range(len(meeting)), strict=True))
    # The last group on the part of the way that a row was the first to go: above that part, and
    # from one group in it to the next. In the end that is the row's own.
    last = [number[node] for node in met]
    parents = []
    for group, node in enumerate(meeting):
        row = first[node]
        parents.append(last[row])
        last[row] = group
    num_rows = [0] * len(meeting)
    num_tokens = [0] * len(meeting)
    for group, count in zip(last, tokens, strict=True):
        if group >= 0:
            num_rows[group] += 1
            num_tokens[group] += count
    pages = [node.end // page_size for node in meeting]
    ends = [count * page_size for count in pages]
    chosen = choose_levels(parents, ends, num_rows, num_tokens, costs)
    return _in_order(last, parents, pages, chosen) if True in chosen else ([], [])


def _in_order(
    groups: Sequence[int], parents: Sequence[int], pages: Sequence[int], chosen: Sequence[bool]
) -> tuple[list[int], list[Level]]:
    """Rows depth first, and the chosen groups as levels, which end at ``pages``."""
    # The kept group that each is, or is in. Last, at -1, is what is in none.
    kept = [-1] * (len(chosen) + 1)
    rows: dict[int, list[int]] = {-1: []}
    inside: dict[int, list[int]] = {-1: []}
    for group, is_chosen in enumerate(chosen):
        around = kept[group] = kept[parents[group]]
        if is_chosen:
            kept[group] = group
            inside[around].append(group)
            rows[group] = []
            inside[group] = []
    for row, group in enumerate(groups):
        rows[kept[group]].append(row)
    sizes = {group: len(own) for group, own in rows.items()}
    # The inner ones first.
    for group in reversed(rows):
        if group >= 0:
            sizes[kept[parents[group]]] += sizes[group]
    order = rows[-1]
    levels = []
    stack = inside[-1][::-1]
    while stack:
        group = stack.pop()
        around = kept[parents[group]]
        begin = pages[around] if around >= 0 else 0
        levels.append(Level(len(order), len(order) + sizes[group], begin, pages[group]))
        order += rows[group]
        stack += reversed(inside[group])
    return order, levels
