"""Which of the places where rows part are worth a level of a cascade: the fewest keys read.

Rows that share pages form a tree of *groups*: a group is the rows below one place where they part,
with the keys from the group around it to there. Each row's attention then reads, in keys:

    kept group       its run once                   level_keys + token_keys * tokens + run
    dropped group    its run joins the runs behind  run * readers

A run is the group's own keys and, before them, those of the dropped groups around it, up to the
next kept one. ``readers`` are the group's rows and kept groups that have nothing kept in between.
So a group is worth a level if ``(readers - 1) * run > level_keys + token_keys * tokens``, but each
choice changes the runs inside and the readers around it. What is chosen here is the minimum of the
sum over all choices, so it is never worse than no level at all or any single one.

How. Let y be where the kept group around g ends, counted in keys from the first token. The least
cost of all that lies in g is a function of y, made of straight pieces and concave: the later the
groups in g are read from, the more of them are not worth it. Kept, g costs ``a - y``: one reader.
Dropped, it costs the sum over its rows and groups, which falls by at least two a key. So there is
one *limit* for each group: it is kept if and only if ``y < limit``, and to the far left, where
every group is kept, the sum is ``far - branches * y``. Upwards from there each limit of a group
inside makes the fall steeper, by the readers that it then has less one. These *bends* in absolute
places are handed up from group to group: those beyond the limit of a kept group are forgotten, and
so are those that lie behind the group's beginning. Then one way down settles all choices.

Knows no tree and no pages, only numbers. Cost: O(groups) where groups hang in a row or are kept;
where several dropped ones meet, their bends are merged.
"""

from collections import deque
from collections.abc import Sequence
from typing import TypeAlias

from radixserve.cascade import CascadeCosts

_Bends: TypeAlias = deque[tuple[float, int]]
"""Place and steepening of each, the last place first."""


def choose_levels(
    parents: Sequence[int],
    ends: Sequence[int],
    num_rows: Sequence[int],
    num_tokens: Sequence[int],
    costs: CascadeCosts,
) -> list[bool]:
    """Which groups to keep.

    A group comes behind the one around it, whose index is in ``parents`` (-1: none). ``ends``: the
    keys from the first token to its end, no fewer than its parent's. ``num_rows`` and
    ``num_tokens``: the rows that are in it and in no group inside it, and their new tokens. Rows
    and groups directly in a group are two at least.
    """
    # What is directly in a group costs ``far - branches * y`` to the far left, where everything
    # inside is kept, and ``near - readers * y`` just before its end, beyond all bends.
    branches, readers = list(num_rows), list(num_rows)
    far: list[float] = [end * count for end, count in zip(ends, num_rows, strict=True)]
    near = far.copy()
    tokens = list(num_tokens)
    bends: list[_Bends | None] = [None] * len(parents)
    limits: list[float] = [0.0] * len(parents)
    level_keys, token_keys = costs.level_keys, costs.token_keys
    for group in range(len(parents) - 1, -1, -1):
        end, parent, own_tokens, inner = ends[group], parents[group], tokens[group], bends[group]
        num_branches, total = branches[group], far[group]
        num_readers, read = readers[group], near[group]
        assert num_branches > 1, f"group {group} has {num_branches} rows and groups"
        kept = level_keys + token_keys * own_tokens + end + read - num_readers * end
        # Where ``kept - y`` and the sum meet, on the piece where they do.
        limit = (total - kept) / (num_branches - 1)
        while inner and inner[-1][0] < limit:
            place, steepening = inner.pop()
            num_branches += steepening
            total += steepening * place
            limit = (total - kept) / (num_branches - 1)
        limits[group] = limit
        if parent < 0:
            continue
        begin = ends[parent]
        if limit >= begin:
            inner, num_readers, read = None, 1, kept
        else:
            while inner and inner[0][0] >= begin:
                place, steepening = inner.popleft()
                num_readers -= steepening
                read -= steepening * place
            if inner:
                inner.append((limit, num_branches - 1))
            else:
                inner = deque(((limit, num_branches - 1),))
            others = bends[parent]
            if others:
                inner = deque(sorted((*others, *inner), reverse=True))
            bends[parent] = inner
        branches[parent] += 1
        far[parent] += kept
        readers[parent] += num_readers
        near[parent] += read
        tokens[parent] += own_tokens
    return _choose(parents, ends, limits)


def _choose(parents: Sequence[int], ends: Sequence[int], limits: Sequence[float]) -> list[bool]:
    """Keep whichever begins before its limit, the outer ones first."""
    kept_ends: list[int] = []
    chosen = []
    for parent, end, limit in zip(parents, ends, limits, strict=True):
        begin = kept_ends[parent] if parent >= 0 else 0
        # Rounding must not make a level without keys.
        is_kept = begin < limit and begin < end
        chosen.append(is_kept)
        kept_ends.append(end if is_kept else begin)
    return chosen
