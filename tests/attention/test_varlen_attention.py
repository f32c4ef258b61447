"""VarlenAttention: what it hands to torch, and what it refuses. The call itself needs a GPU."""

import inspect
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import varlen

from radixserve.attention import varlen_backend
from radixserve.attention.base import AttentionShape
from radixserve.attention.varlen_backend import VarlenAttention
from radixserve.errors import ConfigError
from radixserve_kernels.paged_attention.reference import paged_attention_reference
from tests.attention.ragged import allocate, make_case, oracle, stored

SHAPE = AttentionShape(num_heads=4, num_kv_heads=2, head_dim=32, scale=0.2, page_size=256)
GPU = torch.device("cuda:0")
ROWS = [(0, 5), (300, 1), (250, 20)]

has_block_table = "block_table" in inspect.signature(varlen.varlen_attn).parameters
needs_block_table = pytest.mark.skipif(
    not has_block_table, reason=f"torch {torch.__version__} has no block_table in varlen_attn"
)


def half_case() -> Any:
    tables, num_pages = allocate(ROWS, [0] * 3, SHAPE.page_size, np.random.default_rng(0))
    return make_case(SHAPE, ROWS, tables, num_pages)


@needs_block_table
def test_the_call_fits_the_installed_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in of the very signature does what its documentation says."""
    signature = inspect.signature(varlen.varlen_attn)
    case = half_case()

    def stand_in(*args: Any, **kwargs: Any) -> torch.Tensor:
        given = signature.bind(*args, **kwargs).arguments
        assert (given["max_q"], given["max_k"]) == (20, 301)
        assert given["window_size"] == (-1, 0)
        assert given["enable_gqa"] is True
        for name in ("cu_seq_q", "cu_seq_k", "seqused_k", "block_table"):
            assert given[name].dtype == torch.int32
        assert given["cu_seq_q"].tolist() == [0, 5, 6, 26]
        assert given["cu_seq_k"].tolist() == [0, 5, 306, 576]
        return paged_attention_reference(
            given["query"].double(),
            given["key"].double(),
            given["value"].double(),
            given["cu_seq_q"],
            given["seqused_k"],
            given["block_table"],
            given["scale"],
        )

    monkeypatch.setattr(stand_in, "__signature__", signature, raising=False)
    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    attention = VarlenAttention(SHAPE, GPU)
    keys, values = stored(case, torch.float16)
    out = attention.forward(case.query.half(), keys, values, case.batch, attention.plan(case.batch))
    torch.testing.assert_close(out, oracle(case, torch.float16).flatten(1))


@needs_block_table
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has varlen_attn on CUDA only")
def test_torchs_own_attention_means_what_the_reference_means() -> None:
    from dataclasses import replace  # noqa: PLC0415

    case = half_case()
    batch = replace(
        case.batch,
        query_start=case.batch.query_start.cuda(),
        context_lens=case.batch.context_lens.cuda(),
        page_table=case.batch.page_table.cuda(),
    )
    attention = VarlenAttention(SHAPE, GPU)
    keys, values = stored(case, torch.float16)
    out = attention.forward(
        case.query.half().cuda(),
        # Masked keys are multiplied by zero there, so what is not used must not be NaN.
        keys.nan_to_num().cuda(),
        values.nan_to_num().cuda(),
        batch,
        attention.plan(batch),
    )
    expected = oracle(case, torch.float16).flatten(1)
    torch.testing.assert_close(out.cpu().double(), expected, rtol=2e-3, atol=2e-3)


def test_refuses_a_torch_without_paged_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_pages(query: Any, key: Any, value: Any) -> None: ...

    monkeypatch.setattr(varlen, "varlen_attn", without_pages)
    with pytest.raises(ConfigError, match=r"2\.12 or later\), got torch"):
        VarlenAttention(SHAPE, GPU)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    with pytest.raises(ConfigError, match=r"2\.12 or later\), got torch"):
        VarlenAttention(SHAPE, GPU)


@needs_block_table
def test_pages_must_be_what_flash_attention_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = AttentionShape(4, 2, 32, 0.2, 16)
    with pytest.raises(ConfigError, match="multiple of 256, got 16; set page_size to 256"):
        VarlenAttention(shape, GPU)
    monkeypatch.setattr(varlen_backend, "has_custom_flash_attention", lambda: True)
    VarlenAttention(shape, GPU)


def test_no_other_flash_attention_is_active() -> None:
    assert not varlen_backend.has_custom_flash_attention()


@needs_block_table
def test_refuses_float32() -> None:
    case = half_case()
    attention = VarlenAttention(SHAPE, GPU)
    with pytest.raises(ConfigError, match=r"float16 or bfloat16, got torch\.float32"):
        attention.forward(
            case.query, case.keys, case.values, case.batch, attention.plan(case.batch)
        )
