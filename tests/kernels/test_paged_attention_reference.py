"""The oracle itself, against torch's attention on plain contiguous sequences."""

import pytest
import torch

from radixserve_kernels.paged_attention.reference import paged_attention_reference


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("num_new", [1, 5, 13])
def test_one_row_is_causal_attention_over_its_pages(page_size: int, num_new: int) -> None:
    generator = torch.Generator().manual_seed(page_size)
    length, num_heads, num_kv_heads, head_dim = 13, 6, 2, 8
    query = torch.randn(num_new, num_heads, head_dim, generator=generator)
    key, value = torch.randn(2, length, num_kv_heads, head_dim, generator=generator)
    num_pages = -(-length // page_size)
    pages = torch.randperm(num_pages + 3, generator=generator)[:num_pages]
    keys = torch.full((num_pages + 3, page_size, num_kv_heads, head_dim), torch.nan)
    values = keys.clone()
    for position in range(length):
        page, offset = pages[position // page_size], position % page_size
        keys[page, offset], values[page, offset] = key[position], value[position]
    out = paged_attention_reference(
        query,
        keys,
        values,
        torch.tensor([0, num_new]),
        torch.tensor([length]),
        pages[None].int(),
        0.3,
    )
    visible = torch.ones(num_new, length, dtype=torch.bool).tril(length - num_new)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        attn_mask=visible,
        scale=0.3,
        enable_gqa=True,
    ).transpose(0, 1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_is_computed_in_float32_and_float64_stays() -> None:
    query, keys = torch.ones(1, 1, 4), torch.ones(1, 2, 1, 4)
    arguments = (torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([[0]]), 1.0)
    for dtype, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        q, kv = query.to(dtype), keys.to(dtype)
        assert paged_attention_reference(q, kv, kv, *arguments).dtype == expected
