"""Shared keys are read once: every query still meets every key once, and the same keys together."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve_kernels.paged_attention.items import tile_shape
from radixserve_kernels.paged_attention.splits import (
    MAX_ROW_PARTIALS,
    MAX_SPLITS,
    SPLIT_TOKENS,
    least_length,
)
from radixserve_kernels.paged_attention.waves import plan_waves
from radixserve_kernels.paged_attention.work import Work, plan_work
from tests.kernels.covering import Levels, Rows, arrays, check_covering, fields

PAGE = 16
GROUPS = st.sampled_from((1, 3, 4, 7, 8, 20, 64))


def plan(rows: Rows, levels: Levels, group: int = 4, split_tokens: int = SPLIT_TOKENS) -> Work:
    starts, lengths, array = arrays(rows, levels)
    return plan_work(starts, lengths, tile_shape(group), split_tokens, array)


@st.composite
def cascades(draw: st.DrawFn, longest: int = 40_000) -> tuple[Rows, Levels]:
    """Rows, most of them of one token, and nested levels of whole pages."""
    counts = st.one_of(st.just(1), st.just(1), st.integers(1, 6), st.integers(1, 90))
    cached = st.one_of(st.integers(0, 900), st.integers(0, longest))
    pairs = draw(st.lists(st.tuples(counts, cached), min_size=2, max_size=14))
    levels: Levels = []

    def divide(first_row: int, end_row: int, first_page: int) -> None:
        most = min(cached for _, cached in pairs[first_row:end_row]) // PAGE
        if end_row - first_row < 2 or most <= first_page:
            return
        end_page = draw(st.integers(first_page + 1, most))
        levels.append((first_row, end_row, first_page * PAGE, end_page * PAGE))
        inner = sorted(draw(st.sets(st.integers(first_row, end_row), max_size=4)))
        for first, end in pairwise(inner):
            divide(first, end, end_page)

    borders = sorted({0, len(pairs), *draw(st.sets(st.integers(0, len(pairs)), max_size=2))})
    for first, end in pairwise(borders):
        divide(first, end, 0)
    return [(new, new + before) for new, before in pairs], levels


@settings(max_examples=250)
@given(cascade=cascades(), group=GROUPS, split_tokens=st.sampled_from((256, 512)))
def test_every_query_meets_its_keys_once(
    cascade: tuple[Rows, Levels], group: int, split_tokens: int
) -> None:
    rows, levels = cascade
    work = plan(rows, levels, group, split_tokens)
    pieces = check_covering(work, rows, levels, tile_shape(group))
    # What a level's rows share, between the borders of splits, none of them reads by itself.
    least = least_length(group, split_tokens)
    reads = [num_new * group * 8 <= least for num_new, _ in rows]
    starts = arrays(rows, levels)[0]
    for first_row, end_row, *keys in levels:
        first_key, end_key = (key // least * least for key in keys)
        if first_key == end_key or not all(reads[first_row:end_row]):
            continue
        tokens = int(starts[end_row] - starts[first_row])
        items = [
            item
            for item in fields(np.concatenate([work.short_items, work.tall_items]))
            if item[0] == first_row and item[3] == end_key and first_key <= item[4] < end_key
        ]
        by_keys: dict[tuple[int, int], int] = {}
        for item in items:
            by_keys[item[4], item[5]] = by_keys.get((item[4], item[5]), 0) + item[2]
        assert min(by_keys)[0] == first_key
        assert set(by_keys.values()) == {tokens}
        for token in range(starts[first_row], starts[end_row]):
            inside = [p for p in pieces[token] if first_key <= p.first_key < end_key]
            assert {(p.first_key, p.end_key) for p in inside} == set(by_keys)
            assert {p.row for p in inside} == {first_row}


@settings(max_examples=150)
@given(cascade=cascades(), group=GROUPS)
def test_the_same_keys_meet_in_a_partial_as_without_levels(
    cascade: tuple[Rows, Levels], group: int
) -> None:
    """Up to 64 splits. Beyond it a level's splits may be shorter, never longer."""
    rows, levels = cascade
    shape, least = tile_shape(group), least_length(group, SPLIT_TOKENS)
    shared = check_covering(plan(rows, levels, group), rows, levels, shape)
    alone = check_covering(plan(rows, [], group), rows, [], shape)
    token = 0
    for num_new, length in rows:
        for _ in range(num_new):
            ours, theirs = shared[token], alone[token]
            if length <= MAX_SPLITS * least or num_new * group * 8 > least:
                cut = [(piece.first_key, piece.end_key) for piece in theirs]
                assert [(piece.first_key, piece.end_key) for piece in ours] == cut
            else:
                assert {piece.first_key for piece in theirs} >= {0}
                assert len(ours) >= len(theirs)
                longest = max(piece.end_key - piece.first_key for piece in theirs)
                assert all(piece.end_key - piece.first_key <= longest for piece in ours)
            token += 1


