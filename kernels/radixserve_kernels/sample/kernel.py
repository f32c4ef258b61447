"""Sampling without sorting, in three launches whatever the rows ask for. Meaning: ``reference.py``.

The vocabulary is cut into blocks of 256 tokens.

    maxima    every row, every block       its greatest logit
    sums      rows that draw, every block  the sum of its weights w = exp((x - M) / t)
    choose    one program a row            the token

``choose`` reads maxima and sums, a few thousand numbers, and then only blocks that matter. A greedy
row reads the first block that holds the maximum; a row without top-k and top-p the block in which
the sums pass its target. What top-k and top-p keep is everything above a threshold and the first
few equal to it; the threshold is searched on *depths*:

    depth = the bits of |(x - M) / t| as an integer: 0 for the best, greater for worse tokens

which orders float32 numbers exactly. The k-th greatest of the block maxima bounds the threshold of
top-k, so about k blocks hold all that it can keep. Top-p first looks into the blocks of the 64
greatest maxima; only where those do not hold enough weight does it go through the whole row. The
depths in question are copied out (1,024 at most) and searched 8 ways at a time; while there are
more, a pass over the listed blocks narrows the range 8 ways.

Every sum is a float64 sum in an order that only the row decides, so a token never depends on the
batch. Float32 exponentials are the device's: they decide a draw about once in 10^6.

*Cost*, in passes over a row's logits, which the first brings into the L2 cache where they fit:
maxima one, by ``V / 4096`` programs a row; sums one, for rows that draw; ``choose`` nothing more in
general. A row whose top-p keeps more than about 64 tokens, or whose top-k is of the order of
V / 256 and greater, takes about six more, by its one program. Speed on GPUs is unmeasured.
"""

# ruff: noqa: N803

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from radixserve_kernels.checks import (
    FLOATS,
    check_contiguous,
    check_dtype,
    check_place,
    check_shape,
)
from radixserve_kernels.sample.draws import choose_greedy, draw_from_all
from radixserve_kernels.sample.tiles import depth_of, load_blocks, weight_of
from radixserve_kernels.sample.truncated import draw_truncated


@dataclass(frozen=True, slots=True)
class Tiling:
    """How the work is cut. The outcome does not depend on it, but for float64 rounding."""

    block: int = 256
    """Tokens of a block."""
    grid_blocks: int = 16
    """Blocks that a program of ``maxima`` and ``sums`` takes."""
    tile_blocks: int = 8
    """Blocks that ``choose`` reads at a time."""
    first_blocks: int = 64
    """Blocks that top-p looks into before all."""
    candidates: int = 1024
    """Depths that ``choose`` holds at a time."""


DEFAULT_TILING = Tiling()

PIVOTS = 8
"""Ways in which a search cuts its range."""
LEAST_BLOCKS = 64
"""What a row of maxima is padded to at least: small vocabularies share one variant of a kernel."""
GRID_WARPS = 4
CHOOSE_WARPS = 8

_DTYPES = {
    "logits_rows": torch.int32,
    "temperatures": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float64,
    "min_p": torch.float32,
    "uniforms": torch.float64,
}


