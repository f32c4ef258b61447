"""How a step is cut: every query meets every key it may see once, by its own row's numbers only."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve_kernels.paged_attention.work import (
    ALIGNMENT,
    MAX_ROW_PARTIALS,
    MAX_SPLIT_QUERY,
    MAX_SPLITS,
    SPLIT_TOKENS,
    Work,
    plan_waves,
    plan_work,
    tile_shape,
)

Rows = list[tuple[int, int]]


def plan(rows: Rows, group: int = 4, split_tokens: int = SPLIT_TOKENS) -> Work:
    """``rows`` are (new tokens, keys)."""
    num_new = np.array([row[0] for row in rows], dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(num_new)]).astype(np.int32)
    lengths = np.array([row[1] for row in rows], dtype=np.int32)
    return plan_work(starts, lengths, tile_shape(group), split_tokens)


def fields(items: npt.NDArray[np.int32]) -> list[tuple[int, ...]]:
    return [tuple(item) for item in items.tolist()]


@st.composite
def rows_of(draw: st.DrawFn) -> Rows:
    counts = st.one_of(st.integers(0, 6), st.integers(0, 300))
    cached = st.one_of(st.integers(0, 40), st.integers(0, 70_000))
    pairs = draw(st.lists(st.tuples(counts, cached), max_size=6))
    return [(num_new, num_new + before) for num_new, before in pairs]


@settings(max_examples=200)
@given(rows=rows_of(), group=st.sampled_from((1, 3, 4, 7, 8, 20, 128)))
def test_every_query_meets_its_keys_once(rows: Rows, group: int) -> None:
    work, shape = plan(rows, group), tile_shape(group)
    token_row = [row for row, (num_new, _) in enumerate(rows) for _ in range(num_new)]
    token_position = [length - new + i for new, length in rows for i in range(new)]
    pieces: dict[int, list[tuple[int, int, int]]] = {token: [] for token in range(len(token_row))}
    for items, height in ((work.short_items, shape.short), (work.tall_items, shape.tall)):
        for row, first, count, position, first_key, end_key, slot, spare in fields(items):
            assert 1 <= count * group <= height
            assert first_key % ALIGNMENT == 0
            assert first_key < end_key <= position + count
            assert spare == 0
            for i in range(count):
                assert token_row[first + i] == row
                assert token_position[first + i] == position + i
                pieces[first + i].append((first_key, end_key, -1 if slot < 0 else slot + i))
    merges = {token: rest for token, *rest in fields(work.merges)}
    assert len(merges) == len(work.merges)
    taken: Counter[int] = Counter()
    for token, runs in pieces.items():
        runs.sort()
        assert [run[0] for run in runs] == [0, *(run[1] for run in runs[:-1])]
        assert runs[-1][1] > token_position[token]
        if len(runs) == 1:
            assert runs[0][2] == -1
            assert token not in merges
        else:
            first, count, step = merges.pop(token)
            assert [run[2] for run in runs] == [first + i * step for i in range(count)]
            taken.update(run[2] for run in runs)
    assert not merges
    assert taken == Counter(range(work.num_partials))


@settings(max_examples=100)
@given(rows=rows_of(), group=st.sampled_from((1, 4, 7)))
def test_a_row_is_cut_by_its_own_numbers(rows: Rows, group: int) -> None:
    work = plan(rows, group)
    for row, numbers in enumerate(rows):
        alone = plan([numbers], group)
        for items, own in (
            (work.short_items, alone.short_items),
            (work.tall_items, alone.tall_items),
        ):
            mine = items[items[:, 0] == row]
            assert np.array_equal(mine[:, 2:6], own[:, 2:6])
            assert np.array_equal(mine[:, 6] < 0, own[:, 6] < 0)


@settings(max_examples=200)
@given(num_new=st.integers(1, 200), cached=st.integers(0, 10**6), group=st.integers(1, 32))
def test_partials_are_few(num_new: int, cached: int, group: int) -> None:
    work = plan([(num_new, num_new + cached)], group)
    splits = work.merges[:, 2].max(initial=1)
    assert splits <= MAX_SPLITS
    assert work.num_partials <= MAX_ROW_PARTIALS
    if num_new > MAX_SPLIT_QUERY:
        assert work.num_partials == 0
    # Written and read in float32, by every query head, at most a quarter of the keys and values
    # in 16 bits, but for a last split that is short.
    assert (splits - 1) * num_new * group * 2 <= (num_new + cached) / 4


def test_rows_are_split_at_fixed_places() -> None:
    work = plan([(1, 256), (1, 257), (1, 512), (5, 600)])
    assert [item[4:7] for item in fields(work.short_items)] == [
        (0, 256, -1),
        (0, 256, 0),
        (256, 257, 1),
        (0, 256, 2),
        (256, 512, 3),
    ]
    # 20 packed rows: a tall tile.
    assert [item[1:7] for item in fields(work.tall_items)] == [
        (3, 5, 595, 0, 256, 4),
        (3, 5, 595, 256, 512, 9),
        (3, 5, 595, 512, 600, 14),
    ]
    assert fields(work.merges) == [
        (1, 0, 2, 1),
        (2, 2, 2, 1),
        *((3 + i, 4 + i, 3, 5) for i in range(5)),
    ]
    assert work.num_partials == 19


def test_the_split_length_can_be_chosen() -> None:
    assert plan([(1, 1024)]).num_partials == 4
    assert plan([(1, 1024)], split_tokens=512).num_partials == 2


def test_tall_items_with_the_most_keys_come_first() -> None:
    work = plan([(70, 70), (200, 500)])
    keys = work.tall_items[:, 5] - work.tall_items[:, 4]
    assert len(keys) > 4
    assert np.array_equal(keys, np.sort(keys)[::-1])


def test_a_step_of_no_token_has_no_work() -> None:
    for rows in ([], [(0, 0), (0, 9)]):
        work = plan(list(rows))
        assert (len(work.short_items), len(work.tall_items), len(work.merges)) == (0, 0, 0)
        assert work.num_partials == 0


def test_refuses_what_cannot_be() -> None:
    one = np.array([0, 1], dtype=np.int32)
    with pytest.raises(ValueError, match="0 to context_lens new tokens"):
        plan([(3, 2)])
    with pytest.raises(ValueError, match="0 to context_lens new tokens"):
        plan_work(one[::-1], one[1:], tile_shape(1))
    with pytest.raises(ValueError, match="got 2 and 2"):
        plan_work(one, one, tile_shape(1))
    for split_tokens in (0, 100):
        with pytest.raises(ValueError, match=f"multiple of {ALIGNMENT}, got {split_tokens}"):
            plan([(1, 1)], split_tokens=split_tokens)
    for group in (0, 129):
        with pytest.raises(ValueError, match=f"1 to 128 query heads a KV head, got {group}"):
            tile_shape(group)


@settings(max_examples=100)
@given(rows=rows_of(), max_partials=st.sampled_from((MAX_ROW_PARTIALS, 700, 1500)))
def test_waves_are_the_same_work_in_parts_that_fit(rows: Rows, max_partials: int) -> None:
    num_new = np.array([row[0] for row in rows], dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(num_new)]).astype(np.int32)
    lengths = np.array([row[1] for row in rows], dtype=np.int32)
    shape = tile_shape(4)
    whole, waves = (
        plan_work(starts, lengths, shape),
        plan_waves(starts, lengths, shape, max_partials),
    )
    assert all(wave.num_partials <= max_partials for wave in waves)
    assert len(waves) == 1 or whole.num_partials > max_partials
    assert sum(wave.num_partials for wave in waves) == whole.num_partials
    # Slots begin anew in each wave; all else is as in one.
    for name, columns in (("short_items", 6), ("tall_items", 6)):
        parts = [row[:columns] for wave in waves for row in fields(getattr(wave, name))]
        assert Counter(parts) == Counter(row[:columns] for row in fields(getattr(whole, name)))
    merged = [(row[0], row[2], row[3]) for wave in waves for row in fields(wave.merges)]
    assert merged == [(row[0], row[2], row[3]) for row in fields(whole.merges)]


def test_a_row_cannot_be_cut_into_waves() -> None:
    starts, lengths = np.array([0, 1], dtype=np.int32), np.array([5], dtype=np.int32)
    with pytest.raises(ValueError, match=f"at least {MAX_ROW_PARTIALS}, got 3"):
        plan_waves(starts, lengths, tile_shape(4), 3)
