"""The plan of a step: who shares which pages, and which rows go into one bucket."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.attention import step_plan
from radixserve.attention.scratch import Scratch
from radixserve.attention.step_plan import bucket_rows, plan_attention, shared_prefixes
from tests.attention.ragged import make_batch


def test_segments_nest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_plan, "MIN_SAVED_KEYS", 4)
    table = np.array(
        [[7, 8, 1, 2, 20], [7, 8, 1, 2, 21], [7, 8, 9, 4, 5], [30, 8, 1, 2, 20]], dtype=np.int32
    )
    found = shared_prefixes(table, np.array([4, 4, 4, 4]), page_size=2)
    assert [(rows.tolist(), first, last) for rows, first, last in found] == [
        ([0, 1, 2], 0, 2),
        ([0, 1], 2, 4),
    ]


def test_a_short_shared_prefix_is_not_worth_a_segment() -> None:
    table = np.array([[1, 2], [1, 3]], dtype=np.int32)
    assert shared_prefixes(table, np.array([1, 1]), page_size=16) == []


def test_a_prefix_ends_where_the_shortest_row_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer rows share the rest in a segment of their own."""
    monkeypatch.setattr(step_plan, "MIN_SAVED_KEYS", 1)
    table = np.array([[1, 2, 3, 9], [1, 2, 3, 8], [1, 2, 0, 0]], dtype=np.int32)
    found = shared_prefixes(table, np.array([3, 3, 1]), page_size=1)
    assert [(rows.tolist(), first, last) for rows, first, last in found] == [
        ([0, 1, 2], 0, 1),
        ([0, 1], 1, 3),
    ]


@settings(max_examples=200, deadline=None)
@given(
    tables=st.lists(st.lists(st.integers(0, 1), min_size=6, max_size=6), min_size=1, max_size=7),
    data=st.data(),
)
def test_segments_cover_equal_whole_pages_once(
    tables: list[list[int]], data: st.DataObject
) -> None:
    table = np.array(tables, dtype=np.int32)
    whole = np.array([data.draw(st.integers(0, 6)) for _ in tables])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_plan, "MIN_SAVED_KEYS", 3)
        found = shared_prefixes(table, whole, page_size=1)
    reached = [0] * len(tables)
    for rows, first, last in found:
        assert len(rows) >= 2
        assert (len(rows) - 1) * (last - first) >= 3
        for row in rows.tolist():
            assert reached[row] == first
            assert last <= whole[row]
            assert tables[row][first:last] == tables[int(rows[0])][first:last]
            reached[row] = last


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 40_000), min_size=1, max_size=40))
def test_buckets_partition_the_rows_with_bounded_padding(lengths: list[int]) -> None:
    array = np.array(lengths)
    buckets = [bucket.tolist() for bucket in bucket_rows(array)]
    assert sorted(row for bucket in buckets for row in bucket) == list(range(len(lengths)))
    for bucket in buckets:
        longest = array[bucket].max()
        padding = (longest - array[bucket]).sum()
        assert (
            padding <= step_plan.MAX_PADDING * longest * len(bucket) + step_plan.FREE_PADDING_KEYS
        )
        assert len(bucket) == 1 or longest * len(bucket) <= step_plan.MAX_BUCKET_KEYS


def test_scattered_pages_are_indexed_and_runs_are_kept() -> None:
    rows = [(39, 1), (36, 4)]
    scattered = list(range(1, 80, 2))[:40]
    plan = plan_attention(make_batch(rows, [scattered, [5, 6, 7, *range(20, 57)]], 1), 1)
    (bucket,) = plan.buckets
    assert bucket.keys.index is not None
    assert bucket.keys.index.tolist() == scattered
    (chunk,) = plan.chunks
    assert [(run.first, run.slot, run.length) for run in chunk.keys.runs] == [
        (0, 5, 3),
        (3, 20, 37),
    ]


def test_scratch_grows_geometrically_and_is_reused() -> None:
    scratch = Scratch()
    small = scratch.take("a", (3, 4), torch.float32)
    assert scratch.take("a", (2, 6), torch.float32).data_ptr() == small.data_ptr()
    assert scratch.take("b", (3, 4), torch.float32).data_ptr() != small.data_ptr()
    grown = scratch.take("a", (13,), torch.float32)
    assert grown.untyped_storage().nbytes() == 24 * 4
    assert scratch.take("a", (24,), torch.float32).data_ptr() == grown.data_ptr()
    assert scratch.take("a", (2,), torch.bfloat16).dtype == torch.bfloat16


def test_a_rows_own_key_is_never_left_to_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bucket row has a key at least: the row's newest, even where it ends a page."""
    monkeypatch.setattr(step_plan, "MIN_SAVED_KEYS", 1)
    plan = plan_attention(make_batch([(11, 1), (11, 1)], [[1, 2, 3], [1, 2, 3]], 4), 4)
    (segment,) = plan.segments
    assert segment.keys.length == 8
    (bucket,) = plan.buckets
    assert bucket.length == 4
