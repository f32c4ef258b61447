"""All copy-on-write copies of a step, in all layers, as one launch.

    storage[layer, kv, targets[i]] = storage[layer, kv, sources[i]]        for all layer, kv, i

The storage is read as words, as wide as its innermost dimension allows, whatever its dtype. The
words of one page in one layer, keys or values, lie together; a program copies ``BLOCK_BYTES`` of
them, in 16-byte accesses where the page's size is a multiple of that.

Programs run in any order, so no page may be both a source and a target of one launch, and none
twice a target. The launcher cannot check it without waiting for the device: whoever has the list
on the host checks it there.

*Cost*: bound by memory: reads and writes each page once, no scratch. Waits for nothing.
"""

import torch
import triton
import triton.language as tl

from radixserve_kernels.checks import (
    INDICES,
    check_contiguous,
    check_dtype,
    check_place,
    check_shape,
)

BLOCK_BYTES = 8_192
"""What a program copies: four 16-byte accesses a thread, all under way at once."""

_WORDS_PER_THREAD = 8
_MAX_WARPS = 4

_WORDS = (torch.int64, torch.int32, torch.int16, torch.int8)


@triton.jit
def page_copy_kernel(
    # Pointers
    storage_ptr,  # [NUM_PLANES, num_pages, PAGE_WORDS]
    sources_ptr,  # [n]
    targets_ptr,  # [n]
    # Sizes
    num_pages,
    # Constants
    NUM_PLANES: tl.constexpr,  # noqa: N803
    PAGE_WORDS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    num_blocks: tl.constexpr = (PAGE_WORDS + BLOCK - 1) // BLOCK
    program = tl.program_id(0)
    block = program % num_blocks
    plane = (program // num_blocks % NUM_PLANES).to(tl.int64)
    copy = program // (num_blocks * NUM_PLANES)
    source = tl.load(sources_ptr + copy).to(tl.int64)
    target = tl.load(targets_ptr + copy).to(tl.int64)
    words = block * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    inside = words < PAGE_WORDS
    source_ptr = storage_ptr + (plane * num_pages + source) * PAGE_WORDS
    target_ptr = storage_ptr + (plane * num_pages + target) * PAGE_WORDS
    tl.store(target_ptr + words, tl.load(source_ptr + words, mask=inside), mask=inside)


def page_copy(storage: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor) -> None:
    """Page ``sources[i]`` to page ``targets[i]``, in all layers, keys and values.

    ``storage``: [num_layers, 2, num_pages, page_size, num_kv_heads, head_dim], contiguous, of any
    dtype; ``sources``, ``targets``: int64[n] or int32[n]. No page may be both a source and a
    target, none twice a target: the caller's to check. No copy launches nothing.
    *Mutates* the target pages.
    *Raises* ``ValueError`` for tensors that do not fit.
    """
    check_shape(
        "storage",
        storage,
        ("num_layers", 2, "num_pages", "page_size", "num_kv_heads", "head_dim"),
    )
    check_contiguous("storage", storage)
    check_shape("sources", sources, ("n",))
    check_shape("targets", targets, (len(sources),))
    for name, indices in (("sources", sources), ("targets", targets)):
        check_dtype(name, indices, INDICES)
        check_contiguous(name, indices)
    check_place(storage=storage, sources=sources, targets=targets)
    if len(sources) == 0 or storage.numel() == 0:
        return
    words = _as_words(storage)
    num_layers, _, num_pages = words.shape[:3]
    page_words = words[0, 0, 0].numel()
    block = min(BLOCK_BYTES // words.itemsize, triton.next_power_of_2(page_words))
    grid = (len(sources) * num_layers * 2 * triton.cdiv(page_words, block),)
    page_copy_kernel[grid](
        words,
        sources,
        targets,
        num_pages,
        NUM_PLANES=num_layers * 2,
        PAGE_WORDS=page_words,
        BLOCK=block,
        num_warps=num_warps(block),
        enable_fp_fusion=True,
    )


def num_warps(block: int) -> int:
    """Enough for eight words a thread: four 16-byte accesses of eight-byte words."""
    return max(1, min(_MAX_WARPS, block // (32 * _WORDS_PER_THREAD)))


def _as_words(storage: torch.Tensor) -> torch.Tensor:
    """The same memory as the widest integers of which a row of it holds a whole number."""
    row_bytes = storage.shape[-1] * storage.itemsize
    offset_bytes = storage.storage_offset() * storage.itemsize
    for dtype in _WORDS:
        if row_bytes % dtype.itemsize == 0 and offset_bytes % dtype.itemsize == 0:
            return storage.view(dtype)
    raise AssertionError("every number of bytes is a multiple of one")
