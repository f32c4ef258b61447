"""The plan of a step: what its levels hold, and which rows go into one bucket."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.attention import step_plan
from radixserve.attention.scratch import Scratch
from radixserve.attention.step_plan import Run, bucket_rows, plan_attention
from radixserve.cascade import Cascade, Level
from tests.attention.ragged import make_batch


def test_levels_take_the_first_keys_of_their_rows() -> None:
    """A level's tokens are one run, be its rows chunks or single tokens; the rest is the rows'."""
    rows = [(9, 1), (8, 3), (5, 1), (2, 1)]
    tables = [[7, 8, 1, 2, 20], [7, 8, 1, 2, 21, 22], [7, 8, 9], [30, 31]]
    cascade = Cascade((Level(0, 3, 0, 2), Level(0, 2, 2, 4)))
    batch = replace(make_batch(rows, tables, 2), cascade=cascade)
    plan = plan_attention(batch, 2)
    assert [(level.first, level.last, level.keys.length) for level in plan.levels] == [
        (0, 5, 4),
        (0, 4, 4),
    ]
    assert plan.levels[0].keys.runs == (Run(0, 14, 4),)
    assert plan.levels[1].keys.runs == (Run(0, 2, 4),)
    assert plan.merged == (slice(0, 5),)
    (chunk,) = plan.chunks
    assert (chunk.first, chunk.last, chunk.keys.length, chunk.is_partial) == (1, 4, 3, True)
    whole, partial = plan.buckets
    assert (whole.tokens, whole.is_partial, whole.keys.length) == (slice(5, 6), False, 3)
    assert isinstance(partial.tokens, torch.Tensor)
    assert partial.tokens.tolist() == [0, 4]
    assert partial.keys.index is not None
    assert partial.keys.index.tolist() == [40, 41, 18, 19]
    assert partial.is_partial


def test_without_a_cascade_every_row_reads_its_own() -> None:
    plan = plan_attention(make_batch([(40, 1), (40, 1)], [[1, 2, 3], [1, 2, 4]], 16), 16)
    assert (plan.levels, plan.merged) == ((), ())
    assert [bucket.keys.length for bucket in plan.buckets] == [82]


def test_a_level_may_not_hold_a_new_key() -> None:
    batch = make_batch([(7, 1), (7, 1)], [[1, 2], [1, 2]], 4)
    with pytest.raises(AssertionError, match="a level holds a row's new key"):
        plan_attention(replace(batch, cascade=Cascade((Level(0, 2, 0, 2),))), 4)


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
