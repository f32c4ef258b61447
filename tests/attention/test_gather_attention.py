"""GatherAttention against the reference: the same batches, on any device."""

import numpy as np
import pytest
import torch

from radixserve.attention.base import AttentionShape
from radixserve.attention.gather_backend import GatherAttention
from tests.attention.ragged import allocate, make_case, oracle, stored

ROWS = [(0, 5), (300, 1), (90, 20), (16, 1), (15, 2), (0, 1)]


@pytest.mark.parametrize("page_size", [1, 16, 24])
@pytest.mark.parametrize("num_kv_heads", [1, 2, 6])
def test_means_what_the_reference_means(page_size: int, num_kv_heads: int) -> None:
    shape = AttentionShape(6, num_kv_heads, 40, 0.2, page_size)
    tables, num_pages = allocate(ROWS, [9] * len(ROWS), page_size, np.random.default_rng(0))
    case = make_case(shape, ROWS, tables, num_pages)
    attention = GatherAttention(shape)
    plan = attention.plan(case.batch)  # type: ignore[func-returns-value]
    out = attention.forward(case.query, *stored(case, torch.float32), case.batch, plan)
    torch.testing.assert_close(out, oracle(case).flatten(1).float(), rtol=1e-5, atol=2e-6)
