"""Keys and values of a run, copied out of their pages head by head, as matrix products want them.

    pages     [.., P, Hkv, D]      key after key, all heads of each
    copies    [Hkv, L, W]          head after head; of each key ``num_copies`` times its D numbers,
              [Hkv, L, D]          and in what is left of W whatever was there before

Both in one pass, a run of keys a thread. *Cost*: reads what is copied once from memory.
"""

from collections.abc import Callable
from functools import cache

import torch
from numba import prange

from radixserve_kernels.checks import check_contiguous, check_dtype, check_shape
from radixserve_kernels.cpu.compiling import kernel
from radixserve_kernels.cpu.copying import copy_bytes
from radixserve_kernels.cpu.integers import load_int32

_KEYS_AT_A_TIME = 32


@cache
def make_gather(head_bytes: int) -> Callable[..., None]:
    """The kernel for heads of so many bytes; all its pointers are addresses."""

    def gather(
        keys: int,
        values: int,
        pages: int,
        out_keys: int,
        out_values: int,
        first: int,
        count: int,
        page_size: int,
        num_kv_heads: int,
        width_bytes: int,
        num_copies: int,
    ) -> None:
        for block in prange((count + _KEYS_AT_A_TIME - 1) // _KEYS_AT_A_TIME):
            begin = block * _KEYS_AT_A_TIME
            for number in range(begin, min(begin + _KEYS_AT_A_TIME, count)):
                key = first + number
                page = key // page_size
                slot = load_int32(pages, page) * page_size + key - page * page_size
                at = slot * num_kv_heads * head_bytes
                for head in range(num_kv_heads):
                    row = head * count + number
                    for copy in range(num_copies):
                        to = out_keys + row * width_bytes + copy * head_bytes
                        copy_bytes(to, keys + at, head_bytes)
                    copy_bytes(out_values + row * head_bytes, values + at, head_bytes)
                    at += head_bytes

    return kernel(gather)


def gather_by_head(
    keys: torch.Tensor,
    values: torch.Tensor,
    pages: torch.Tensor,
    first: int,
    out_keys: torch.Tensor,
    out_values: torch.Tensor,
) -> None:
    """Copy the ``L`` keys from the ``first`` on of the row with these pages.

    ``keys``, ``values``: [num_pages, page_size, Hkv, D]; ``pages``: int32[n]. *Mutates*
    ``out_keys``, [Hkv, L, W], of whose rows the first ``W // D * D`` numbers, and ``out_values``,
    [Hkv, L, D]. All contiguous, of one dtype.
    """
    _, page_size, num_kv_heads, head_dim = keys.shape
    _, count, width = out_keys.shape
    check_shape("values", values, tuple(keys.shape))
    check_shape("out_keys", out_keys, (num_kv_heads, count, width))
    check_shape("out_values", out_values, (num_kv_heads, count, head_dim))
    check_dtype("pages", pages, (torch.int32,))
    check_contiguous("pages", pages)
    for name, tensor in (
        ("keys", keys),
        ("values", values),
        ("out_keys", out_keys),
        ("out_values", out_values),
    ):
        check_dtype(name, tensor, (keys.dtype,))
        check_contiguous(name, tensor)
    if len(pages) * page_size < first + count:
        raise ValueError(
            f"pages: expected those of {first + count} keys, got {len(pages)} of {page_size}"
        )
    make_gather(head_dim * keys.element_size())(
        keys.data_ptr(),
        values.data_ptr(),
        pages.data_ptr(),
        out_keys.data_ptr(),
        out_values.data_ptr(),
        first,
        count,
        page_size,
        num_kv_heads,
        width * keys.element_size(),
        width // head_dim,
    )
