"""The plan of a step: which keys are whose, who computes them, and where the results meet."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.attention import step_plan
from radixserve.attention.scratch import Scratch
from radixserve.attention.step_plan import AttentionPlan, Product, plan_attention
from radixserve.cascade import Cascade, Level
from radixserve_kernels.cpu.attending import MAX_ITEM_KEYS
from radixserve_kernels.paged_attention.cpu_kernel import DIRECT
from tests.attention.ragged import allocate, cascade_of, make_batch


def items_of(plan: AttentionPlan) -> list[tuple[int, ...]]:
    """(row, first token, number of tokens, first key, end key, nth)."""
    return [tuple(item) for item in plan.work.items[:, :6].tolist()]


def test_levels_take_the_first_keys_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A level's tokens are one run, be its rows chunks or single tokens; the rest is the rows'."""
    rows = [(9, 1), (8, 3), (5, 1), (2, 1)]
    tables = [[7, 8, 1, 2, 20], [7, 8, 1, 2, 21, 22], [7, 8, 9], [30, 31]]
    cascade = Cascade((Level(0, 3, 0, 2), Level(0, 2, 2, 4)))
    batch = replace(make_batch(rows, tables, 2), cascade=cascade)
    # 5 tokens of 3 heads are too many for the kernel, 4 are not.
    monkeypatch.setattr(step_plan, "MAX_ITEM_QUERIES", 12)
    plan = plan_attention(batch, 2, 3)
    assert plan.products == (
        Product(0, 5, 0, 0, 4, plane=0, is_causal=False),
        Product(1, 4, 1, 8, 11, plane=1, is_causal=True),
    )
    assert plan.num_planes == 2
    assert items_of(plan) == [
        (0, 0, 4, 4, 8, 0),
        (0, 0, 1, 8, 10, 1),
        (2, 4, 1, 4, 6, 0),
        (3, 5, 1, 0, 3, DIRECT),
    ]
    assert plan.work.max_item_tokens == 4
    # Planes, first slot, slots, and as many to come.
    assert plan.work.tokens.tolist() == [
        [1, 0, 2, 2],
        [2, 2, 1, 1],
        [2, 3, 1, 1],
        [2, 4, 1, 1],
        [1, 5, 1, 1],
        [0, 6, 0, 1],
    ]
    assert plan.work.num_slots == 6


def test_large_levels_are_cut_by_tokens_and_by_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_plan, "ITEM_QUERIES", 6)
    rows = [(330, 2), (330, 1), (320, 1)]
    tables = [[*range(20), 30 + row] for row in range(3)]
    batch = replace(make_batch(rows, tables, 16), cascade=Cascade((Level(0, 3, 0, 20),)))
    plan = plan_attention(batch, 16, 2)
    cuts = ((0, 128), (128, 256), (256, 320))
    assert items_of(plan)[:6] == [
        (0, token, count, first, end, nth)
        for nth, (first, end) in enumerate(cuts)
        for token, count in ((0, 3), (3, 1))
    ]
    assert plan.work.max_item_tokens == 3


