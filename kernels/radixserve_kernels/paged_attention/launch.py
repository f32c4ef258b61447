"""The entry to paged attention: checks what it is given, chooses constants, launches.

    plan_work (numpy) ──▶ DeviceWork (tensors) ──▶ paged_attention, once for every layer

Whoever calls it for many layers alike can save the host's time: ``check_attention`` for one of
them, ``prepare_attention`` once, and ``launch_attention``, which neither checks nor chooses, for
all.

Two launches of the attention kernel at most, for short and for tall tiles, be they of rows or of
levels, and one that merges their partial results. Which of them is launched, and with what grid,
follows from the shapes of the work's tensors, never from their contents: so a captured launch stays
right when the contents change, and nothing here waits for the device.

Source of the reference meaning: ``reference``.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton

from radixserve_kernels.checks import (
    FLOATS,
    check_dtype,
    check_place,
    check_shape,
)
from radixserve_kernels.paged_attention.device_work import (
    MERGE,
    SHORT,
    TALL,
    DeviceWork,
    check_work,
)
from radixserve_kernels.paged_attention.items import tile_shape
from radixserve_kernels.paged_attention.kernel import attention_kernel
from radixserve_kernels.paged_attention.merge import merge_kernel
from radixserve_kernels.paged_attention.tuning import (
    MERGE_BLOCK,
    MERGE_REGISTERS,
    MERGE_WARPS,
    LaunchConfig,
    head_parts,
    launch_config,
    merge_programs,
)
from radixserve_kernels.target import processors


@dataclass(frozen=True, slots=True)
class PreparedAttention:
    """All of a launch that neither layers nor steps change."""

    scale: float
    soft_cap: float
    window: int
    num_heads: int
    short_jobs: int
    """Programs' jobs an item: its KV heads, times the parts of its tile."""
    short_programs: int
    """The most of a persistent grid."""
    short_constants: dict[str, Any]
    tall_jobs: int
    tall_programs: int
    """The most of a persistent grid, which a static plan's tall tiles have."""
    tall_constants: dict[str, Any]
    merge_programs: int
    merge_constants: dict[str, Any]


@cache
def prepare_attention(
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    page_size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    scale: float,
    soft_cap: float | None = None,
    window: int | None = None,
    short_config: LaunchConfig | None = None,
    tall_config: LaunchConfig | None = None,
) -> PreparedAttention:
    """Choose what the launches of a model have in common; see ``paged_attention``.

    ``short_config``, ``tall_config``: instead of ``launch_config``'s choice.
    *Raises* ``ValueError`` for numbers that the kernels do not know, and for a device that has not
    the shared memory. *Cost*: a look-up, but for the first time.
    """
    if not scale > 0:
        raise ValueError(f"expected a scale above 0, got {scale}")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"expected a soft_cap above 0, got {soft_cap}")
    if window is not None and window < 1:
        raise ValueError(f"expected a window of at least 1 key, got {window}")
    low, high = head_parts(head_dim)
    tiles = tile_shape(num_heads // num_kv_heads)
    device_has = processors(device)
    is_plain = soft_cap is None and window is None

    def constants(index: int, rows: int, config: LaunchConfig) -> dict[str, Any]:
        block_m = min(rows, config.block_m)
        return {
            "COUNT_INDEX": index,
            "NUM_KV_HEADS": num_kv_heads,
            "GROUP": tiles.group,
            "PAGE_SIZE": page_size,
            "D_LOW": low,
            "D_HIGH": high,
            "TILE_PARTS": rows // block_m,
            "BLOCK_M": block_m,
            "BLOCK_N": config.block_n,
            "HAS_SOFT_CAP": soft_cap is not None,
            "HAS_WINDOW": window is not None,
            "num_warps": config.num_warps,
            "num_stages": config.num_stages,
            "maxnreg": config.register_limit(is_plain=is_plain),
            "enable_fp_fusion": True,
        }

    element_bytes = dtype.itemsize
    short = short_config or launch_config(head_dim, element_bytes, device_has, is_tall=False)
    tall = tall_config or launch_config(head_dim, element_bytes, device_has, is_tall=True)
    short_constants = constants(SHORT, tiles.short, short)
    tall_constants = constants(TALL, tiles.tall, tall)
    return PreparedAttention(
        scale=scale,
        soft_cap=soft_cap or 0.0,
        window=window or 0,
        num_heads=num_heads,
        short_jobs=num_kv_heads * short_constants["TILE_PARTS"],
        short_programs=short.num_programs(device_has, is_plain=is_plain),
        short_constants=short_constants,
        tall_jobs=num_kv_heads * tall_constants["TILE_PARTS"],
        tall_programs=tall.num_programs(device_has, is_plain=is_plain),
        tall_constants=tall_constants,
        merge_programs=merge_programs(device_has),
        merge_constants={
            "COUNT_INDEX": MERGE,
            "NUM_HEADS": num_heads,
            "HEAD_DIM": head_dim,
            "BLOCK_D": triton.next_power_of_2(head_dim),
            "BLOCK_S": MERGE_BLOCK,
            "num_warps": MERGE_WARPS,
            "maxnreg": MERGE_REGISTERS,
            "enable_fp_fusion": True,
        },
    )


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
    short_config: LaunchConfig | None = None,
    tall_config: LaunchConfig | None = None,
) -> torch.Tensor:
    """Causal, grouped-query attention of a ragged batch over paged keys: ``reference``'s meaning.

    ``query``: [T, num_heads, head_dim]; ``keys``, ``values``: [num_pages, page_size, num_kv_heads,
    head_dim], of equal strides; ``page_table``: int32[B, max_pages]; one dtype of float16, bfloat16
    or float32; all with a contiguous last dimension. ``work`` holds the step's lengths, cut for
    ``tile_shape(num_heads // num_kv_heads)``. ``soft_cap``: scaled scores become
    ``soft_cap * tanh(score / soft_cap)``. ``window``: a query sees that many keys, itself the last.
    ``short_config``, ``tall_config``: launches to try, of ``tuning.launch_configs``.

    Returns [T, num_heads, head_dim]: ``out``, or a new tensor.
    *Mutates* ``out`` and ``work``'s partials. Tokens that no item holds are left as they are.
    *Raises* ``ValueError`` for shapes, dtypes, strides, devices and numbers that do not fit, and
    for a window where ``work`` has levels. *Cost*: at most three launches, no wait.
    """
    if window is not None and work.has_levels:
        raise ValueError("expected work without levels for attention with a window")
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    check_attention(query, keys, values, page_table, work, out)
    prepared = prepare_attention(
        query.shape[1],
        keys.shape[2],
        query.shape[2],
        keys.shape[1],
        query.dtype,
        query.device,
        scale=scale,
        soft_cap=soft_cap,
        window=window,
        short_config=short_config,
        tall_config=tall_config,
    )
    launch_attention(prepared, query, keys, values, page_table, work, out)
    return out


