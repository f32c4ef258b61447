"""Shapes of norm, rotation and storing that their test and their bench share."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class KVStoreCase:
    """One layer's heads of T tokens, and the pages they are stored in."""

    num_tokens: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    has_norm: bool


# Every head size with and without the norm, every page size, one key head and as many as queries,
# heads that fill their programs and heads that do not.
TEST_CASES = (
    KVStoreCase(0, 4, 2, 64, 16, True),
    KVStoreCase(1, 32, 8, 128, 16, True),
    KVStoreCase(1, 4, 2, 16, 16, False),
    KVStoreCase(3, 3, 1, 24, 16, True),
    KVStoreCase(5, 40, 8, 64, 64, False),
    KVStoreCase(3, 5, 5, 64, 1, True),
    KVStoreCase(5, 6, 2, 80, 16, True),
    KVStoreCase(3, 14, 2, 80, 64, False),
    KVStoreCase(3, 9, 3, 96, 1, False),
    KVStoreCase(5, 12, 12, 96, 16, True),
    KVStoreCase(130, 4, 1, 128, 64, True),
    KVStoreCase(5, 32, 8, 128, 1, False),
    KVStoreCase(3, 8, 2, 192, 16, False),
    KVStoreCase(3, 5, 1, 192, 64, True),
    KVStoreCase(5, 7, 1, 256, 16, True),
    KVStoreCase(1, 16, 8, 256, 1, False),
)

# Qwen3-0.6B, Llama-3.2-1B, Qwen3-8B, Llama-3.1-8B.
BENCH_CASES = tuple(
    KVStoreCase(num_tokens, num_heads, 8, head_dim, 16, has_norm)
    for num_heads, head_dim, has_norm in (
        (16, 128, True),
        (32, 64, False),
        (32, 128, True),
        (32, 128, False),
    )
    for num_tokens in (1, 64, 8_192)
)


@dataclass(frozen=True, slots=True)
class KVStoreInputs:
    """Random tensors of a case; the pages are NaN, so that what is not written shows."""

    qkv: torch.Tensor
    """[T, (H + 2 Hkv) * D]"""
    weight: torch.Tensor | None
    """[H + Hkv, D]"""
    eps: float
    angles: torch.Tensor
    """[num_positions, D]"""
    positions: torch.Tensor
    """int64[T]"""
    storage: torch.Tensor
    """[2 layers, 2, num_pages, page_size, Hkv, D]"""
    slots: torch.Tensor
    """int64[T], scattered over the pages."""

    @property
    def keys(self) -> torch.Tensor:
        """[num_pages, page_size, Hkv, D]: those of layer 1."""
        return self.storage[1, 0]

    @property
    def values(self) -> torch.Tensor:
        """[num_pages, page_size, Hkv, D]: those of layer 1."""
        return self.storage[1, 1]


def make_inputs(
    case: KVStoreCase, dtype: torch.dtype, device: torch.device, *, seed: int = 0
) -> KVStoreInputs:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    num_rotated = case.num_heads + case.num_kv_heads
    width = (num_rotated + case.num_kv_heads) * case.head_dim
    num_positions = 2 * case.num_tokens + 3
    num_pages = -(-num_positions // case.page_size)
    turns = torch.rand(num_positions, case.head_dim // 2, generator=generator) * 6.3
    weight = 1.0 + 0.2 * torch.randn(num_rotated, case.head_dim, generator=generator)
    storage = torch.full(
        (2, 2, num_pages, case.page_size, case.num_kv_heads, case.head_dim),
        torch.nan,
        dtype=dtype,
        device=device,
    )
    slots = torch.randperm(num_pages * case.page_size, generator=generator)[: case.num_tokens]
    return KVStoreInputs(
        qkv=torch.randn(case.num_tokens, width, generator=generator).to(device, dtype),
        weight=weight.to(device, dtype) if case.has_norm else None,
        eps=1e-6,
        angles=torch.cat((turns.cos(), turns.sin()), dim=-1).to(device, dtype),
        positions=torch.randint(0, num_positions, (case.num_tokens,), generator=generator).to(
            device
        ),
        storage=storage,
        slots=slots.to(device),
    )