@settings(max_examples=100)
@given(cascade=cascades(), group=st.sampled_from((1, 4, 7)))
def test_a_level_changes_nothing_for_rows_that_do_not_read_it(
    cascade: tuple[Rows, Levels], group: int
) -> None:
    rows, levels = cascade
    work = plan(rows, levels, group)
    for row, numbers in enumerate(rows):
        if any(first <= row < end for first, end, *_ in levels):
            continue
        alone = plan([numbers], [], group)
        for items, own in (
            (work.short_items, alone.short_items),
            (work.tall_items, alone.tall_items),
        ):
            assert np.array_equal(items[items[:, 0] == row][:, 2:], own[:, 2:])


def test_levels_are_cut_into_splits_and_tiles() -> None:
    # 40 rows of 4 heads: two tall tiles; two of them: a short one.
    rows = [(1, 700 + row) for row in range(40)]
    work = plan(rows, [(0, 40, 0, 528), (10, 12, 528, 672)])
    assert [item[:7] for item in fields(work.tall_items)] == [
        (0, 0, 32, 512, 0, 256, 0),
        (0, 32, 8, 512, 0, 256, 0),
        (0, 0, 32, 512, 256, 512, 1),
        (0, 32, 8, 512, 256, 512, 1),
    ]
    # What is no whole split of the levels, and the inner one altogether, is the rows' own.
    assert [item[:7] for item in fields(work.short_items)] == [
        (row, row, 1, 699 + row, 512, 700 + row, 2) for row in range(40)
    ]
    assert fields(work.merges) == [(row, 3 * row, 3, 0) for row in range(40)]
    deeper = plan(rows, [(0, 40, 0, 256), (10, 12, 256, 512)])
    assert fields(deeper.short_items)[0][:7] == (10, 10, 2, 512, 256, 512, 1)
    assert deeper.has_levels


def test_a_row_of_many_tokens_reads_no_level() -> None:
    # At 4 heads, 8 new tokens are 32 packed rows, whose splits are as short as splits get.
    rows = [(1, 600), (8, 600), (9, 600), (1, 600), (40, 600), (1, 600), (1, 600)]
    work = plan(rows, [(0, 7, 0, 512)])
    levels = [item for item in fields(work.tall_items) + fields(work.short_items) if item[3] == 512]
    # Rows 0 and 1, rows 5 and 6; row 3 is alone among long ones.
    assert {item[:3] for item in levels} == {(0, 0, 9), (5, 59, 2)}


def test_splits_of_long_levels_end_with_their_levels() -> None:
    """Beyond 64 splits a level's are longer, and its borders no multiples of their length."""
    rows, levels = [(1, 100_000)] * 3, [(0, 3, 0, 17_200), (0, 2, 17_200, 99_000)]
    pieces = check_covering(plan(rows, levels), rows, levels, tile_shape(4))
    lengths = [sorted({p.end_key - p.first_key for p in pieces[token]}) for token in (0, 2)]
    assert lengths[0] == [256, 512, 768, 1_184, 1_792]
    assert lengths[1] == [256, 512, 768, 1_440, 1_792]


def test_a_step_of_many_levels_has_few_more_partials_than_one_of_none() -> None:
    rows = [(1, 9_000)] * 64
    levels = [(0, 64, 0, 4_096), *((row, row + 4, 4_096, 8_192) for row in range(0, 64, 4))]
    assert plan(rows, levels).num_partials == plan(rows, []).num_partials
    long = [(1, 100_000)] * 8
    assert plan(long, [(0, 8, 0, 99_000)]).num_partials <= plan(long, []).num_partials + 2 * 8


