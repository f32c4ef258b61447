"""The entry to paged attention: checks what it is given, chooses constants, launches.

    plan_work (numpy) ──▶ DeviceWork (tensors) ──▶ paged_attention, once for every layer

Two launches of the attention kernel at most, for short and for tall tiles, and one that merges the
partial results of split keys. Which of them is launched, and with what grid, follows from the
shapes of the work's tensors, never from their contents: so a captured launch stays right when the
contents change, and nothing here waits for the device.

Source of the reference meaning: ``reference``.
"""

from dataclasses import dataclass

import torch
import triton

from radixserve_kernels.checks import (
    FLOATS,
    check_contiguous,
    check_dtype,
    check_place,
    check_shape,
)
from radixserve_kernels.paged_attention.kernel import attention_kernel, merge_kernel
from radixserve_kernels.paged_attention.tuning import (
    MERGE_BLOCK,
    MERGE_WARPS,
    PROGRAMS_PER_PROCESSOR,
    launch_config,
)
from radixserve_kernels.paged_attention.work import (
    ITEM_FIELDS,
    MERGE_FIELDS,
    TileShape,
    tile_shape,
)
from radixserve_kernels.target import num_processors

SHORT, TALL, MERGE = 0, 1, 2
"""Indices into ``DeviceWork.counts``."""


@dataclass(frozen=True, slots=True)
class DeviceWork:
    """``work.Work`` on a device, with room for its partial results.

    The item and merge tensors may be longer than ``counts`` says: only so many are read. Layers
    that run one after the other share the room.
    """

    counts: torch.Tensor
    """int32[3]: short items, tall items, merges."""
    short_items: torch.Tensor
    """int32[>= counts[0], ITEM_FIELDS]."""
    tall_items: torch.Tensor
    """int32[counts[1], ITEM_FIELDS]."""
    merges: torch.Tensor
    """int32[>= counts[2], MERGE_FIELDS]."""
    partials: torch.Tensor
    """float32[slots, num_heads, head_dim]."""
    partial_lse: torch.Tensor
    """float32[slots, num_heads], to the base 2."""


