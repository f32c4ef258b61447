"""Norm, rotation and storing of one step's heads, as a kernel for processors.

    qkv row    | H query heads | Hkv key heads | Hkv value heads |
                 norm, rotate    norm, rotate    as they are
                      |               |               |
                 query [T, H, D]  keys[slot]      values[slot]

A token is one thread's. Everything between the load and the store is float32, rounded once: where
torch rounds after the norm, after the weight and within the rotation, nothing is rounded here.
How a head is normed depends on the model's shape only, so a token's result does not depend on its
batch; a head's NaN stay in it.

*Cost*: reads the projection once from memory (a normed head a second time from its cache), writes
queries, keys and values once. One thread takes what is less than ``ALONE`` numbers, because sharing
them out costs as much as computing them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numba import literally, prange

from radixserve_kernels.checks import check_on_cpu, check_shape
from radixserve_kernels.cpu.compiling import inner, kernel
from radixserve_kernels.cpu.numbers import KINDS, load_index, load_input, store
from radixserve_kernels.kv_store.fitting import check_fit

ALONE = 8_192


@inner
def _turn_head(
    # Where to, and where from
    to,
    to_at,
    qkv,
    from_at,
    weight,
    weight_at,
    angles,
    angle_at,
    # Sizes and scalars
    num_columns,
    eps,
    # Constants
    kind,
    head_dim,
    has_norm,
):
    literally(kind)
    literally(head_dim)
    literally(has_norm)
    half = head_dim // 2
    scale = np.float32(1.0)
    if has_norm:
        squares = np.float32(0.0)
        # ``head_dim``, but no constant: a short loop of known length is unrolled, not vectorised.
        for column in range(num_columns):
            number = load_input(qkv, from_at + column, kind)
            squares += number * number
        scale = np.float32(1.0) / np.sqrt(squares / np.float32(head_dim) + np.float32(eps))
    for column in range(half):
        low = load_input(qkv, from_at + column, kind)
        high = load_input(qkv, from_at + half + column, kind)
        if has_norm:
            low = low * scale * load_input(weight, weight_at + column, kind)
            high = high * scale * load_input(weight, weight_at + half + column, kind)
        cos = load_input(angles, angle_at + column, kind)
        sin = load_input(angles, angle_at + half + column, kind)
        store(to, to_at + column, kind, low * cos - high * sin)
        store(to, to_at + half + column, kind, high * cos + low * sin)


@inner
def _store_token(
    token,
    # Addresses
    query,
    keys,
    values,
    qkv,
    weight,
    angles,
    positions,
    slots,
    # Sizes
    num_heads,
    num_kv_heads,
    page_size,
    num_columns,
    # Strides, in elements
    qkv_stride,
    keys_page_stride,
    keys_slot_stride,
    values_page_stride,
    values_slot_stride,
    # Scalars
    eps,
    # Constants
    kind,
    head_dim,
    has_norm,
):
    angle_at = load_index(positions, token) * head_dim
    row = token * qkv_stride
    start = token * num_heads * head_dim
    for head in range(num_heads):
        at = head * head_dim
        _turn_head(
            query,
            start + at,
            qkv,
            row + at,
            weight,
            at,
            angles,
            angle_at,
            num_columns,
            eps,
            kind,
            head_dim,
            has_norm,
        )
    slot = load_index(slots, token)
    if slot < 0:
        return
    page = slot // page_size
    offset = slot - page * page_size
    start = page * keys_page_stride + offset * keys_slot_stride
    for head in range(num_kv_heads):
        at = (num_heads + head) * head_dim
        _turn_head(
            keys,
            start + head * head_dim,
            qkv,
            row + at,
            weight,
            at,
            angles,
            angle_at,
            num_columns,
            eps,
            kind,
            head_dim,
            has_norm,
        )
    start = page * values_page_stride + offset * values_slot_stride
    row += (num_heads + num_kv_heads) * head_dim
    for column in range(num_kv_heads * head_dim):
        store(values, start + column, kind, load_input(qkv, row + column, kind))


@cache
def make_kv_store(kind: int, head_dim: int, has_norm: bool) -> Callable[..., None]:
    def kv_store(
        query,  # [T, H, D]
        keys,  # [num_pages, page_size, Hkv, D]
        values,  # [num_pages, page_size, Hkv, D]
        qkv,  # [T, (H + 2 Hkv) * D]
        weight,  # [H + Hkv, D], read only if has_norm
        angles,  # [num_positions, D]
        positions,  # int64[T]
        slots,  # int64[T]
        num_tokens,
        num_heads,
        num_kv_heads,
        page_size,
        num_columns,  # head_dim
        qkv_stride,
        keys_page_stride,
        keys_slot_stride,
        values_page_stride,
        values_slot_stride,
        eps,
    ):
        # The two loops are one but for the threads.
        if num_tokens * (num_heads + num_kv_heads) * head_dim < ALONE:
            for token in range(num_tokens):
                _store_token(
                    token,
                    query,
                    keys,
                    values,
                    qkv,
                    weight,
                    angles,
                    positions,
                    slots,
                    num_heads,
                    num_kv_heads,
                    page_size,
                    num_columns,
                    qkv_stride,
                    keys_page_stride,
                    keys_slot_stride,
                    values_page_stride,
                    values_slot_stride,
                    eps,
                    kind,
                    head_dim,
                    has_norm,
                )
        else:
            for token in prange(num_tokens):
                _store_token(
                    token,
                    query,
                    keys,
                    values,
                    qkv,
                    weight,
                    angles,
                    positions,
                    slots,
                    num_heads,
                    num_kv_heads,
                    page_size,
                    num_columns,
                    qkv_stride,
                    keys_page_stride,
                    keys_slot_stride,
                    values_page_stride,
                    values_slot_stride,
                    eps,
                    kind,
                    head_dim,
                    has_norm,
                )

    return kernel(kv_store)


@dataclass(frozen=True, slots=True)
class StepStore:
    """``kv_store`` for one layer of a step after another. What they have in common is read from the
    tensors once, because that takes longer than the kernel does for a few tokens."""

    run: Callable[..., None]
    query_shape: tuple[int, int, int]
    """[T, H, D]"""
    common: tuple[int | float, ...]
    """The kernel's arguments that are the same for all layers: the last ones."""
    tensors: tuple[torch.Tensor, ...]
    """Those whose addresses are in ``common``."""

    def store(
        self,
        qkv: torch.Tensor,
        weight: torch.Tensor | None,
        keys: torch.Tensor,
        values: torch.Tensor,
        query: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``kv_store`` of tensors with the strides and shapes of those this was made from, queries
        to ``query``, [T, H, D], if it is given; not checked.

        *Mutates* ``keys``, ``values`` and ``query``."""
        if query is None:
            query = torch.empty(self.query_shape, dtype=qkv.dtype)
        self.run(
            query.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            qkv.data_ptr(),
            0 if weight is None else weight.data_ptr(),
            *self.common,
        )
        return query


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
    int64[T], each below num_positions; ``keys``, ``values``: [num_pages, page_size, Hkv, D], of
    which the heads of one slot lie together; ``slots``: int64[T], page * page_size + offset,
    distinct, or negative for a token that is not stored. All but positions and slots of one
    float16, bfloat16 or float32 dtype. Returns [T, H, D], contiguous.

    *Mutates* ``keys`` and ``values``.
    *Raises* ``ValueError`` for tensors that do not fit. What positions and slots hold is not
    checked.
    """
    step = prepare_kv_store(qkv, weight, eps, angles, positions, keys, values, slots)
    return step.store(qkv, weight, keys, values)


def prepare_kv_store(
    qkv: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    angles: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
) -> StepStore:
    """Check one layer's tensors; for it, and for all layers whose tensors are alike.

    *Raises* ``ValueError`` as ``kv_store`` does.
    """
    _check(qkv, weight, angles, positions, keys, values, slots)
    _, page_size, num_kv_heads, head_dim = keys.shape
    num_tokens, width = qkv.shape
    num_heads = width // head_dim - 2 * num_kv_heads
    common = (
        angles.data_ptr(),
        positions.data_ptr(),
        slots.data_ptr(),
        num_tokens,
        num_heads,
        num_kv_heads,
        page_size,
        head_dim,
        qkv.stride(0),
        keys.stride(0),
        keys.stride(1),
        values.stride(0),
        values.stride(1),
        eps,
    )
    return StepStore(
        run=make_kv_store(KINDS[qkv.dtype], head_dim, weight is not None),
        query_shape=(num_tokens, num_heads, head_dim),
        common=common,
        tensors=(angles, positions, slots),
    )


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
    if head_dim % 2 != 0 or head_dim == 0:
        raise ValueError(f"keys: expected an even D, got {head_dim}")
    check_fit(qkv, weight, angles, positions, keys, values, slots, indices=(torch.int64,))
    given = {"qkv": qkv, "positions": positions, "slots": slots, "angles": angles}
    given |= {"keys": keys, "values": values}
    if weight is not None:
        given["weight"] = weight
    check_on_cpu(**given)
