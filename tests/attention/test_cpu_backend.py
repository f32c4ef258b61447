"""CpuAttention against the reference: ragged batches, shared pages, NaN where nobody may look."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve.attention import product, step_plan
from radixserve.attention.base import AttentionShape
from radixserve.attention.cpu_backend import CpuAttention
from radixserve.cascade import NO_CASCADE, Cascade, Level
from tests.attention.ragged import (
    RaggedCase,
    allocate,
    cascade_of,
    make_case,
    oracle,
    run_case,
    stored,
)

pytestmark = pytest.mark.usefixtures("two_threads")

PAGE_SIZES = (1, 3, 16, 64)
GROUPS = (1, 2, 3, 14)
"""Of 14 even a single token's are many rows."""
HEAD_DIMS = {1: 128, 2: 80, 3: 128, 14: 80}
"""By group: a kernel to be compiled for each of them, since of 128 numbers the heads of 1 and 3 go
one by one, of 80 those of 2 and 14 by twos."""


def shape_of(
    group: int,
    head_dim: int,
    page_size: int,
    num_kv_heads: int = 2,
    *,
    scale: float | None = None,
) -> AttentionShape:
    return AttentionShape(
        num_heads=group * num_kv_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=scale or head_dim**-0.5,
        page_size=page_size,
    )


