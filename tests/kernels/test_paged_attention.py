"""The Triton kernels against the reference, as exact as torch's own attention at the same dtype."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from radixserve_kernels.paged_attention.cases import (
    CASES,
    DTYPES,
    HEAD_DIMS,
    PAGE_SIZES,
    PAIRWISE,
    Case,
    Inputs,
    make_inputs,
)
from radixserve_kernels.paged_attention.device_work import DeviceWork
from radixserve_kernels.paged_attention.launch import paged_attention
from radixserve_kernels.paged_attention.reference import paged_attention_reference
from radixserve_kernels.paged_attention.tuning import head_parts
from tests.kernels.judging import DEVICE, assert_as_close_as_torch, assert_same_bits


def attend(inputs: Inputs, work: DeviceWork | None = None) -> torch.Tensor:
    """The kernels' answer, written over NaN."""
    case = inputs.case
    return paged_attention(
        inputs.query,
        inputs.keys,
        inputs.values,
        inputs.page_table,
        work or inputs.work(),
        scale=case.scale,
        soft_cap=case.soft_cap,
        window=case.window,
        out=torch.full_like(inputs.query, torch.nan, memory_format=torch.contiguous_format),
    )


def exact(inputs: Inputs) -> torch.Tensor:
    case = inputs.case
    return paged_attention_reference(
        inputs.query.double(),
        inputs.keys.double(),
        inputs.values.double(),
        inputs.query_start,
        inputs.context_lens,
        inputs.page_table,
        case.scale,
        soft_cap=case.soft_cap,
        window=case.window,
    )