def sample_tokens(
    logits: torch.Tensor,
    logits_rows: torch.Tensor,
    temperatures: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
    *,
    tiling: Tiling = DEFAULT_TILING,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose one token per row.

    ``logits``: fp16, bf16 or fp32 [S, V], each row contiguous. Of each of R rows: ``logits_rows``
    int32[R], which row of the logits; ``temperatures`` float32[R], 0 (greedy) or normal numbers;
    ``top_k`` int32[R], from 1, V or more for no top-k; ``top_p`` float64[R], above 0, 1 or more for
    no top-p; ``min_p`` float32[R], at most 1; ``uniforms`` float64[R], in (0, 1).

    Returns token ids, int64[R], and whether the row was sound, bool[R]. Where it was not (its
    greatest logit is not finite, or it holds a NaN), the id is 0.

    *Raises* ``ValueError`` for tensors of another shape or dtype. Never waits for the device.
    """
    num_rows, vocab_size = _checked(
        logits,
        logits_rows=logits_rows,
        temperatures=temperatures,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        uniforms=uniforms,
    )
    device = logits.device
    token_ids = torch.empty(num_rows, dtype=torch.int64, device=device)
    is_sound = torch.empty(num_rows, dtype=torch.bool, device=device)
    if num_rows == 0:
        return token_ids, is_sound
    num_blocks = triton.cdiv(vocab_size, tiling.block)
    all_blocks = max(LEAST_BLOCKS, triton.next_power_of_2(num_blocks))
    maxima = torch.empty(num_rows, num_blocks, dtype=torch.float32, device=device)
    sums = torch.empty(num_rows, num_blocks, dtype=torch.float64, device=device)
    listed = torch.empty(num_rows, num_blocks, dtype=torch.int32, device=device)
    candidates = torch.empty(num_rows, tiling.candidates, dtype=torch.int32, device=device)
    grid = (num_rows, triton.cdiv(num_blocks, tiling.grid_blocks))
    maxima_kernel[grid](
        logits,
        logits_rows,
        maxima,
        vocab_size,
        num_blocks,
        logits.stride(0),
        BLOCK=tiling.block,
        GRID_BLOCKS=tiling.grid_blocks,
        num_warps=GRID_WARPS,
        enable_fp_fusion=True,
    )
    sums_kernel[grid](
        logits,
        logits_rows,
        temperatures,
        top_k,
        top_p,
        min_p,
        maxima,
        sums,
        vocab_size,
        num_blocks,
        logits.stride(0),
        BLOCK=tiling.block,
        GRID_BLOCKS=tiling.grid_blocks,
        ALL_BLOCKS=all_blocks,
        num_warps=GRID_WARPS,
        enable_fp_fusion=True,
    )
    choose_kernel[(num_rows,)](
        logits,
        logits_rows,
        temperatures,
        top_k,
        top_p,
        min_p,
        uniforms,
        maxima,
        sums,
        listed,
        candidates,
        token_ids,
        is_sound,
        vocab_size,
        num_blocks,
        tiling.first_blocks,
        logits.stride(0),
        BLOCK=tiling.block,
        TILE_BLOCKS=tiling.tile_blocks,
        ALL_BLOCKS=all_blocks,
        CANDIDATES=tiling.candidates,
        PIVOTS=PIVOTS,
        num_warps=CHOOSE_WARPS,
        enable_fp_fusion=True,
    )
    return token_ids, is_sound


def _checked(logits: torch.Tensor, **per_row: torch.Tensor) -> tuple[int, int]:
    """Number of rows and size of the vocabulary."""
    check_place(logits=logits, **per_row)
    check_dtype("logits", logits, FLOATS)
    check_shape("logits", logits, ("S", "V"))
    check_contiguous("a row of the logits", logits[:1])
    num_rows = len(per_row["logits_rows"])
    for name, tensor in per_row.items():
        check_dtype(name, tensor, (_DTYPES[name],))
        check_shape(name, tensor, (num_rows,))
        check_contiguous(name, tensor)
    return num_rows, logits.shape[1]


# ``num_blocks`` and ``first_blocks`` give no alignment that a load could use: no variant for each
# kind of number.
@triton.jit(do_not_specialize=["num_blocks"])
def maxima_kernel(
    # pointers
    logits_ptr,
    logits_rows_ptr,
    maxima_ptr,
    # sizes and strides
    vocab_size,
    num_blocks,
    logits_stride,
    # tiling
    BLOCK: tl.constexpr,
    GRID_BLOCKS: tl.constexpr,
):
    row = tl.program_id(0)
    logits_ptr += tl.load(logits_rows_ptr + row).to(tl.int64) * logits_stride
    blocks = tl.program_id(1) * GRID_BLOCKS + tl.arange(0, GRID_BLOCKS)
    x, _, _ = load_blocks(logits_ptr, blocks, blocks < num_blocks, vocab_size, BLOCK)
    # A NaN makes the row unsound, as plus infinity does; maxima alone would pass over it.
    x = tl.where(tl.abs(x) <= float("inf"), x, float("inf"))
    maxima_ptr += row.to(tl.int64) * num_blocks
    tl.store(maxima_ptr + blocks, tl.max(x, axis=1), mask=blocks < num_blocks)


@triton.jit
def _load_maxima(maxima_ptr, row, num_blocks, ALL_BLOCKS: tl.constexpr):
    blocks = tl.arange(0, ALL_BLOCKS)
    maxima_ptr += row.to(tl.int64) * num_blocks
    return tl.load(maxima_ptr + blocks, mask=blocks < num_blocks, other=-float("inf"))


@triton.jit
def _is_finite(x):
    return (x > -float("inf")) & (x < float("inf"))


@triton.jit
def _is_ranked(top_k, top_p, vocab_size):
    """Whether top-k or top-p can drop anything. (min-p needs no ranking: it is a threshold.)"""
    return (top_k < vocab_size) | (top_p < 1.0)


@triton.jit(do_not_specialize=["num_blocks"])
def sums_kernel(
    # pointers
    logits_ptr,
    logits_rows_ptr,
    temperatures_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    maxima_ptr,
    sums_ptr,
    # sizes and strides
    vocab_size,
    num_blocks,
    logits_stride,
    # tiling
    BLOCK: tl.constexpr,
    GRID_BLOCKS: tl.constexpr,
    ALL_BLOCKS: tl.constexpr,
):
    row = tl.program_id(0)
    temperature = tl.load(temperatures_ptr + row)
    if temperature > 0:
        best = tl.max(_load_maxima(maxima_ptr, row, num_blocks, ALL_BLOCKS), axis=0)
        if _is_finite(best):
            logits_ptr += tl.load(logits_rows_ptr + row).to(tl.int64) * logits_stride
            blocks = tl.program_id(1) * GRID_BLOCKS + tl.arange(0, GRID_BLOCKS)
            x, _, _ = load_blocks(logits_ptr, blocks, blocks < num_blocks, vocab_size, BLOCK)
            weights = weight_of(depth_of(x, best, temperature))
            # Top-p is a share of all that top-k keeps, whatever min-p drops of it afterwards.
            top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
            min_p = tl.load(min_p_ptr + row)
            is_counted = _is_ranked(top_k, top_p, vocab_size) | (weights >= min_p)
            sums = tl.sum(tl.where(is_counted, weights, 0.0).to(tl.float64), axis=1)
            sums_ptr += row.to(tl.int64) * num_blocks
            tl.store(sums_ptr + blocks, sums, mask=blocks < num_blocks)


@triton.jit(do_not_specialize=["num_blocks", "first_blocks"])
def choose_kernel(
    # pointers
    logits_ptr,
    logits_rows_ptr,
    temperatures_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    uniforms_ptr,
    maxima_ptr,
    sums_ptr,
    listed_ptr,
    candidates_ptr,
    token_ids_ptr,
    is_sound_ptr,
    # sizes and strides
    vocab_size,
    num_blocks,
    first_blocks,
    logits_stride,
    # tiling
    BLOCK: tl.constexpr,
    TILE_BLOCKS: tl.constexpr,
    ALL_BLOCKS: tl.constexpr,
    CANDIDATES: tl.constexpr,
    PIVOTS: tl.constexpr,
):
    row = tl.program_id(0)
    logits_ptr += tl.load(logits_rows_ptr + row).to(tl.int64) * logits_stride
    listed_ptr += row.to(tl.int64) * num_blocks
    candidates_ptr += row.to(tl.int64) * CANDIDATES
    maxima = _load_maxima(maxima_ptr, row, num_blocks, ALL_BLOCKS)
    best = tl.max(maxima, axis=0)
    is_sound = _is_finite(best)
    token_id = tl.full((), 0, tl.int32)
    if is_sound:
        temperature = tl.load(temperatures_ptr + row)
        if temperature > 0:
            top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
            min_p, uniform = tl.load(min_p_ptr + row), tl.load(uniforms_ptr + row)
            blocks = tl.arange(0, ALL_BLOCKS)
            sums_ptr += row.to(tl.int64) * num_blocks
            sums = tl.load(sums_ptr + blocks, mask=blocks < num_blocks, other=0.0)
            if _is_ranked(top_k, top_p, vocab_size):
                token_id = draw_truncated(
                    top_k, top_p, min_p, uniform, maxima, sums,
                    candidates_ptr, logits_ptr, listed_ptr,
                    vocab_size, num_blocks, first_blocks, best, temperature,
                    BLOCK, TILE_BLOCKS, ALL_BLOCKS, CANDIDATES, PIVOTS,
                )  # fmt: skip
            else:
                token_id = draw_from_all(
                    logits_ptr, sums, uniform, min_p, best, temperature, vocab_size,
                    BLOCK, ALL_BLOCKS,
                )  # fmt: skip
        else:
            token_id = choose_greedy(logits_ptr, maxima, best, vocab_size, BLOCK, ALL_BLOCKS)
    tl.store(token_ids_ptr + row, token_id.to(tl.int64))
    tl.store(is_sound_ptr + row, is_sound)