def mixed_case(
    shape: AttentionShape, *, seed: int = 0, contiguous: bool = False, spread: float = 1.0
) -> RaggedCase:
    """Decodes of many lengths, some behind a long common prefix, and chunks of all kinds."""
    rows = [(0, 1), (5, 1), (700, 1), (655, 1), (900, 1), (640, 3), (0, 7), (130, 40), (17, 1)]
    rows += [(33, 2), (1300, 1), (1200, 1)]
    common, longer = 576 // shape.page_size, 624 // shape.page_size
    shared = [0, 0, common, longer, longer, common, 0, 2, 0, 3, common, 0]
    rng = np.random.default_rng(seed)
    tables, num_pages = allocate(rows, shared, shape.page_size, rng, contiguous=contiguous)
    cascade = cascade_of(rows, tables, shape.page_size)
    assert len(cascade.levels) >= (3 if shape.page_size < 64 else 1)
    return make_case(shape, rows, tables, num_pages, seed=seed, spread=spread, cascade=cascade)


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Of every token and head."""
    norm: torch.Tensor = torch.linalg.vector_norm(expected, dim=-1)
    error: torch.Tensor = torch.linalg.vector_norm(out.double() - expected, dim=-1)
    return error / norm


@st.composite
def ragged_cases(draw: st.DrawFn) -> RaggedCase:
    shape = shape_of(
        group := draw(st.sampled_from(GROUPS)),
        HEAD_DIMS[group],
        draw(st.sampled_from(PAGE_SIZES)),
        draw(st.sampled_from((1, 2))),
        # Products take another way where multiplying by the scale loses no bit.
        scale=draw(st.sampled_from((None, 0.125))),
    )
    count = st.one_of(st.just(1), st.integers(1, 30))
    rows = draw(st.lists(st.tuples(st.integers(0, 150), count), min_size=1, max_size=8))
    shared = draw(st.lists(st.integers(0, 150), min_size=len(rows), max_size=len(rows)))
    seed = draw(st.integers(0, 2**16))
    tables, num_pages = allocate(
        rows,
        shared,
        shape.page_size,
        np.random.default_rng(seed),
        contiguous=draw(st.booleans()),
    )
    is_shared = draw(st.booleans())
    cascade = cascade_of(rows, tables, shape.page_size) if is_shared else NO_CASCADE
    return make_case(shape, rows, tables, num_pages, seed=seed, cascade=cascade)


@settings(max_examples=150, deadline=None)
@given(
    case=ragged_cases(),
    scores=st.sampled_from((1, 1 << 21)),
    queries=st.sampled_from((0, 12, 1000)),
)
def test_any_ragged_batch_means_what_the_reference_means(
    case: RaggedCase, scores: int, queries: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Blocks of the smallest size as well as of the usual one; levels either way.
        patch.setattr(product, "MAX_SCORES", scores)
        patch.setattr(step_plan, "MAX_ITEM_QUERIES", queries)
        assert relative_error(run_case(case), oracle(case)).max() < 3e-6


@settings(max_examples=80, deadline=None)
@given(
    case=ragged_cases(),
    scores=st.sampled_from((1, 1 << 21)),
    guessed=st.sampled_from((0, 1 << 30)),
    queries=st.sampled_from((0, 12, 1000)),
)
def test_any_ragged_batch_in_bfloat16(
    case: RaggedCase, scores: int, guessed: int, queries: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "MAX_SCORES", scores)
        patch.setattr(product, "MIN_GUESSED_SCORES", guessed)
        patch.setattr(step_plan, "MAX_ITEM_QUERIES", queries)
        error = relative_error(run_case(case, torch.bfloat16), oracle(case, torch.bfloat16))
    assert error.max() < 1e-2


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("contiguous", [False, True])
def test_long_mixed_batch(page_size: int, group: int, contiguous: bool) -> None:
    case = mixed_case(shape_of(group, HEAD_DIMS[group], page_size), contiguous=contiguous)
    assert relative_error(run_case(case), oracle(case)).max() < 3e-6


def torch_error(case: RaggedCase) -> torch.Tensor:
    """Error of torch's own attention in bfloat16, row by row on gathered keys, against float32."""
    shape, batch, dtype = case.shape, case.batch, torch.bfloat16
    keys, values = stored(case, dtype)
    out = torch.empty(case.query.shape, dtype=dtype)
    for row, length in enumerate(batch.context_lens_host):
        first, last = batch.query_start_host[row : row + 2]
        pages = batch.page_table[row, : -(-length // shape.page_size)].long()
        k, v = keys[pages].flatten(0, 1)[:length], values[pages].flatten(0, 1)[:length]
        visible = torch.ones(last - first, length, dtype=torch.bool)
        attended = torch.nn.functional.scaled_dot_product_attention(
            case.query[first:last].to(dtype).transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            attn_mask=visible.tril(length - (last - first)),
            scale=shape.scale,
            enable_gqa=True,
        )
        out[first:last] = attended[0].transpose(0, 1)
    return relative_error(out, oracle(case, dtype))


@pytest.mark.parametrize("head_dim", [64, 80])
@pytest.mark.parametrize("spread", [1.0, 6.0])
@pytest.mark.parametrize("guessed", [0, 1 << 30])
def test_bfloat16_errs_at_most_twice_as_much_as_torch(
    head_dim: int, spread: float, guessed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``spread`` makes for peaked weights, where rounded scores would hurt."""
    monkeypatch.setattr(product, "MIN_GUESSED_SCORES", guessed)
    # All levels' results are products', which round more than the kernel does.
    monkeypatch.setattr(step_plan, "MAX_ITEM_QUERIES", 0)
    case = mixed_case(shape_of(3 if head_dim == 64 else 2, head_dim, 16), spread=spread)
    error, limit = relative_error(run_case(case, torch.bfloat16), oracle(case, torch.bfloat16)), 2.0
    baseline = torch_error(case)
    assert error.square().mean().sqrt() <= limit * baseline.square().mean().sqrt()
    assert error.max() <= limit * baseline.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_alone_and_in_company(dtype: torch.dtype) -> None:
    shape = shape_of(2, 80, 16)
    rows = [(700, 1), (690, 1), (650, 1), (20, 9), (640, 30)]
    tables, num_pages = allocate(rows, [40, 40, 40, 0, 40], 16, np.random.default_rng(1))
    cascade = cascade_of(rows, tables, 16)
    together = run_case(make_case(shape, rows, tables, num_pages, cascade=cascade), dtype)
    whole = make_case(shape, rows, tables, num_pages)
    first = 0
    for row, (start, count) in enumerate(rows):
        alone = make_case(shape, [(start, count)], [tables[row]], num_pages)
        tokens = slice(first, first + count)
        case = RaggedCase(
            shape,
            alone.batch,
            whole.query[tokens],
            whole.key[tokens],
            whole.value[tokens],
            whole.keys,
            whole.values,
        )
        error = relative_error(run_case(case, dtype), together[tokens].double())
        assert error.max() < (1e-6 if dtype == torch.float32 else 1e-2)
        first += count


def test_one_rows_nan_stays_in_that_row() -> None:
    shape = shape_of(2, 80, 16)
    rows = [(30, 1), (25, 1), (31, 1), (10, 5), (12, 4)]
    tables, num_pages = allocate(rows, [0] * 5, 16, np.random.default_rng(2))
    case = make_case(shape, rows, tables, num_pages)
    case.key[1] = torch.nan
    case.value[3:8] = torch.inf
    out = run_case(case)
    assert out[1].isnan().all()
    assert out[[0, 2, 8, 9, 10, 11]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("guessed", "queries"), [(0, 0), (1 << 30, 0), (1 << 30, 1 << 30)])
def test_one_rows_nan_stays_in_that_row_of_a_level(
    guessed: int, queries: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "MIN_GUESSED_SCORES", guessed)
    monkeypatch.setattr(step_plan, "MAX_ITEM_QUERIES", queries)
    shape = shape_of(3, 128, 16)
    rows = [(200, 1), (200, 6), (200, 1), (195, 3), (192, 1), (193, 1)]
    tables, num_pages = allocate(rows, [12] * 6, 16, np.random.default_rng(4))
    case = make_case(shape, rows, tables, num_pages, cascade=Cascade((Level(0, len(rows), 0, 12),)))
    sound = run_case(case, dtype)
    case.query[0] = torch.nan
    case.query[1:4], case.key[4:7] = torch.inf, -torch.inf
    case.key[8:10] = torch.nan
    case.value[11] = torch.inf
    out = run_case(case, dtype)
    broken = [0, *range(1, 7), 8, 9, 10, 11]
    assert not out[broken].isfinite().all(dim=-1).any()
    others = [7, 12]
    limit = 1e-2 if dtype == torch.bfloat16 else 1e-6
    assert relative_error(out[others], sound[others].double()).max() < limit


@pytest.mark.parametrize("offset", [-9000.0, 1500.0, 9000.0])
@pytest.mark.parametrize("guessed", [0, 1 << 30])
def test_scores_far_from_zero(offset: float, guessed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of models with biased keys: the distances between scores are small, their maximum, once
    rounded, is not near any of them."""
    monkeypatch.setattr(product, "MIN_GUESSED_SCORES", guessed)
    monkeypatch.setattr(step_plan, "MAX_ITEM_QUERIES", 0)
    case = mixed_case(shape_of(3, 64, 16))
    case.query[..., 0] = offset / 10.0
    case.key[..., 0] = 80.0
    case.keys[..., 0].masked_fill_(case.keys[..., 1].isfinite(), 80.0)
    error = relative_error(run_case(case, torch.bfloat16), oracle(case, torch.bfloat16))
    assert error.max() <= 2.0 * torch_error(case).max()


@pytest.mark.parametrize("spread", [3e3, 3e4, 1e6])
@pytest.mark.parametrize("is_shared", [False, True])
def test_huge_scores(is_shared: bool, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The greatest score, rounded, may be off by more than an exponential bears."""
    monkeypatch.setattr(product, "MIN_GUESSED_SCORES", 0)
    monkeypatch.setattr(step_plan, "MAX_ITEM_QUERIES", 0)
    shape = shape_of(2, 80, 16)
    rows = [(200, 20), (200, 1), (200, 1)]
    tables, num_pages = allocate(rows, [12] * 3, 16, np.random.default_rng(5))
    cascade = cascade_of(rows, tables, 16) if is_shared else NO_CASCADE
    case = make_case(shape, rows, tables, num_pages, spread=spread, cascade=cascade)
    out = run_case(case, torch.bfloat16)
    assert out.isfinite().all()
    assert relative_error(out, oracle(case, torch.bfloat16)).median() < 1e-2


def test_stale_scratch_is_never_read() -> None:
    shape = shape_of(3, 128, 16)
    attention = CpuAttention(shape)
    poisoned = mixed_case(shape, seed=1)
    poisoned.query.fill_(torch.nan)
    with torch.inference_mode():
        assert run_case(poisoned, attention=attention).isnan().all()
    case = mixed_case(shape, seed=2)
    error = relative_error(run_case(case, attention=attention), oracle(case))
    assert error.max() < 3e-6


def test_plan_serves_every_layer() -> None:
    shape = shape_of(2, 80, 16)
    case, attention = mixed_case(shape), CpuAttention(shape)
    plan = attention.plan(case.batch)

    def layer() -> Any:
        return attention.forward(case.query, *stored(case, torch.float32), case.batch, plan)

    assert torch.equal(layer(), layer())


@pytest.mark.parametrize("boost", [90.0, -90.0])
@pytest.mark.parametrize("is_shared", [False, True])
def test_a_poor_guess_is_seen(
    boost: float, is_shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One key's score is far off all others'; whether or not it is among the sampled ones, and
    whether or not a query sees it, the result is right."""
    monkeypatch.setattr(product, "MIN_GUESSED_SCORES", 0)
    monkeypatch.setattr(step_plan, "MAX_ITEM_QUERIES", 0)
    shape = shape_of(2, 80, 16)
    rows = [(200, 60), (200, 60)] if is_shared else [(0, 260)]
    tables, num_pages = allocate(rows, [12] * len(rows), 16, np.random.default_rng(3))
    cascade = cascade_of(rows, tables, 16)
    case = make_case(shape, rows, tables, num_pages, cascade=cascade)
    case.query[..., 0] = 20.0
    case.key[..., 0] = case.keys[..., 0] = 0.0
    for position in (100, 151):
        page, offset = tables[0][position // 16], position % 16
        if rows[0][0] > position:
            case.keys[page, offset, :, 0] = boost / 5
        else:
            case.key[position, :, 0] = boost / 5
    out = run_case(case, torch.bfloat16)
    assert relative_error(out, oracle(case, torch.bfloat16)).max() < 1e-2


@pytest.mark.parametrize("rounds_first", [False, True])
def test_a_sigmoid_of_rounded_products_is_no_exponential(
    rounds_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Builds for other processors may have the product, and apply the sigmoid to it rounded."""

    def pointwise(rows: torch.Tensor, keys: torch.Tensor, *_: Any) -> torch.Tensor:
        scores = rows.float() @ keys.float().T
        return (scores.bfloat16() if rounds_first else scores).sigmoid().bfloat16()

    monkeypatch.setattr(torch._C, "_has_mkldnn", True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", pointwise, raising=False)
    assert product._can_fuse_sigmoid() == (not rounds_first)


def test_without_onednn_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product, "_can_fuse_sigmoid", lambda: False)
    monkeypatch.setattr(product, "MIN_GUESSED_SCORES", 0)
    monkeypatch.setattr(product.ProductAttention, "_guessed", None)
    case = mixed_case(shape_of(3, 64, 16))
    error = relative_error(run_case(case, torch.bfloat16), oracle(case, torch.bfloat16))
    assert error.max() < 1e-2
