"""Norm, rotation and storing of one step's heads, as one pass over memory.

    qkv row    | H query heads | Hkv key heads | Hkv value heads |
                 norm, rotate    norm, rotate    as they are
                      |               |               |
                 query [T, H, D]  keys[slot]      values[slot]

A program takes ``BLOCK_HEADS`` neighbouring heads of one token, of whatever kind. A head is two
halves, [BLOCK_HEADS, BLOCK_HALF] each, because dimension ``i`` turns together with ``i + D/2``:

    low'  = low  * cos - high * sin
    high' = high * cos + low  * sin

Everything between the load and the store is float32, rounded once: where torch rounds after the
norm, after the weight and within the rotation, nothing is rounded here. How a head is normed
depends on the model's shape only, so a token's result does not depend on its batch.

*Cost*: bound by memory: reads the projection once, writes queries, keys and values once. Waits for
nothing, so it can be captured in a CUDA graph: padded rows carry slot -1 and any valid position.
"""

from functools import cache

import torch
import triton
import triton.language as tl

from radixserve_kernels.checks import INDICES, check_place, check_shape
from radixserve_kernels.kv_store.fitting import check_fit
from radixserve_kernels.rounding.kernel import narrow

MAX_HEAD_DIM = 512

BLOCK_ELEMENTS = 1_024
"""Elements of each half a program takes: one 16-byte access of two-byte elements a thread."""


