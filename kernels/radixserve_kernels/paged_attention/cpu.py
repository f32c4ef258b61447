"""Paged attention on processors, for few queries a key: those of decode steps, and of small levels.

The work is cut into *items*: a run of flat tokens, and a run of keys that all of them see. Keys and
values are read where they lie, a tile of 16 at a time, each page once in the order of memory, for
all heads and all of the item's tokens:

    keys       tile 0, tile 1, ...      scores [tokens * H, keys], in the nearest caches
    softmax                             a row of scores at a time
    values     tile 0, tile 1, ...      totals [tokens * H, D]

Items of many queries go head by head (``cpu/attending.py``); in bfloat16, where the processor
multiplies pairs of it, with weights rounded to it (``cpu/attending_pairs.py``).

An item either writes its tokens' results (``DIRECT``) or leaves *partial* results with their
log-sum-exp in float32: its tokens' keys are in several items, or in levels that somebody else has
attended to before. Those lie in *planes*, [plane, T, H, D], of which a token has its first so many;
the items' own lie in *slots*, a token's one after the other. Whoever leaves a token's last one
merges them all, so one call does for a layer:

    out = sum_i exp(lse_i - max) partial_i / sum_i exp(lse_i - max)

Threads take items one by one; which thread computes what changes no result, nor does anything
outside an item: sums are made in the order of keys, merges in the order of planes, then slots.

What a row must not see it never reads: no padding, no slot behind its last key. NaN in a row's
queries, keys or values comes out as NaN, of that row only.

*Cost*: reads an item's keys and values once from memory, writes and reads each partial result once:
H * D float32 a token and slot, of memory as well. Computing takes about as long as reading, for
each token (2 cores with AVX-512, 3 query heads a key head of 64: 18 ns a key of 1 KiB).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from radixserve_kernels.checks import check_contiguous, check_dtype
from radixserve_kernels.cpu.attending_pairs import are_paired
from radixserve_kernels.cpu.numbers import KINDS
from radixserve_kernels.paged_attention.cpu_kernel import heads_together, make_attend


@dataclass(frozen=True, slots=True)
class Work:
    """One step's items, the same for every layer."""

    items: npt.NDArray[np.int32]
    """[N, ITEM_FIELDS]."""
    tokens: npt.NDArray[np.int32]
    """[T, TOKEN_FIELDS], or [0, TOKEN_FIELDS] where all items are direct."""
    num_slots: int
    max_item_tokens: int


@dataclass(frozen=True, slots=True)
class Room:
    """Memory for partial results, and for threads; what it holds before is nobody's business."""

    planes: torch.Tensor
    """float32[planes, T, H, D]."""
    planes_lse: torch.Tensor
    """float32[planes, T, H]."""
    slots: torch.Tensor
    """float32[slots, H, D]."""
    slots_lse: torch.Tensor
    """float32[slots, H]."""
    scratch: torch.Tensor
    """uint8[threads, ``scratch_bytes``]."""
    counter: torch.Tensor
    """int32[1]: the next item that a thread may take."""


class PagedAttention:
    """A step's items, ready to be launched once a layer.

    Keeps what the kernel is given addresses of. Not thread-safe.
    """

    def __init__(
        self, work: Work, page_table: torch.Tensor, room: Room, page_size: int, scale: float
    ) -> None:
        """``page_table``: int32[B, max_pages], on the host."""
        check_dtype("page_table", page_table, (torch.int32,))
        check_contiguous("page_table", page_table)
        self._kept = work, page_table, room
        num_threads, per_thread = room.scratch.shape
        self._page_size = page_size
        self._before = (
            page_table.data_ptr(),
            work.items.ctypes.data,
            work.tokens.ctypes.data,
            room.planes.data_ptr(),
            room.planes_lse.data_ptr(),
            room.slots.data_ptr(),
            room.slots_lse.data_ptr(),
            room.scratch.data_ptr(),
            room.counter.data_ptr(),
            page_table.stride(0),
            page_size,
            len(work.items),
            len(work.tokens),
        )
        self._behind = per_thread, min(num_threads, len(work.items)), scale

    def run(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        out: torch.Tensor,
    ) -> None:
        """``query``: [T, H, D], a token's heads side by side. ``keys``, ``values``: contiguous
        [num_pages, page_size, Hkv, D], of its dtype. *Mutates* ``out``, contiguous [T, H, D]:
        the results of the items' tokens."""
        num_heads, head_dim = query.shape[1:]
        num_kv_heads = keys.shape[2]
        if query.stride()[1:] != (head_dim, 1):
            raise ValueError(f"expected a token's heads side by side, got strides {query.stride()}")
        if not keys.dtype == values.dtype == query.dtype == out.dtype:
            raise TypeError(
                f"expected keys, values and results of dtype {query.dtype}, got {keys.dtype}, "
                f"{values.dtype} and {out.dtype}"
            )
        check_contiguous("keys", keys)
        check_contiguous("values", values)
        check_contiguous("out", out)
        pool = (self._page_size, num_kv_heads, head_dim)
        if keys.shape != values.shape or keys.shape[1:] != pool or num_heads % num_kv_heads:
            raise ValueError(
                f"expected keys and values of shape [num_pages, {self._page_size}, Hkv, "
                f"{head_dim}], of whose heads {num_heads} are a multiple, got "
                f"{list(keys.shape)} and {list(values.shape)}"
            )
        if out.shape != query.shape:
            raise ValueError(f"out: expected shape {list(query.shape)}, got {list(out.shape)}")
        group = num_heads // num_kv_heads
        kind = KINDS[query.dtype]
        attend = make_attend(
            kind, heads_together(group, head_dim), head_dim, paired=are_paired(kind, head_dim)
        )
        attend(
            query.data_ptr(),
            query.stride(0),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
            *self._before,
            num_kv_heads,
            group,
            head_dim,
            *self._behind,
        )