def new_partials(
    num_slots: int, num_heads: int, head_dim: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Uninitialised room for so many partial results: ``DeviceWork``'s last two fields."""
    return (
        torch.empty(num_slots, num_heads, head_dim, dtype=torch.float32, device=device),
        torch.empty(num_slots, num_heads, dtype=torch.float32, device=device),
    )


def partial_bytes(num_heads: int, head_dim: int) -> int:
    """Bytes of one partial slot."""
    return 4 * num_heads * (head_dim + 1)


def head_parts(head_dim: int) -> tuple[int, int]:
    """A head size as its largest power of two and the rest, itself a power of two or 0.

    *Raises* ``ValueError`` if it is no such sum of parts of at least 16, the least a tensor core
    multiplies.
    """
    low = 1 << (head_dim.bit_length() - 1) if head_dim > 0 else 0
    high = head_dim - low
    if head_dim > 256 or low < 16 or (high != 0 and (high < 16 or high & (high - 1))):
        raise ValueError(
            "expected a head size up to 256 that is a power of two or a sum of two, each at least "
            f"16 (such as 64, 80, 96, 128, 192, 256), got {head_dim}"
        )
    return low, high


def paged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    page_table: torch.Tensor,
    work: DeviceWork,
    *,
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Causal, grouped-query attention of a ragged batch over paged keys: ``reference``'s meaning.

    ``query``: [T, num_heads, head_dim]; ``keys``, ``values``: [num_pages, page_size, num_kv_heads,
    head_dim], of equal strides; ``page_table``: int32[B, max_pages]; one dtype of float16, bfloat16
    or float32; all with a contiguous last dimension. ``work`` holds the step's lengths, cut for
    ``tile_shape(num_heads // num_kv_heads)``. ``soft_cap``: scaled scores become
    ``soft_cap * tanh(score / soft_cap)``. ``window``: a query sees that many keys, itself the last.

    Returns [T, num_heads, head_dim]: ``out``, or a new tensor.
    *Mutates* ``out`` and ``work``'s partials. Tokens that no item holds are left as they are.
    *Raises* ``ValueError`` for shapes, dtypes, strides, devices and numbers that do not fit.
    *Cost*: at most three launches, no wait.
    """
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    _check_tensors(query, keys, values, page_table, out)
    _check_work(work, query)
    if not scale > 0:
        raise ValueError(f"expected a scale above 0, got {scale}")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"expected a soft_cap above 0, got {soft_cap}")
    if window is not None and window < 1:
        raise ValueError(f"expected a window of at least 1 key, got {window}")
    num_heads, head_dim = query.shape[1:]
    num_kv_heads = keys.shape[2]
    tiles = tile_shape(num_heads // num_kv_heads)
    programs = num_processors(query.device) * PROGRAMS_PER_PROCESSOR
    for index, items in ((SHORT, work.short_items), (TALL, work.tall_items)):
        if len(items) > 0:
            _launch_attention(
                query,
                keys,
                values,
                page_table,
                items,
                work,
                out,
                scale,
                soft_cap,
                window,
                index,
                tiles,
                programs,
            )
    if len(work.merges) > 0:
        merge_kernel[(min(len(work.merges) * num_heads, programs),)](
            work.partials,
            work.partial_lse,
            work.merges,
            work.counts,
            out,
            out.stride(0),
            out.stride(1),
            COUNT_INDEX=MERGE,
            NUM_HEADS=num_heads,
            HEAD_DIM=head_dim,
            BLOCK_D=triton.next_power_of_2(head_dim),
            BLOCK_S=MERGE_BLOCK,
            num_warps=MERGE_WARPS,
            enable_fp_fusion=True,
        )
    return out


def _launch_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    page_table: torch.Tensor,
    items: torch.Tensor,
    work: DeviceWork,
    out: torch.Tensor,
    scale: float,
    soft_cap: float | None,
    window: int | None,
    index: int,
    tiles: TileShape,
    programs: int,
) -> None:
    """One launch. Tall items get a program each, which the hardware balances; short ones share."""
    is_tall = index == TALL
    low, high = head_parts(query.shape[2])
    config = launch_config(query.shape[2], query.element_size(), is_tall=is_tall)
    jobs = len(items) * keys.shape[2]
    attention_kernel[(jobs if is_tall else min(jobs, programs),)](
        query,
        keys,
        values,
        page_table,
        items,
        work.counts,
        out,
        work.partials,
        work.partial_lse,
        scale,
        soft_cap or 0.0,
        window or 0,
        query.stride(0),
        query.stride(1),
        keys.stride(0),
        keys.stride(1),
        keys.stride(2),
        page_table.stride(0),
        out.stride(0),
        out.stride(1),
        COUNT_INDEX=index,
        PERSISTENT=not is_tall,
        NUM_KV_HEADS=keys.shape[2],
        GROUP=tiles.group,
        PAGE_SIZE=keys.shape[1],
        D_LOW=low,
        D_HIGH=high,
        BLOCK_M=tiles.tall if is_tall else tiles.short,
        BLOCK_N=config.block_n,
        HAS_SOFT_CAP=soft_cap is not None,
        HAS_WINDOW=window is not None,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        enable_fp_fusion=True,
    )


def _check_tensors(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    page_table: torch.Tensor,
    out: torch.Tensor,
) -> None:
    check_shape("query", query, ("T", "num_heads", "head_dim"))
    num_heads, head_dim = query.shape[1:]
    check_shape("keys", keys, ("num_pages", "page_size", "num_kv_heads", head_dim))
    if 0 in keys.shape[1:] or num_heads % keys.shape[2] != 0:
        raise ValueError(
            f"keys: expected a number of KV heads that {num_heads} query heads share evenly, and "
            f"no size of 0, got {list(keys.shape)}"
        )
    check_shape("values", values, tuple(keys.shape))
    check_shape("page_table", page_table, ("B", "max_pages"))
    check_shape("out", out, tuple(query.shape))
    if values.stride() != keys.stride():
        raise ValueError(
            f"values: expected the strides of keys, {list(keys.stride())}, got "
            f"{list(values.stride())}"
        )
    check_dtype("query", query, FLOATS)
    check_dtype("page_table", page_table, (torch.int32,))
    for name, tensor in (("keys", keys), ("values", values), ("out", out)):
        check_dtype(name, tensor, (query.dtype,))
    for name, tensor in (("query", query), ("keys", keys), ("page_table", page_table)):
        _check_rows(name, tensor)
    _check_rows("out", out)
    check_place(query=query, keys=keys, values=values, page_table=page_table, out=out)


def _check_rows(name: str, tensor: torch.Tensor) -> None:
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise ValueError(
            f"{name}: expected a contiguous last dimension, got strides {list(tensor.stride())}"
        )


def _check_work(work: DeviceWork, query: torch.Tensor) -> None:
    num_heads, head_dim = query.shape[1:]
    items = (work.short_items, work.tall_items)
    check_shape("work.counts", work.counts, (3,))
    check_shape("work.short_items", work.short_items, ("N", ITEM_FIELDS))
    check_shape("work.tall_items", work.tall_items, ("N", ITEM_FIELDS))
    check_shape("work.merges", work.merges, ("N", MERGE_FIELDS))
    check_shape("work.partials", work.partials, ("slots", num_heads, head_dim))
    check_shape("work.partial_lse", work.partial_lse, (len(work.partials), num_heads))
    for tensor in (work.counts, *items, work.merges):
        check_dtype("work", tensor, (torch.int32,))
        check_contiguous("work", tensor)
    for tensor in (work.partials, work.partial_lse):
        check_dtype("work's room", tensor, (torch.float32,))
        check_contiguous("work's room", tensor)
    check_place(query=query, work=work.counts, room=work.partials)