def torch_attention(inputs: Inputs) -> torch.Tensor:
    """What torch makes of it in the case's dtype: its own attention, or products where it has none
    with a soft cap."""
    case = inputs.case
    group = case.num_heads // case.num_kv_heads
    out = torch.empty(inputs.query.shape, dtype=case.dtype, device=DEVICE)
    starts = inputs.query_start.tolist()
    for row, length in enumerate(inputs.context_lens.tolist()):
        first, last = starts[row : row + 2]
        pages = inputs.page_table[row, : -(-length // case.page_size)]
        q = inputs.query[first:last].transpose(0, 1)
        k, v = (
            pool[pages].flatten(0, 1)[:length].repeat_interleave(group, 1).transpose(0, 1)
            for pool in (inputs.keys, inputs.values)
        )
        visible = torch.ones(last - first, length, dtype=torch.bool, device=DEVICE)
        visible = visible.tril(length - (last - first))
        if case.window is not None:
            visible = visible.triu(length - (last - first) - case.window + 1)
        if case.soft_cap is None:
            attended = torch.nn.functional.scaled_dot_product_attention(
                q[None], k[None], v[None], attn_mask=visible, scale=case.scale
            )[0]
        else:
            scores = case.soft_cap * torch.tanh(q * case.scale @ k.transpose(1, 2) / case.soft_cap)
            attended = scores.masked_fill(~visible, -torch.inf).softmax(-1) @ v
        out[first:last] = attended.transpose(0, 1)
    return out


@pytest.mark.parametrize("case", [*CASES, *PAIRWISE], ids=lambda case: case.name)
def test_means_what_the_reference_means(case: Case) -> None:
    inputs = make_inputs(case, DEVICE)
    assert_as_close_as_torch(attend(inputs), torch_attention(inputs), exact(inputs))


def test_the_table_covers_every_pair() -> None:
    found = [(case.head_dim, case.page_size, case.dtype) for case in PAIRWISE]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        values = (HEAD_DIMS, PAGE_SIZES, DTYPES)
        wanted = {(x, y) for x in values[a] for y in values[b]}
        assert {(row[a], row[b]) for row in found} == wanted


COMPANY = Case(
    "company",
    ((1, 300), (5, 560), (70, 90), (1, 40), (20, 400), (1, 800)),
    num_heads=4,
    num_kv_heads=2,
    shared_tokens=32,
)


def test_a_row_has_the_same_bits_alone_and_in_company() -> None:
    inputs = make_inputs(COMPANY, DEVICE)
    together = attend(inputs)
    starts = inputs.query_start.tolist()
    for row, (first, last) in enumerate(pairwise(starts)):
        alone = Inputs(
            replace(COMPANY, rows=COMPANY.rows[row : row + 1]),
            inputs.query[first:last],
            inputs.keys,
            inputs.values,
            inputs.page_table[row : row + 1],
            torch.tensor([0, last - first], dtype=torch.int32, device=DEVICE),
            inputs.context_lens[row : row + 1],
        )
        assert_same_bits(attend(alone), together[first:last])


# The interpreter computes with numpy, which warns of NaN.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_rows_nan_stays_in_the_row() -> None:
    rows = ((1, 300), (5, 300), (30, 130), (1, 40))
    case = replace(COMPANY, shared_tokens=0, rows=rows, num_heads=4)
    inputs = make_inputs(case, DEVICE)
    before = attend(inputs)
    for row in (1, 2):
        last_page = -(-case.rows[row][1] // case.page_size)
        pages = inputs.page_table[row, :last_page]
        inputs.keys[pages], inputs.values[pages] = torch.nan, torch.nan
    after = attend(inputs)
    starts = inputs.query_start.tolist()
    for row, (first, last) in enumerate(pairwise(starts)):
        if row in (1, 2):
            assert after[first:last].isnan().all()
        else:
            assert_same_bits(after[first:last], before[first:last])


def test_only_as_much_work_as_is_counted_is_done() -> None:
    """As in a captured graph: the tensors are longer, what lies behind the counts is rubbish."""
    inputs = make_inputs(replace(COMPANY, rows=((1, 300), (1, 20), (1, 1_100))), DEVICE)
    work = inputs.work()

    def longer(tensor: torch.Tensor) -> torch.Tensor:
        rubbish = torch.full((50, tensor.shape[1]), -(2**31), dtype=torch.int32, device=DEVICE)
        return torch.cat([tensor, rubbish])

    static = replace(work, short_items=longer(work.short_items), merges=longer(work.merges))
    assert_same_bits(attend(inputs, static), attend(inputs))
    idle = replace(static, counts=torch.zeros_like(static.counts))
    assert attend(inputs, idle).isnan().all()


LEVELS = Case(
    "levels",
    (*((1, 530 + 7 * row) for row in range(9)), (1, 30), *((2, 300) for _ in range(3)), (20, 280)),
    num_heads=2,
    num_kv_heads=1,
    dtype=torch.float32,
    levels=((0, 9, 0, 272), (5, 9, 272, 528), (6, 8, 528, 544), (10, 14, 0, 256)),
)


def test_reading_levels_changes_rounding_only() -> None:
    """The same keys meet in a partial result; only their tile's other rows differ."""
    inputs = make_inputs(LEVELS, DEVICE)
    shared, alone = inputs.work(), inputs.work(by_levels=False)
    assert shared.has_levels
    assert len(shared.tall_items) > len(alone.tall_items)
    assert len(shared.short_items) < len(alone.short_items)
    assert len(shared.partials) == len(alone.partials)
    ours, theirs = attend(inputs, shared), attend(inputs, alone)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    # Who reads no level: to the bit.
    assert_same_bits(ours[9:10], theirs[9:10])
    assert_same_bits(ours[16:], theirs[16:])


def test_a_static_plan_goes_through_tall_items_as_through_short_ones() -> None:
    inputs = make_inputs(LEVELS, DEVICE)
    work = inputs.work()

    def longer(tensor: torch.Tensor) -> torch.Tensor:
        rubbish = torch.full((40, tensor.shape[1]), -(2**31), dtype=torch.int32, device=DEVICE)
        return torch.cat([tensor, rubbish])

    static = replace(
        work,
        short_items=longer(work.short_items),
        tall_items=longer(work.tall_items),
        merges=longer(work.merges),
        is_static=True,
    )
    assert_same_bits(attend(inputs, static), attend(inputs, work))
    idle = replace(static, counts=torch.zeros_like(static.counts))
    assert attend(inputs, idle).isnan().all()


def test_a_window_and_levels_do_not_go_together() -> None:
    rows, levels = ((1, 300), (1, 300)), ((0, 2, 0, 256),)
    inputs = make_inputs(Case("window", rows, levels=levels, window=100), DEVICE)
    with pytest.raises(ValueError, match="expected work without levels for attention with a"):
        attend(inputs)
    assert attend(inputs, inputs.work(by_levels=False)).isfinite().all()


def test_the_split_length_changes_rounding_only() -> None:
    inputs = make_inputs(Case("decode", ((1, 1_100),), dtype=torch.float32), DEVICE)
    longer = attend(inputs, inputs.work(split_tokens=1_024))
    assert len(inputs.work(split_tokens=1_024).partials) == 2
    torch.testing.assert_close(longer, attend(inputs), rtol=1e-5, atol=1e-6)


def test_a_strided_output_is_written_in_place() -> None:
    inputs = make_inputs(Case("decode", ((1, 300), (2, 20)), head_dim=80), DEVICE)
    room = torch.zeros(3, 7, 80, dtype=torch.bfloat16, device=DEVICE)
    out = paged_attention(
        inputs.query,
        inputs.keys,
        inputs.values,
        inputs.page_table,
        inputs.work(),
        scale=inputs.case.scale,
        out=room[:, 1:5],
    )
    assert out.data_ptr() == room[:, 1:5].data_ptr()
    assert_same_bits(room[:, 1:5], attend(inputs))
    assert room[:, 0].eq(0).all()
    assert room[:, 5:].eq(0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(3, 4)}, r"query: expected shape \[T, num_heads, head_dim\], got"),
        ({"keys": torch.zeros(9, 16, 2, 32)}, r"keys: expected shape .* 64\], got .* 32\]"),
        ({"keys": torch.zeros(9, 16, 3, 64)}, "4 query heads share evenly, .* got"),
        ({"keys": torch.zeros(9, 16, 0, 64)}, "no size of 0, got"),
        ({"values": torch.zeros(9, 8, 2, 64)}, r"values: expected shape \[9, 16, 2, 64\]"),
        ({"values": torch.zeros(16, 9, 2, 64).transpose(0, 1)}, "values: expected the strides of"),
        ({"query": torch.zeros(3, 4, 64).double()}, "query: expected float16 or .* got float64"),
        ({"values": torch.zeros(9, 16, 2, 64).half()}, "values: expected float32, got float16"),
        ({"page_table": torch.zeros(2, 4).long()}, "page_table: expected int32, got int64"),
        ({"query": torch.zeros(3, 64, 4).transpose(1, 2)}, "query: expected a contiguous last"),
        ({"out": torch.zeros(3, 5, 64)}, r"out: expected shape \[3, 4, 64\], got \[3, 5, 64\]"),
        ({"query": torch.zeros(3, 4, 64, device="meta")}, "query: expected a tensor on"),
        ({"scale": 0.0}, "expected a scale above 0, got 0.0"),
        ({"soft_cap": -1.0}, "expected a soft_cap above 0, got -1.0"),
        ({"window": 0}, "expected a window of at least 1 key, got 0"),
    ],
)
def test_refuses_what_does_not_fit(changes: dict[str, object], message: str) -> None:
    inputs = make_inputs(Case("decode", ((1, 9), (2, 20)), dtype=torch.float32), DEVICE)
    keys = torch.zeros(9, 16, 2, 64, device=DEVICE)
    arguments: dict[str, object] = {
        "query": inputs.query,
        "keys": keys,
        "values": keys,
        "page_table": inputs.page_table,
        "work": inputs.work(),
        "scale": 1.0,
    }
    moved = {
        name: value.to(DEVICE) if isinstance(value, torch.Tensor) and not value.is_meta else value
        for name, value in changes.items()
    }
    with pytest.raises(ValueError, match=message):
        paged_attention(**{**arguments, **moved})  # type: ignore[arg-type]