@settings(max_examples=150)
@given(cascade=cascades(), max_partials=st.sampled_from((MAX_ROW_PARTIALS, 700, 1_500)))
def test_waves_are_the_same_rows_in_parts_that_fit(
    cascade: tuple[Rows, Levels], max_partials: int
) -> None:
    rows, levels = cascade
    shape = tile_shape(4)
    starts, lengths, array = arrays(rows, levels)
    whole = plan_work(starts, lengths, shape, levels=array)
    waves = plan_waves(starts, lengths, shape, max_partials, array)
    if whole.num_partials <= max_partials:
        assert len(waves) == 1
    done = 0
    for wave in waves:
        assert wave.num_partials <= max_partials
        items = np.concatenate([wave.short_items, wave.tall_items])
        first, end = int(items[:, 0].min()), done + 1
        while end < len(rows) and starts[end] < (items[:, 1] + items[:, 2]).max():
            end += 1
        # The wave's rows by themselves, with what is left of the levels.
        assert first == done
        for part in (wave.short_items, wave.tall_items):
            part[:, 0] -= first
            part[:, 1] -= starts[first]
        wave.merges[:, 0] -= starts[first]
        assert len(wave.first_slots) == starts[-1]
        own = Work(
            wave.short_items,
            wave.tall_items,
            wave.merges,
            wave.first_slots[starts[first] : starts[end]],
            wave.num_partials,
        )
        cut = [
            (max(a, first) - first, min(b, end) - first, first_key, end_key)
            for a, b, first_key, end_key in levels
            if min(b, end) - max(a, first) >= 2
        ]
        check_covering(own, rows[first:end], cut, shape)
        done = end
    assert done == len(rows)


def test_a_wave_of_two_rows_of_a_level_reads_it_and_one_of_one_does_not() -> None:
    starts, lengths, array = arrays([(8, 5_200)] * 5, [(0, 5, 0, 5_120)])
    # 8 tokens of 21 partial results each: three rows fit.
    waves = plan_waves(starts, lengths, tile_shape(4), MAX_ROW_PARTIALS, array)
    assert [wave.num_partials for wave in waves] == [3 * 168, 2 * 168]
    assert all(wave.has_levels for wave in waves)
    starts, lengths, array = arrays([(8, 5_200)] * 4, [(0, 4, 0, 5_120)])
    waves = plan_waves(starts, lengths, tile_shape(4), MAX_ROW_PARTIALS, array)
    assert [wave.has_levels for wave in waves] == [True, False]
    assert [len(wave.first_slots) for wave in waves] == [32, 32]


def test_a_row_that_cannot_have_its_levels_and_the_room_reads_its_own_keys() -> None:
    """8 tokens of 64 splits are all the room; a border more, of the level beyond, is too much."""
    rows, levels = [(8, 30_000)] * 2, [(0, 2, 0, 16_384), (0, 2, 16_384, 29_952)]
    starts, lengths, array = arrays(rows, levels)
    waves = plan_waves(starts, lengths, tile_shape(4), MAX_ROW_PARTIALS, array)
    assert [wave.has_levels for wave in waves] == [False, False]
    assert all(wave.num_partials <= MAX_ROW_PARTIALS for wave in waves)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([(0, 1, 0, 256)], r"of two rows or more, out of 3, .* got \[0, 1, 0, 256\]"),
        ([(0, 4, 0, 256)], "out of 3"),
        ([(-1, 2, 0, 256)], "two rows or more"),
        ([(0, 2, 256, 256)], "one key or more"),
        ([(0, 2, 256, 512)], r"of rows 0 to 2 to adjoin, .* from key 256 on behind 0 and 0 keys"),
        ([(0, 2, 0, 256), (0, 3, 256, 512)], "behind 256 and 0 keys"),
        ([(0, 3, 0, 1_024)], "end before the new tokens"),
    ],
)
def test_refuses_what_is_no_cascade(levels: Levels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan([(1, 1_200), (1, 1_200), (1, 1_024)], levels)


def test_refuses_levels_of_another_shape() -> None:
    starts, lengths, _ = arrays([(1, 300), (1, 300)], [])
    with pytest.raises(ValueError, match=r"shape \[L, 4\], got \[1, 3\]"):
        plan_work(starts, lengths, tile_shape(4), levels=np.zeros((1, 3), dtype=np.int32))
