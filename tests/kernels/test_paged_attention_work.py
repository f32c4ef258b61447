"""How a step is cut: every query meets every key it may see once, by its own row's numbers only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve_kernels.paged_attention.items import tile_shape
from radixserve_kernels.paged_attention.splits import (
    ALIGNMENT,
    MAX_ROW_PARTIALS,
    MAX_SPLIT_QUERY,
    MAX_SPLITS,
    SPLIT_TOKENS,
)
from radixserve_kernels.paged_attention.work import Work, plan_work
from tests.kernels.covering import Rows, arrays, check_covering, fields


def plan(rows: Rows, group: int = 4, split_tokens: int = SPLIT_TOKENS) -> Work:
    starts, lengths, _ = arrays(rows, [])
    return plan_work(starts, lengths, tile_shape(group), split_tokens)


@st.composite
def rows_of(draw: st.DrawFn) -> Rows:
    counts = st.one_of(st.integers(0, 6), st.integers(0, 300))
    cached = st.one_of(st.integers(0, 40), st.integers(0, 70_000))
    pairs = draw(st.lists(st.tuples(counts, cached), max_size=6))
    return [(num_new, num_new + before) for num_new, before in pairs]


@settings(max_examples=200)
@given(rows=rows_of(), group=st.sampled_from((1, 3, 4, 7, 8, 20, 128)))
def test_every_query_meets_its_keys_once(rows: Rows, group: int) -> None:
    work = plan(rows, group)
    check_covering(work, rows, [], tile_shape(group))
    assert not work.has_levels


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
            assert np.array_equal(mine[:, 2:], own[:, 2:])


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
        (0, 256, 0),
        (256, 512, 1),
    ]
    # 20 packed rows: a tall tile.
    assert [item[1:7] for item in fields(work.tall_items)] == [
        (3, 5, 595, 0, 256, 0),
        (3, 5, 595, 256, 512, 1),
        (3, 5, 595, 512, 600, 2),
    ]
    # A token's partial results lie side by side.
    assert work.first_slots.tolist()[1:] == [0, 2, 4, 7, 10, 13, 16]
    assert fields(work.merges) == [
        (1, 0, 2, 0),
        (2, 2, 2, 0),
        *((3 + i, 4 + 3 * i, 3, 0) for i in range(5)),
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