def test_tokens_of_which_only_products_are_left_are_merged_by_an_item(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(step_plan, "MAX_ITEM_QUERIES", 12)
    rows = [(16, 10), (17, 7)]
    tables = [[1, 2, *range(10, 15)], [1, 2, *range(20, 24)]]
    batch = replace(make_batch(rows, tables, 4), cascade=Cascade((Level(0, 2, 0, 2),)))
    plan = plan_attention(batch, 4, 2)
    assert [product.plane for product in plan.products] == [0, 1, 1]
    assert items_of(plan) == [(0, 0, 8, 0, 0, 0), (0, 8, 2, 0, 0, 0), (1, 10, 7, 0, 0, 0)]
    assert plan.work.tokens.tolist() == [[2, 0, 0, 1]] * 17


def test_without_a_cascade_every_row_reads_its_own() -> None:
    plan = plan_attention(make_batch([(40, 1), (40, 1)], [[1, 2, 3], [1, 2, 4]], 16), 16, 2)
    assert plan.products == ()
    assert items_of(plan) == [(0, 0, 1, 0, 41, DIRECT), (1, 1, 1, 0, 41, DIRECT)]
    assert len(plan.work.tokens) == 0


def test_a_level_may_not_hold_a_new_key() -> None:
    batch = make_batch([(7, 1), (7, 1)], [[1, 2], [1, 2]], 4)
    with pytest.raises(AssertionError, match="a level holds a row's new key"):
        plan_attention(replace(batch, cascade=Cascade((Level(0, 2, 0, 2),))), 4, 1)


def test_how_a_row_is_cut_depends_on_its_own_length_only() -> None:
    lengths = [1, 63, 64, 200, 256, 257, 1_000, 5_000]

    def cuts(start: int, others: list[int]) -> list[tuple[int, int]]:
        rows = [(length, 1) for length in (start, *others)]
        tables = [list(range(-(-(length + 1) // 16))) for length, _ in rows]
        items = items_of(plan_attention(make_batch(rows, tables, 16), 16, 1))
        return [(item[3], item[4]) for item in items if item[0] == 0]

    for length in lengths:
        assert cuts(length, []) == cuts(length, lengths)
    assert cuts(255, []) == [(0, 256)]
    assert cuts(256, []) == [(0, 144), (144, 257)]


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[list[int]], int]:
    page_size = draw(st.sampled_from((1, 4, 16)))
    count = st.one_of(st.just(1), st.integers(1, 30))
    rows = draw(st.lists(st.tuples(st.integers(0, 700), count), min_size=1, max_size=8))
    shared = draw(st.lists(st.integers(0, 150), min_size=len(rows), max_size=len(rows)))
    tables, _ = allocate(rows, shared, page_size, np.random.default_rng(draw(st.integers(0, 99))))
    return rows, tables, page_size


@settings(max_examples=150, deadline=None)
@given(drawn=batches(), group=st.sampled_from((1, 3)), queries=st.sampled_from((0, 12, 1000)))
def test_every_token_meets_every_key_once(
    drawn: tuple[list[tuple[int, int]], list[list[int]], int], group: int, queries: int
) -> None:
    """Its own row's, and leaves each result in a place of its own."""
    rows, tables, page_size = drawn
    batch = make_batch(rows, tables, page_size)
    batch = replace(batch, cascade=cascade_of(rows, tables, page_size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_plan, "MAX_ITEM_QUERIES", queries)
        plan = plan_attention(batch, page_size, group)
    row_of = np.repeat(np.arange(len(rows)), [count for _, count in rows])
    seen: list[list[npt.NDArray[np.int64]]] = [[] for _ in row_of]
    places: list[list[int]] = [[] for _ in row_of]
    to_come = np.zeros(len(row_of), dtype=np.int64)

    def meet(tokens: range, table_row: int, first: int, end: int) -> None:
        positions = np.arange(first, end)
        for token in tokens:
            # By way of whichever table: the very slots that its own row has there.
            for row in (table_row, row_of[token]):
                pages = np.array(tables[row])[positions // page_size]
                slots = pages * page_size + positions % page_size
                if row == table_row:
                    expected = slots
                assert (slots == expected).all()
            seen[token].append(positions)

    for product in plan.products:
        tokens = range(product.first, product.last)
        meet(tokens, product.row, product.first_key, product.end_key)
        for token in tokens:
            places[token].append(-2 - product.plane if product.plane != DIRECT else DIRECT)
    for row, token, count, first, end, nth in items_of(plan):
        assert end - first <= MAX_ITEM_KEYS
        assert count <= plan.work.max_item_tokens
        tokens = range(token, token + count)
        if end > first:
            meet(tokens, row, first, end)
        for each in tokens:
            if nth == DIRECT:
                places[each].append(DIRECT)
                continue
            to_come[each] += 1
            _, first_slot, num_slots, _ = plan.work.tokens[each].tolist()
            if end > first:
                assert nth < num_slots
                places[each].append(first_slot + nth)
    slots_seen: list[int] = []
    for token, row in enumerate(row_of.tolist()):
        assert np.sort(np.concatenate(seen[token])).tolist() == list(range(sum(rows[row])))
        if places[token] == [DIRECT]:
            continue
        num_planes, first_slot, num_slots, expected = plan.work.tokens[token].tolist()
        slots = [*range(first_slot, first_slot + num_slots)]
        assert places[token] == [*range(-2, -2 - num_planes, -1), *slots]
        assert to_come[token] == expected
        slots_seen += slots
    assert slots_seen == list(range(plan.work.num_slots))


def test_scratch_grows_geometrically_and_is_reused() -> None:
    scratch = Scratch()
    small = scratch.take("a", (3, 4), torch.float32)
    assert scratch.take("a", (2, 6), torch.float32).data_ptr() == small.data_ptr()
    assert scratch.take("b", (3, 4), torch.float32).data_ptr() != small.data_ptr()
    grown = scratch.take("a", (13,), torch.float32)
    assert grown.untyped_storage().nbytes() == 24 * 4
    assert scratch.take("a", (24,), torch.float32).data_ptr() == grown.data_ptr()
    assert scratch.take("a", (2,), torch.bfloat16).dtype == torch.bfloat16
