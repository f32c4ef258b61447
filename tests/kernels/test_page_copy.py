"""Page copies in one launch: to the bit, in every layer, and no other page."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radixserve_kernels.page_copy.cases import TEST_CASES, PageCopyCase, make_inputs
from radixserve_kernels.page_copy.kernel import BLOCK_BYTES, num_warps, page_copy
from radixserve_kernels.page_copy.reference import page_copy_reference
from tests.kernels.judging import DEVICE, DTYPES, assert_same_bits


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8], ids=str)
@pytest.mark.parametrize("case", TEST_CASES, ids=str)
def test_copies_are_the_references(case: PageCopyCase, dtype: torch.dtype) -> None:
    inputs = make_inputs(case, dtype, DEVICE)
    expected = inputs.storage.clone()
    page_copy_reference(expected, inputs.sources, inputs.targets)
    page_copy(inputs.storage, inputs.sources.int(), inputs.targets.int())
    assert_same_bits(inputs.storage, expected)


@st.composite
def copy_lists(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A number of pages, and copies of which none can race."""
    num_pages = draw(st.integers(2, 9))
    pages = draw(st.permutations(range(num_pages)))
    num_copies = draw(st.integers(0, num_pages - 1))
    targets, others = pages[:num_copies], pages[num_copies:]
    sources = draw(st.lists(st.sampled_from(others), min_size=num_copies, max_size=num_copies))
    return num_pages, list(zip(sources, targets, strict=True))


@settings(max_examples=40)
@given(copy_lists(), st.sampled_from([1, 2, 5]), st.integers(0, 1 << 32))
def test_any_copies_act_as_on_a_dict_of_pages(
    copies: tuple[int, list[tuple[int, int]]], head_dim: int, seed: int
) -> None:
    num_pages, pairs = copies
    shape = (2, 2, num_pages, 3, 1, head_dim)
    content = np.random.default_rng(seed).integers(-(2**15), 2**15, shape).astype(np.int16)
    model = {page: content[:, :, page].copy() for page in range(num_pages)}
    model |= {target: model[source] for source, target in pairs}
    # NaN and the like among the bits: a copy knows no numbers.
    storage = torch.from_numpy(content.copy()).to(DEVICE).view(torch.bfloat16)
    page_copy(
        storage,
        torch.tensor([source for source, _ in pairs], dtype=torch.int64, device=DEVICE),
        torch.tensor([target for _, target in pairs], dtype=torch.int64, device=DEVICE),
    )
    found = storage.view(torch.int16).cpu().numpy()
    for page, expected in model.items():
        np.testing.assert_array_equal(found[:, :, page], expected)


def test_a_storage_that_begins_anywhere() -> None:
    """A view four bytes into its memory: its words are four bytes wide, not eight."""
    memory = torch.randn(2 * 3 * 8 + 1, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    storage = memory[1:].view(1, 2, 3, 1, 1, 8)
    expected = storage.clone()
    one, two = torch.tensor([1], device=DEVICE), torch.tensor([2], device=DEVICE)
    page_copy_reference(expected, one, two)
    page_copy(storage, one, two)
    assert_same_bits(storage, expected)


def test_threads_have_work() -> None:
    assert [num_warps(words) for words in (1, 256, 512, BLOCK_BYTES // 8)] == [1, 1, 2, 4]


def test_what_does_not_fit_is_refused() -> None:
    storage = torch.zeros(2, 2, 4, 3, 1, 8, device=DEVICE)
    indices = torch.tensor([0, 1], device=DEVICE)
    with pytest.raises(ValueError, match=r"storage: expected shape \[num_layers, 2, num_pages"):
        page_copy(storage[0], indices, indices)
    with pytest.raises(ValueError, match="storage: expected a contiguous tensor"):
        page_copy(storage[:, :, 1:], indices, indices)
    with pytest.raises(ValueError, match=r"targets: expected shape \[2\], got \[1\]"):
        page_copy(storage, indices, indices[:1])
    with pytest.raises(ValueError, match="sources: expected int32 or int64, got float32"):
        page_copy(storage, indices.float(), indices)
    with pytest.raises(ValueError, match=r"sources: expected a tensor on .*, got one on meta"):
        page_copy(storage, indices.to("meta"), indices)