@triton.jit
def kv_store_kernel(
    # Pointers
    query_ptr,  # [T, NUM_HEADS, HEAD_DIM]
    keys_ptr,  # [num_pages, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM]
    values_ptr,  # [num_pages, PAGE_SIZE, NUM_KV_HEADS, HEAD_DIM]
    qkv_ptr,  # [T, (NUM_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM]
    weight_ptr,  # [NUM_HEADS + NUM_KV_HEADS, HEAD_DIM], read only if HAS_NORM
    angles_ptr,  # [num_positions, HEAD_DIM]
    positions_ptr,  # [T]
    slots_ptr,  # [T]
    # Strides, in elements
    qkv_stride,
    keys_page_stride,
    keys_slot_stride,
    values_page_stride,
    values_slot_stride,
    # Scalars
    eps,
    # Constants
    NUM_HEADS: tl.constexpr,  # noqa: N803
    NUM_KV_HEADS: tl.constexpr,  # noqa: N803
    HEAD_DIM: tl.constexpr,  # noqa: N803
    PAGE_SIZE: tl.constexpr,  # noqa: N803
    HAS_NORM: tl.constexpr,  # noqa: N803
    BLOCK_HEADS: tl.constexpr,  # noqa: N803
    BLOCK_HALF: tl.constexpr,  # noqa: N803
):
    half: tl.constexpr = HEAD_DIM // 2
    num_rotated: tl.constexpr = NUM_HEADS + NUM_KV_HEADS
    num_all: tl.constexpr = NUM_HEADS + 2 * NUM_KV_HEADS
    # One long grid, so that programs next to each other take what lies next to each other.
    num_blocks: tl.constexpr = (num_all + BLOCK_HEADS - 1) // BLOCK_HEADS
    token = (tl.program_id(0) // num_blocks).to(tl.int64)
    head = tl.program_id(0) % num_blocks * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    head = head[:, None]  # [BLOCK_HEADS, 1]
    # Spread over all heads, so that the angles are loaded by the threads that need them: as one
    # row they would pass through shared memory where a head is long.
    column = tl.broadcast_to(tl.arange(0, BLOCK_HALF)[None, :], [BLOCK_HEADS, BLOCK_HALF])
    position = tl.load(positions_ptr + token).to(tl.int64)
    slot = tl.load(slots_ptr + token).to(tl.int64)

    inside = (head < num_all) & (column < half)
    from_ptr = qkv_ptr + token * qkv_stride + head * HEAD_DIM + column
    raw_low = tl.load(from_ptr, mask=inside, other=0.0)  # [BLOCK_HEADS, BLOCK_HALF]
    raw_high = tl.load(from_ptr + half, mask=inside, other=0.0)
    low, high = raw_low.to(tl.float32), raw_high.to(tl.float32)
    if HAS_NORM:
        has_weight = (head < num_rotated) & (column < half)
        weight_at = weight_ptr + head * HEAD_DIM + column
        weight_low = tl.load(weight_at, mask=has_weight, other=0.0).to(tl.float32)
        weight_high = tl.load(weight_at + half, mask=has_weight, other=0.0).to(tl.float32)
        mean_square = tl.sum(low * low + high * high, axis=1) / HEAD_DIM  # [BLOCK_HEADS]
        scale = tl.rsqrt(mean_square + eps)[:, None]
        low, high = low * scale * weight_low, high * scale * weight_high
    angle_ptr = angles_ptr + position * HEAD_DIM + column
    cos = tl.load(angle_ptr, mask=column < half, other=0.0).to(tl.float32)
    sin = tl.load(angle_ptr + half, mask=column < half, other=0.0).to(tl.float32)
    turned_low = narrow(low * cos - high * sin, raw_low.dtype)
    turned_high = narrow(high * cos + low * sin, raw_high.dtype)

    is_query = inside & (head < NUM_HEADS)
    to_ptr = query_ptr + token * (NUM_HEADS * HEAD_DIM) + head * HEAD_DIM + column
    tl.store(to_ptr, turned_low, mask=is_query)
    tl.store(to_ptr + half, turned_high, mask=is_query)

    if slot >= 0:
        page, offset = slot // PAGE_SIZE, slot % PAGE_SIZE
        is_key = inside & (head >= NUM_HEADS) & (head < num_rotated)
        to_ptr = keys_ptr + page * keys_page_stride + offset * keys_slot_stride
        to_ptr += (head - NUM_HEADS) * HEAD_DIM + column
        tl.store(to_ptr, turned_low, mask=is_key)
        tl.store(to_ptr + half, turned_high, mask=is_key)

        is_value = inside & (head >= num_rotated)
        to_ptr = values_ptr + page * values_page_stride + offset * values_slot_stride
        to_ptr += (head - num_rotated) * HEAD_DIM + column
        tl.store(to_ptr, raw_low, mask=is_value)
        tl.store(to_ptr + half, raw_high, mask=is_value)


def kv_store(
    qkv: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    angles: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Store the step's keys and values in their pages and return its rotated queries.

    ``qkv``: [T, (H + 2 Hkv) * D], rows may lie apart; ``weight``: [H + Hkv, D], the norm of every
    query and key head, or None; ``angles``: [num_positions, D], cosines then sines; ``positions``:
    int[T], each below num_positions; ``keys``, ``values``: [num_pages, page_size, Hkv, D], of which
    the heads of one slot lie together; ``slots``: int[T], page * page_size + offset, distinct, or
    negative for a token that is not stored. All of one float16, bfloat16 or float32 dtype, but for
    positions and slots, int64 or int32. Returns [T, H, D], contiguous. No token launches nothing.

    *Mutates* ``keys`` and ``values``.
    *Raises* ``ValueError`` for tensors that do not fit. Positions and slots are on the device and
    not checked.
    """
    _check(qkv, weight, angles, positions, keys, values, slots)
    return launch_kv_store(qkv, weight, eps, angles, positions, keys, values, slots)


def launch_kv_store(
    qkv: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    angles: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """``kv_store`` of tensors known to fit: nothing is checked. *Mutates* ``keys``, ``values``."""
    _, page_size, num_kv_heads, head_dim = keys.shape
    num_tokens, width = qkv.shape
    num_all = width // head_dim
    num_heads = num_all - 2 * num_kv_heads
    query = qkv.new_empty((num_tokens, num_heads, head_dim))
    if num_tokens == 0:
        return query
    block_heads, block_half, num_warps = blocks(num_all, head_dim)
    keys_page_stride, keys_slot_stride, _, _ = keys.stride()
    values_page_stride, values_slot_stride, _, _ = values.stride()
    kv_store_kernel[(num_tokens * -(-num_all // block_heads),)](
        query,
        keys,
        values,
        qkv,
        qkv if weight is None else weight,
        angles,
        positions,
        slots,
        qkv.stride(0),
        keys_page_stride,
        keys_slot_stride,
        values_page_stride,
        values_slot_stride,
        eps,
        NUM_HEADS=num_heads,
        NUM_KV_HEADS=num_kv_heads,
        HEAD_DIM=head_dim,
        PAGE_SIZE=page_size,
        HAS_NORM=weight is not None,
        BLOCK_HEADS=block_heads,
        BLOCK_HALF=block_half,
        num_warps=num_warps,
        enable_fp_fusion=True,
    )
    return query


@cache
def blocks(num_all: int, head_dim: int) -> tuple[int, int, int]:
    """Heads a program, elements of half a head (padded), and warps a program."""
    block_half = int(triton.next_power_of_2(head_dim // 2))
    block_heads = min(max(1, BLOCK_ELEMENTS // block_half), int(triton.next_power_of_2(num_all)))
    return block_heads, block_half, max(1, block_heads * block_half // 256)


def _check(
    qkv: torch.Tensor,
    weight: torch.Tensor | None,
    angles: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    check_shape("keys", keys, ("num_pages", "page_size", "Hkv", "D"))
    head_dim = keys.shape[3]
    if head_dim % 2 != 0 or not 0 < head_dim <= MAX_HEAD_DIM:
        raise ValueError(f"keys: expected an even D of 2 to {MAX_HEAD_DIM}, got {head_dim}")
    check_fit(qkv, weight, angles, positions, keys, values, slots, indices=INDICES)
    given = {"qkv": qkv, "positions": positions, "slots": slots, "angles": angles}
    given |= {"keys": keys, "values": values}
    if weight is not None:
        given["weight"] = weight
    check_place(**given)
