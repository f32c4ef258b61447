"""Penalties in one pass: logits of any dtype in, penalized float32 out. Meaning: ``reference.py``.

Rows without penalties are copied, so that whatever else changes logits finds all rows in one place.

*Cost*: reads the logits and the tallies of rows with penalties, writes 4 bytes a logit. One program
per row and 2,048 tokens. Speed on GPUs is unmeasured.
"""

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

TILE = 2048
NUM_WARPS = 4


def penalize(
    logits: torch.Tensor,
    logits_rows: torch.Tensor,
    tallies: torch.Tensor,
    slots: torch.Tensor,
    penalties: torch.Tensor,
) -> torch.Tensor:
    """Returns float32[R, V]: the rows' logits, penalized.

    ``logits``: fp16, bf16 or fp32 [S, V], each row contiguous; ``logits_rows`` int32[R], which row
    of the logits; ``tallies`` int32[N, V]; ``slots`` int32[R], which row of the tallies, or -1 for
    no penalties; ``penalties`` float32[3, R]: repetition, presence, frequency.

    *Raises* ``ValueError`` for tensors of another shape or dtype. Never waits for the device.
    """
    check_place(
        logits=logits, logits_rows=logits_rows, tallies=tallies, slots=slots, penalties=penalties
    )
    check_dtype("logits", logits, FLOATS)
    check_shape("logits", logits, ("S", "V"))
    num_rows, vocab_size = len(logits_rows), logits.shape[1]
    check_contiguous("a row of the logits", logits[:1])
    for name, tensor, dtype, shape in (
        ("logits_rows", logits_rows, torch.int32, (num_rows,)),
        ("tallies", tallies, torch.int32, ("N", vocab_size)),
        ("slots", slots, torch.int32, (num_rows,)),
        ("penalties", penalties, torch.float32, (3, num_rows)),
    ):
        check_dtype(name, tensor, (dtype,))
        check_shape(name, tensor, shape)
        check_contiguous(name, tensor)
    out = torch.empty(num_rows, vocab_size, dtype=torch.float32, device=logits.device)
    if num_rows:
        penalize_kernel[(num_rows, triton.cdiv(vocab_size, TILE))](
            logits,
            logits_rows,
            tallies,
            slots,
            penalties,
            out,
            num_rows,
            vocab_size,
            logits.stride(0),
            TILE=TILE,
            num_warps=NUM_WARPS,
            enable_fp_fusion=True,
        )
    return out


# How many rows there are changes from step to step: no variant for each kind of number.
@triton.jit(do_not_specialize=["num_rows"])
def penalize_kernel(
    # pointers
    logits_ptr,
    logits_rows_ptr,
    tallies_ptr,
    slots_ptr,
    penalties_ptr,
    out_ptr,
    # sizes and strides
    num_rows,
    vocab_size,
    logits_stride,
    # tiling
    TILE: tl.constexpr,  # noqa: N803
):
    row = tl.program_id(0)
    ids = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_inside = ids < vocab_size
    logits_ptr += tl.load(logits_rows_ptr + row).to(tl.int64) * logits_stride
    x = tl.load(logits_ptr + ids, mask=is_inside, other=0.0).to(tl.float32)
    slot = tl.load(slots_ptr + row)
    if slot >= 0:
        repetition = tl.load(penalties_ptr + row)
        presence = tl.load(penalties_ptr + num_rows + row)
        frequency = tl.load(penalties_ptr + 2 * num_rows + row)
        tallies_ptr += slot.to(tl.int64) * vocab_size
        tally = tl.load(tallies_ptr + ids, mask=is_inside, other=0)
        count = tally >> 1
        penalized = tl.where(x > 0, tl.div_rn(x, repetition), x * repetition)
        x = tl.where(tally > 0, penalized, x)
        x = tl.where(count > 0, x - (presence + frequency * count.to(tl.float32)), x)
    tl.store(out_ptr + row.to(tl.int64) * vocab_size + ids, x, mask=is_inside)
