"""Shapes of page copies that their test and their bench share."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PageCopyCase:
    """A storage, and how many of its pages are copied."""

    num_layers: int
    num_pages: int
    page_size: int
    num_kv_heads: int
    head_dim: int
    num_copies: int


TEST_CASES = (
    PageCopyCase(2, 6, 1, 1, 64, 3),
    PageCopyCase(3, 9, 16, 2, 80, 4),
    # Several programs a page, the last one partly outside.
    PageCopyCase(1, 5, 64, 3, 96, 2),
    PageCopyCase(2, 4, 16, 1, 256, 0),
    # A row of three elements: words as narrow as the dtype.
    PageCopyCase(2, 5, 3, 1, 3, 2),
)

# Qwen3-0.6B, Llama-3.2-1B, Qwen3-8B, Llama-3.1-8B: layers, key heads and head size.
BENCH_CASES = tuple(
    PageCopyCase(num_layers, 512, 16, 8, head_dim, num_copies)
    for num_layers, head_dim in ((28, 128), (16, 64), (36, 128), (32, 128))
    for num_copies in (1, 16, 128)
)


@dataclass(frozen=True, slots=True)
class PageCopyInputs:
    """Random tensors of a case."""

    storage: torch.Tensor
    """[num_layers, 2, num_pages, page_size, num_kv_heads, head_dim]"""
    sources: torch.Tensor
    """int64[n], with repetitions where there are fewer pages than copies."""
    targets: torch.Tensor
    """int64[n]"""


def make_inputs(
    case: PageCopyCase, dtype: torch.dtype, device: torch.device, *, seed: int = 0
) -> PageCopyInputs:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    pages = torch.randperm(case.num_pages, generator=generator)
    targets, others = pages[: case.num_copies], pages[case.num_copies :]
    pick = torch.randint(0, len(others), (case.num_copies,), generator=generator)
    storage = torch.randn(
        case.num_layers,
        2,
        case.num_pages,
        case.page_size,
        case.num_kv_heads,
        case.head_dim,
        generator=generator,
    )
    return PageCopyInputs(storage.to(device, dtype), others[pick].to(device), targets.to(device))
