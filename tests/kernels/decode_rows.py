"""Rows of one token, their pages, and the items that they are attended by, for tests of the kernel
for processors."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from radixserve_kernels.cpu import compiling
from radixserve_kernels.cpu.attending import MAX_ITEM_KEYS, TOKEN_FIELDS
from radixserve_kernels.paged_attention.cpu import PagedAttention, Room, Work
from radixserve_kernels.paged_attention.cpu_kernel import DIRECT, ITEM_FIELDS, scratch_bytes
from radixserve_kernels.paged_attention.reference import paged_attention_reference


@dataclass(frozen=True, slots=True)
class Decode:
    """Rows of one token over a pool that is NaN wherever no row has a key."""

    query: torch.Tensor
    """[B, H, D], a view of a fused projection."""
    keys: torch.Tensor
    values: torch.Tensor
    table: torch.Tensor
    lengths: list[int]

    def expected(self) -> torch.Tensor:
        return paged_attention_reference(
            self.query.double(),
            self.keys.double(),
            self.values.double(),
            torch.arange(len(self.lengths) + 1),
            torch.tensor(self.lengths),
            self.table,
            0.2,
        )

    def run(self, work: Work | None = None, num_threads: int = 2) -> torch.Tensor:
        work = work or whole_rows(self.lengths)
        compiling.match_threads()
        num_heads, head_dim = self.query.shape[1:]
        room = make_room(work, num_heads, self.keys.shape[2], head_dim, num_threads)
        out = torch.full(self.query.shape, torch.nan, dtype=self.query.dtype)
        attention = PagedAttention(work, self.table, room, self.keys.shape[1], 0.2)
        attention.run(self.query, self.keys, self.values, out)
        again = torch.full_like(out, torch.nan)
        attention.run(self.query, self.keys, self.values, again)
        assert (end_of(room.scratch) == 255).all(), "written behind the threads' scratch"
        assert torch.equal(out.nan_to_num(3.0), again.nan_to_num(3.0)), "the next layer's differs"
        return out


def decode(
    lengths: list[int],
    *,
    dtype: torch.dtype = torch.float32,
    num_kv_heads: int = 2,
    group: int = 2,
    head_dim: int = 40,
    page_size: int = 16,
    num_shared: int = 0,
) -> Decode:
    """Random pages, of which the first ``num_shared`` are the same in all rows."""
    generator = torch.Generator().manual_seed(0)
    num_pages = [-(-length // page_size) for length in lengths]
    ids = iter(np.random.default_rng(0).permutation(sum(num_pages) + num_shared + 1).tolist())
    shared = [next(ids) for _ in range(num_shared)]
    table = torch.zeros(len(lengths), max(num_pages, default=0) + 1, dtype=torch.int32)
    pool = (sum(num_pages) + num_shared + 1, page_size, num_kv_heads, head_dim)
    keys, values = torch.full((2, *pool), torch.nan)
    for row, (length, count) in enumerate(zip(lengths, num_pages, strict=True)):
        pages = (shared + [next(ids) for _ in range(count - num_shared)])[:count]
        table[row, :count] = torch.tensor(pages, dtype=torch.int32)
        for first, page in zip(range(0, length, page_size), pages, strict=True):
            used = slice(0, min(page_size, length - first))
            shape = keys[page, used].shape
            keys[page, used] = torch.randn(shape, generator=generator)
            values[page, used] = torch.randn(shape, generator=generator)
    heads = num_kv_heads * (group + 2)
    fused = torch.randn(len(lengths), heads, head_dim, generator=generator)
    query = fused[:, : num_kv_heads * group].to(dtype)
    return Decode(query, keys.to(dtype), values.to(dtype), table, lengths)


def items(*rows: tuple[int, int, int, int, int, int]) -> npt.NDArray[np.int32]:
    made = np.full((len(rows), ITEM_FIELDS), -7, dtype=np.int32)
    for item, row in zip(made, rows, strict=True):
        item[:6] = row
    return made


def tokens(*rows: tuple[int, int, int, int]) -> npt.NDArray[np.int32]:
    return np.array(rows, dtype=np.int32).reshape(-1, TOKEN_FIELDS)


def whole_rows(lengths: list[int]) -> Work:
    """Every row an item, or as many as it takes."""
    made, table, num_slots = [], [], 0
    for row, length in enumerate(lengths):
        firsts = range(0, length, MAX_ITEM_KEYS)
        table.append((0, num_slots, len(firsts), max(len(firsts), 1)))
        num_slots += len(firsts)
        for nth, first in enumerate(firsts):
            end = min(first + MAX_ITEM_KEYS, length)
            made.append((row, row, 1, first, end, DIRECT if len(firsts) == 1 else nth))
    return Work(items(*made), tokens(*table), num_slots, 1)


def make_room(
    work: Work, num_heads: int, num_kv_heads: int, head_dim: int, num_threads: int
) -> Room:
    """Full of NaN."""
    num_tokens = len(work.tokens)
    num_planes = int(work.tokens[:, 0].max(initial=0))
    per_thread = scratch_bytes(num_heads, num_kv_heads, head_dim, work.max_item_tokens)
    return Room(
        torch.full((num_planes, num_tokens, num_heads, head_dim), torch.nan),
        torch.full((num_planes, num_tokens, num_heads), torch.nan),
        torch.full((work.num_slots, num_heads, head_dim), torch.nan),
        torch.full((work.num_slots, num_heads), torch.nan),
        torch.full((num_threads + 1, per_thread), 255, dtype=torch.uint8)[:num_threads],
        torch.full((1,), 77, dtype=torch.int32),
    )


def end_of(scratch: torch.Tensor) -> torch.Tensor:
    """What lies behind the last thread's share."""
    return scratch.as_strided(scratch.shape[1:], (1,), scratch.numel())


def error(out: torch.Tensor, expected: torch.Tensor) -> float:
    norms = torch.linalg.vector_norm(expected, dim=-1)
    return float((torch.linalg.vector_norm(out.double() - expected, dim=-1) / norms).max())
