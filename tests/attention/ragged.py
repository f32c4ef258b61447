"""Random ragged batches over a paged pool in which whatever must not be read is NaN."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.attention.cpu_backend import CpuAttention
from radixserve.cascade import NO_CASCADE, Cascade, Level
from radixserve_kernels.paged_attention.reference import paged_attention_reference


@dataclass(frozen=True, slots=True)
class RaggedCase:
    """A step: its batch, this step's projections, and the pool before it."""

    shape: AttentionShape
    batch: ForwardBatch
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


def make_batch(
    rows: list[tuple[int, int]], tables: list[list[int]], page_size: int
) -> ForwardBatch:
    """``rows`` are (start, number of new tokens); ``tables`` their pages."""
    table = np.zeros((len(rows), max(map(len, tables)) + 2), dtype=np.int32)
    positions: list[int] = []
    slots: list[int] = []
    for row, ((start, count), pages) in enumerate(zip(rows, tables, strict=True)):
        table[row, : len(pages)] = pages
        for position in range(start, start + count):
            positions.append(position)
            slots.append(pages[position // page_size] * page_size + position % page_size)
    query_start = (0, *np.cumsum([count for _, count in rows]).tolist())
    context_lens = tuple(start + count for start, count in rows)
    return ForwardBatch(
        input_ids=torch.zeros(query_start[-1], dtype=torch.int64),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        query_start=torch.tensor(query_start, dtype=torch.int32),
        context_lens=torch.tensor(context_lens, dtype=torch.int32),
        page_table=torch.from_numpy(table),
        query_start_host=query_start,
        context_lens_host=context_lens,
        logits_indices=torch.tensor(query_start[1:]) - 1,
    )


def allocate(
    rows: list[tuple[int, int]],
    shared_pages: list[int],
    page_size: int,
    rng: np.random.Generator,
    *,
    contiguous: bool = False,
) -> tuple[list[list[int]], int]:
    """Page tables, and the size of the pool they lie in.

    Row ``i`` begins with the first ``shared_pages[i]`` pages of a common run, as far as they lie
    wholly before its new tokens.
    """
    needed = [-(-(start + count) // page_size) for start, count in rows]
    kept = [
        min(shared, start // page_size)
        for shared, (start, _) in zip(shared_pages, rows, strict=True)
    ]
    common = max(kept, default=0)
    total = 3 + common + sum(need - keep for need, keep in zip(needed, kept, strict=True))
    ids = np.arange(1, total) if contiguous else 1 + rng.permutation(total - 1)
    free = iter(ids.tolist())
    run = [next(free) for _ in range(common)]
    return [
        run[:keep] + [next(free) for _ in range(need - keep)]
        for need, keep in zip(needed, kept, strict=True)
    ], total


def cascade_of(rows: list[tuple[int, int]], tables: list[list[int]], page_size: int) -> Cascade:
    """All that neighbouring rows share, level within level, however little it is."""
    whole = [start // page_size for start, _ in rows]
    levels: list[Level] = []

    def descend(first: int, end: int, depth: int) -> None:
        while first < end:
            stop = first + 1
            if whole[first] > depth:
                page = tables[first][depth]
                while stop < end and whole[stop] > depth and tables[stop][depth] == page:
                    stop += 1
            if stop - first >= 2:
                limit, page_end = min(whole[first:stop]), depth + 1
                run = tables[first]
                while page_end < limit and all(
                    table[page_end] == run[page_end] for table in tables[first:stop]
                ):
                    page_end += 1
                levels.append(Level(first, stop, depth, page_end))
                descend(first, stop, page_end)
            first = stop

    descend(0, len(rows), 0)
    return Cascade(tuple(levels))


def make_case(
    shape: AttentionShape,
    rows: list[tuple[int, int]],
    tables: list[list[int]],
    num_pages: int,
    *,
    seed: int = 0,
    spread: float = 1.0,
    cascade: Cascade = NO_CASCADE,
) -> RaggedCase:
    """Random float32 tensors; the pool is NaN except where a row has computed keys."""
    generator = torch.Generator().manual_seed(seed)
    batch = replace(make_batch(rows, tables, shape.page_size), cascade=cascade)
    pool = (num_pages, shape.page_size, shape.num_kv_heads, shape.head_dim)
    keys, values = torch.full(pool, torch.nan), torch.full(pool, torch.nan)
    drawn = torch.randn(2, *pool, generator=generator)
    for (start, _), pages in zip(rows, tables, strict=True):
        positions = torch.arange(start)
        where = (
            torch.tensor(pages)[positions // shape.page_size],
            positions % shape.page_size,
        )
        keys[where], values[where] = drawn[0][where], drawn[1][where]
    num_tokens = batch.num_tokens
    # Views of one fused projection, as models pass them.
    heads = shape.num_heads + 2 * shape.num_kv_heads
    fused = torch.randn(num_tokens, heads, shape.head_dim, generator=generator)
    query, key, value = torch.split(
        fused, [shape.num_heads, shape.num_kv_heads, shape.num_kv_heads], dim=1
    )
    return RaggedCase(shape, batch, query * spread, key, value, keys, values)


def run_case(
    case: RaggedCase, dtype: torch.dtype = torch.float32, attention: CpuAttention | None = None
) -> torch.Tensor:
    """What ``CpuAttention`` makes of the case in ``dtype``: [T, num_heads, head_dim]."""
    attention = attention or CpuAttention(case.shape)
    keys, values = stored(case, dtype)
    plan = attention.plan(case.batch)
    out = attention.forward(case.query.to(dtype), keys, values, case.batch, plan)
    return out.view(case.query.shape)


def stored(case: RaggedCase, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The pool's keys and values with the step's own stored, in ``dtype``."""
    keys, values = case.keys.to(dtype, copy=True), case.values.to(dtype, copy=True)
    keys.view(-1, *keys.shape[2:])[case.batch.slots] = case.key.to(dtype)
    values.view(-1, *values.shape[2:])[case.batch.slots] = case.value.to(dtype)
    return keys, values


def oracle(case: RaggedCase, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The reference, in float64, on the inputs as ``dtype`` represents them."""
    keys, values = stored(case, dtype)
    return paged_attention_reference(
        case.query.to(dtype).double(),
        keys.double(),
        values.double(),
        case.batch.query_start,
        case.batch.context_lens,
        case.batch.page_table,
        case.shape.scale,
    )