def test_refuses_work_of_another_shape() -> None:
    inputs = make_inputs(Case("decode", ((1, 300),)), DEVICE)
    work = inputs.work()
    wrong: dict[str, Any] = {
        "counts": work.counts[:2],
        "short_items": work.short_items.long(),
        "merges": work.merges[:, :3],
        "first_slots": work.first_slots[:0],
        "partials": work.partials[:, :1],
        "partial_lse": work.partial_lse[1:],
    }
    for name, tensor in wrong.items():
        with pytest.raises(ValueError, match="work"):
            attend(inputs, replace(work, **{name: tensor}))


@pytest.mark.parametrize("head_dim", [0, 8, 72, 112, 288, 512])
def test_refuses_head_sizes_that_are_no_sum_of_two_powers(head_dim: int) -> None:
    with pytest.raises(ValueError, match=f"expected a head size .* got {head_dim}"):
        head_parts(head_dim)


def test_head_sizes_are_sums_of_two_powers() -> None:
    parts = {head_dim: head_parts(head_dim) for head_dim in (16, 48, *HEAD_DIMS)}
    assert parts == {
        16: (16, 0),
        48: (32, 16),
        64: (64, 0),
        80: (64, 16),
        96: (64, 32),
        128: (128, 0),
        192: (128, 64),
        256: (256, 0),
    }
