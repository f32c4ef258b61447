"""What becomes of a token's partial results, of the levels it reads and of its row's own keys
(flash-decoding).

    out = sum_s 2^lse_s out_s / sum_s 2^lse_s

for every partial ``s`` of one token and one head, which lie side by side, with a running maximum,
all in float32. *Cost*: reads each partial result once. Persistent, as ``kernel`` is; ``launch``
checks arguments.
"""

# Constants are in capitals, as Triton's custom is.
# ruff: noqa: N803
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, disallow-incomplete-defs=False
# mypy: disallow-untyped-decorators=False

import triton
import triton.language as tl

from radixserve_kernels.paged_attention import items
from radixserve_kernels.rounding.kernel import narrow

_MERGE_FIELDS = tl.constexpr(items.MERGE_FIELDS)


@triton.jit
def merge_kernel(
    # pointers
    partials,
    partial_lse,
    merges,
    counts,
    out,
    # strides
    out_token_stride,
    out_head_stride,
    # constexpr
    COUNT_INDEX: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Every merge times every head."""
    dims = tl.arange(0, BLOCK_D)
    num_jobs = tl.load(counts + COUNT_INDEX) * NUM_HEADS
    for index in range(tl.program_id(0), num_jobs, tl.num_programs(0)):
        merge = merges + index // NUM_HEADS * _MERGE_FIELDS
        head = index % NUM_HEADS
        token = tl.load(merge).to(tl.int64)
        first_slot = tl.load(merge + 1).to(tl.int64)
        num_partials = tl.load(merge + 2)
        acc = tl.zeros([BLOCK_D], tl.float32)
        maximum = tl.full([], float("-inf"), tl.float32)
        total = tl.zeros([], tl.float32)
        for start in range(0, num_partials, BLOCK_S):
            nth = start + tl.arange(0, BLOCK_S)
            exists = nth < num_partials
            spots = (first_slot + nth) * NUM_HEADS + head  # [BLOCK_S]
            lse = tl.load(partial_lse + spots, mask=exists, other=float("-inf"))
            inside = exists[:, None] & (dims < HEAD_DIM)[None, :]
            part = tl.load(partials + spots[:, None] * HEAD_DIM + dims[None, :], inside, other=0)
            new_maximum = tl.maximum(maximum, tl.max(lse, 0))
            # All splits so far may be hidden by the window; the last one never is.
            pivot = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
            weights = tl.exp2(lse - pivot)
            decay = tl.exp2(maximum - pivot)
            maximum = new_maximum
            total = total * decay + tl.sum(weights, 0)
            acc = acc * decay + tl.sum(weights[:, None] * part, 0)
        to_out = out + token * out_token_stride + head * out_head_stride
        tl.store(to_out + dims, narrow(acc / total, out.dtype.element_ty), mask=dims < HEAD_DIM)
