"""Which keys each token meets, and where that leaves what: read off a step's work."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from radixserve_kernels.paged_attention.items import TileShape
from radixserve_kernels.paged_attention.level_work import LEVEL_FIELDS
from radixserve_kernels.paged_attention.splits import ALIGNMENT
from radixserve_kernels.paged_attention.work import Work

Rows = list[tuple[int, int]]
"""(new tokens, keys) of every row."""

Levels = list[tuple[int, int, int, int]]
"""(first row, end row, first key, end key), outer ones first."""


def arrays(rows: Rows, levels: Levels) -> tuple[npt.NDArray[np.int32], ...]:
    """``query_start``, ``context_lens`` and ``levels`` as planning takes them."""
    num_new = np.array([row[0] for row in rows], dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(num_new)]).astype(np.int32)
    lengths = np.array([row[1] for row in rows], dtype=np.int32)
    return starts, lengths, np.array(levels, dtype=np.int32).reshape(-1, LEVEL_FIELDS)


def fields(items: npt.NDArray[np.int32]) -> list[tuple[int, ...]]:
    return [tuple(item) for item in items.tolist()]


@dataclass(frozen=True, slots=True)
class Piece:
    """Keys ``[first_key, end_key)`` as a token meets them in one item."""

    first_key: int
    end_key: int
    number: int
    """Which of the token's partial results it leaves; -1: it is alone."""
    row: int
    """Whose page table is read."""


def check_covering(
    work: Work, rows: Rows, levels: Levels, shape: TileShape
) -> dict[int, list[Piece]]:
    """Every token meets every key that it sees once, by its own row's table or, in a level's rows,
    by another's of them; and its partial results have slots of their own, which its merge names.

    Returns the pieces of each token, ascending.
    """
    token_row = [row for row, (num_new, _) in enumerate(rows) for _ in range(num_new)]
    token_position = [length - new + i for new, length in rows for i in range(new)]
    pieces: dict[int, list[Piece]] = {token: [] for token in range(len(token_row))}
    for items, height in ((work.short_items, shape.short), (work.tall_items, shape.tall)):
        for row, first, count, position, first_key, end_key, number, spare in fields(items):
            assert 1 <= count * shape.group <= height
            assert first_key % ALIGNMENT == 0
            assert first_key < end_key <= position + count
            assert spare == 0
            for i in range(count):
                if token_row[first + i] != row or token_position[first + i] != position + i:
                    # A level's: nothing of it is masked, and the tables agree.
                    assert end_key <= position
                    assert _share(levels, row, token_row[first + i], first_key, end_key)
                pieces[first + i].append(Piece(first_key, end_key, number, row))
    merges = {token: tuple(rest) for token, *rest in fields(work.merges)}
    assert len(merges) == len(work.merges)
    assert len(work.first_slots) == len(token_row)
    taken: Counter[int] = Counter()
    for token, runs in pieces.items():
        runs.sort(key=lambda piece: piece.first_key)
        assert [run.first_key for run in runs] == [0, *(run.end_key for run in runs[:-1])]
        assert runs[-1].end_key > token_position[token]
        if len(runs) == 1:
            assert runs[0].number == -1
            assert token not in merges
        else:
            first_slot = int(work.first_slots[token])
            assert [run.number for run in runs] == list(range(len(runs)))
            assert merges.pop(token) == (first_slot, len(runs), 0)
            taken.update(range(first_slot, first_slot + len(runs)))
    assert not merges
    assert taken == Counter(range(work.num_partials))
    return pieces


def _share(levels: Levels, row: int, other: int, first_key: int, end_key: int) -> bool:
    """Whether the levels that hold both rows hold these keys."""
    low, high = sorted((row, other))
    both = [level for level in levels if level[0] <= low and high < level[1]]
    return bool(both) and both[0][2] <= first_key and end_key <= max(level[3] for level in both)
