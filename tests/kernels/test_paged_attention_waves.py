"""A step that exceeds the room is cut into parts between rows (levels: the levels' own test)."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve_kernels.paged_attention.items import tile_shape
from radixserve_kernels.paged_attention.splits import MAX_ROW_PARTIALS
from radixserve_kernels.paged_attention.waves import plan_waves
from radixserve_kernels.paged_attention.work import plan_work
from tests.kernels.covering import Rows, arrays, fields
from tests.kernels.test_paged_attention_work import rows_of


@settings(max_examples=100)
@given(rows=rows_of(), max_partials=st.sampled_from((MAX_ROW_PARTIALS, 700, 1500)))
def test_waves_are_the_same_work_in_parts_that_fit(rows: Rows, max_partials: int) -> None:
    starts, lengths, _ = arrays(rows, [])
    shape = tile_shape(4)
    whole, waves = (
        plan_work(starts, lengths, shape),
        plan_waves(starts, lengths, shape, max_partials),
    )
    assert all(wave.num_partials <= max_partials for wave in waves)
    assert len(waves) == 1 or whole.num_partials > max_partials
    assert sum(wave.num_partials for wave in waves) == whole.num_partials
    # Slots begin anew in each wave; all else is as in one.
    for name in ("short_items", "tall_items"):
        parts = [row for wave in waves for row in fields(getattr(wave, name))]
        assert Counter(parts) == Counter(fields(getattr(whole, name)))
    merged = [(row[0], row[2]) for wave in waves for row in fields(wave.merges)]
    assert merged == [(row[0], row[2]) for row in fields(whole.merges)]
    for wave in waves:
        for token, first_slot, *_ in fields(wave.merges):
            assert wave.first_slots[token] == first_slot


def test_a_row_cannot_be_cut_into_waves() -> None:
    starts, lengths, _ = arrays([(1, 5)], [])
    with pytest.raises(ValueError, match=f"at least {MAX_ROW_PARTIALS}, got 3"):
        plan_waves(starts, lengths, tile_shape(4), 3)
