"""Paged attention on random data: made on the device, checked against its reference, ready to time.

A row is what a request has in a step: new tokens at the end of its context, whose beginning all
rows may have in common. Pages are scattered by a random permutation, as in a pool that has been
used for a while. Of large batches a few rows are
checked: rows are independent, and the whole of the timed configuration has run.

The bound is the tests': the error against float32 is at most twice that of torch's own plain
attention in the same dtype.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from radixserve_kernels.paged_attention.device_work import DeviceWork, new_partials
from radixserve_kernels.paged_attention.items import tile_shape
from radixserve_kernels.paged_attention.launch import paged_attention
from radixserve_kernels.paged_attention.level_work import NO_LEVELS
from radixserve_kernels.paged_attention.reference import paged_attention_reference
from radixserve_kernels.paged_attention.splits import SPLIT_TOKENS
from radixserve_kernels.paged_attention.work import plan_work

CHECKED_ROWS = 4


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """A batch of equal rows."""

    name: str
    num_rows: int
    num_new: int
    num_context: int
    """Keys of a row, its new ones included."""
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    page_size: int = 16
    shared_context: int = 0
    """Keys of its context that every row shares with the others, in whole pages: read once."""
    split_tokens: int = SPLIT_TOKENS
    dtype: torch.dtype = torch.bfloat16

    @property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)

    @property
    def num_pages(self) -> int:
        """Pages of a row."""
        return -(-self.num_context // self.page_size)

    @property
    def num_shared_pages(self) -> int:
        """Pages that all rows begin with."""
        return self.shared_context // self.page_size

    @property
    def total_pages(self) -> int:
        """Pages of all rows, shared ones once."""
        return self.num_shared_pages + self.num_rows * (self.num_pages - self.num_shared_pages)

    @property
    def storage_bytes(self) -> int:
        """Bytes of all pages."""
        tokens = self.total_pages * self.page_size
        return tokens * 2 * self.num_kv_heads * self.head_dim * self.dtype.itemsize


class AttentionData:
    """One set of tensors of a case."""

    def __init__(self, case: AttentionCase, device: torch.device, seed: int = 0) -> None:
        self.case = case
        generator = torch.Generator(device).manual_seed(seed)
        shape = (2, case.total_pages, case.page_size, case.num_kv_heads, case.head_dim)
        storage = torch.empty(shape, dtype=case.dtype, device=device)
        storage.normal_(generator=generator)
        self.keys, self.values = storage[0], storage[1]
        query = torch.empty(
            case.num_rows * case.num_new,
            case.num_heads,
            case.head_dim,
            dtype=case.dtype,
            device=device,
        )
        # Twice as long as plain ones, so that a query prefers some keys to others.
        self.query = query.normal_(std=2.0, generator=generator)
        pages = torch.randperm(case.total_pages, generator=generator, device=device)
        shared, own = pages[: case.num_shared_pages], pages[case.num_shared_pages :]
        rows = [shared.expand(case.num_rows, -1), own.view(case.num_rows, -1)]
        self.page_table = torch.cat(rows, dim=1).to(torch.int32)
        self.work = self._work(device, by_levels=case.shared_context > 0)

    def without_levels(self) -> "AttentionData":
        """The same tensors, every row reading all of its keys itself."""
        alone = copy.copy(self)
        alone.work = self._work(self.query.device, by_levels=False)
        return alone

    def _work(self, device: torch.device, *, by_levels: bool) -> DeviceWork:
        case = self.case
        query_start = np.arange(case.num_rows + 1, dtype=np.int32) * np.int32(case.num_new)
        context_lens = np.full(case.num_rows, case.num_context, dtype=np.int32)
        tiles = tile_shape(case.num_heads // case.num_kv_heads)
        shared_keys = case.num_shared_pages * case.page_size
        levels = np.array([(0, case.num_rows, 0, shared_keys)], dtype=np.int32)
        work = plan_work(
            query_start,
            context_lens,
            tiles,
            case.split_tokens,
            levels if by_levels else NO_LEVELS,
        )
        tensors = [torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in work.arrays]
        tensors += new_partials(work.num_partials, case.num_heads, case.head_dim, device)
        return DeviceWork(*tensors, has_levels=work.has_levels)

    def run(self) -> torch.Tensor:
        """The kernel: [T, num_heads, head_dim]."""
        return paged_attention(
            self.query, self.keys, self.values, self.page_table, self.work, scale=self.case.scale
        )

    def checked_rows(self) -> list[int]:
        """First, last, and some between."""
        last = self.case.num_rows - 1
        return sorted({round(last * n / (CHECKED_ROWS - 1)) for n in range(CHECKED_ROWS)})

    def tokens(self, row: int) -> slice:
        """Where the row's new tokens are in ``query``."""
        return slice(row * self.case.num_new, (row + 1) * self.case.num_new)

    def dense(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A row's keys and values, [num_context, num_kv_heads, head_dim]: copies."""
        pages = self.page_table[row].long()
        length = self.case.num_context
        return self.keys[pages].flatten(0, 1)[:length], self.values[pages].flatten(0, 1)[:length]

    def reference(self, row: int) -> torch.Tensor:
        """The row's result in float32, [num_new, num_heads, head_dim]."""
        device = self.query.device
        return paged_attention_reference(
            self.query[self.tokens(row)],
            self.keys,
            self.values,
            torch.tensor([0, self.case.num_new], device=device),
            torch.tensor([self.case.num_context], device=device),
            self.page_table[row : row + 1],
            self.case.scale,
        )

    def plain_torch(self, row: int) -> torch.Tensor:
        """The row's result by plain torch operations in the case's dtype."""
        case = self.case
        keys, values = self.dense(row)
        query = self.query[self.tokens(row)]
        positions = torch.arange(
            case.num_context - case.num_new, case.num_context, device=query.device
        )
        hidden = torch.arange(case.num_context, device=query.device) > positions[:, None]
        group = case.num_heads // case.num_kv_heads
        out = torch.empty_like(query)
        for head in range(case.num_heads):
            scores = (query[:, head] @ keys[:, head // group].T) * case.scale
            weights = scores.masked_fill_(hidden, float("-inf")).softmax(dim=-1)
            out[:, head] = weights @ values[:, head // group]
        return out


@dataclass(frozen=True, slots=True)
class Check:
    """The greatest errors against float32, and the verdict."""

    error: float
    torch_error: float
    green: bool
    detail: str


def check(data: AttentionData, rows: Sequence[int] | None = None) -> Check:
    """Run the whole case and compare some of its rows."""
    out = data.run()
    error = torch_error = 0.0
    finite = bool(out.isfinite().all())
    chosen = list(rows) if rows is not None else data.checked_rows()
    for row in chosen:
        truth = data.reference(row)
        error = max(error, difference(out[data.tokens(row)], truth))
        torch_error = max(torch_error, difference(data.plain_torch(row), truth))
    # The slack is one unit in the last place of a result near one hundredth.
    green = finite and error <= 2 * torch_error + 1e-4
    detail = (
        f"error {error:.2e}, torch's {torch_error:.2e}, "
        f"{len(chosen)} of {data.case.num_rows} row(s)" + ("" if finite else ", NOT FINITE")
    )
    return Check(error, torch_error, green, detail)


def difference(out: torch.Tensor, truth: torch.Tensor) -> float:
    """The greatest difference; infinite where something is no number."""
    worst = (out.float() - truth.float()).abs().max().item()
    return float(worst) if worst == worst else float("inf")  # noqa: PLR0124 (false for NaN)