def launch_attention(
    prepared: PreparedAttention,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    page_table: torch.Tensor,
    work: DeviceWork,
    out: torch.Tensor,
) -> None:
    """``paged_attention`` for tensors known to fit each other and ``prepared``: nothing is checked.

    *Mutates* ``out`` and ``work``'s partials.
    """
    num_short, num_tall, num_merges = len(work.short_items), len(work.tall_items), len(work.merges)
    out_token_stride, out_head_stride, _ = out.stride()
    if num_short + num_tall > 0:
        query_token_stride, query_head_stride, _ = query.stride()
        page_stride, slot_stride, kv_head_stride, _ = keys.stride()
        rest = (
            work.counts,
            out,
            work.first_slots,
            work.partials,
            work.partial_lse,
            prepared.scale,
            prepared.soft_cap,
            prepared.window,
            query_token_stride,
            query_head_stride,
            page_stride,
            slot_stride,
            kv_head_stride,
            page_table.stride(0),
            out_token_stride,
            out_head_stride,
        )
        if num_short > 0:
            grid = (min(num_short * prepared.short_jobs, prepared.short_programs),)
            attention_kernel[grid](
                query,
                keys,
                values,
                page_table,
                work.short_items,
                *rest,
                PERSISTENT=True,
                **prepared.short_constants,
            )
        if num_tall > 0:
            # A program each, which the hardware balances; but not for rooms that are mostly empty.
            num_jobs = num_tall * prepared.tall_jobs
            grid = (min(num_jobs, prepared.tall_programs) if work.is_static else num_jobs,)
            attention_kernel[grid](
                query,
                keys,
                values,
                page_table,
                work.tall_items,
                *rest,
                PERSISTENT=work.is_static,
                **prepared.tall_constants,
            )
    if num_merges > 0:
        grid = (min(num_merges * prepared.num_heads, prepared.merge_programs),)
        merge_kernel[grid](
            work.partials,
            work.partial_lse,
            work.merges,
            work.counts,
            out,
            out_token_stride,
            out_head_stride,
            **prepared.merge_constants,
        )


def check_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    page_table: torch.Tensor,
    work: DeviceWork,
    out: torch.Tensor,
) -> None:
    """Whether the tensors are as ``paged_attention`` demands. *Raises* ``ValueError``."""
    _check_tensors(query, keys, values, page_table, out)
    check_work(work, query)


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
