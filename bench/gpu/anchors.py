"""Torch's own attentions on dense copies of a case's data: what the kernel is held against.

Each anchor is tried, checked and timed by itself. One that this torch, this device or these shapes
do not have is reported as such and is no anchor. All are causal with the queries at the end of the
keys ("lower right"), as a chunk behind a cached prefix is.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu.attention_data import AttentionData

Call = Callable[[], torch.Tensor]
Maker = Callable[[AttentionData], Call]
"""Of a case of one row, a call that returns [num_new, num_heads, head_dim]."""


def _sdpa(backend: SDPBackend, *, grouped: bool) -> Maker:
    def make(data: AttentionData) -> Call:
        query, keys, values = _dense(data)
        if not grouped:
            group = query.shape[1] // keys.shape[1]
            keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
        options: dict[str, Any] = {"enable_gqa": True} if grouped else {}
        if query.shape[2] == keys.shape[2]:
            options["is_causal"] = True
        else:
            # Only here: a module of torch's that says "prototype".
            from torch.nn.attention.bias import causal_lower_right  # noqa: PLC0415

            options["attn_mask"] = causal_lower_right(query.shape[2], keys.shape[2])
        scale = data.case.scale

        def call() -> torch.Tensor:
            with sdpa_kernel(backend):
                out = F.scaled_dot_product_attention(query, keys, values, scale=scale, **options)
            return out[0].transpose(0, 1)

        return call

    return make


def _flex(data: AttentionData) -> Call:
    from torch.nn.attention.flex_attention import (  # noqa: PLC0415 (heavy, and seldom wanted)
        create_block_mask,
        flex_attention,
    )

    query, keys, values = _dense(data)
    behind = keys.shape[2] - query.shape[2]

    def visible(_batch: Any, _head: Any, q_index: Any, kv_index: Any) -> Any:
        return q_index + behind >= kv_index

    mask = create_block_mask(
        visible, None, None, query.shape[2], keys.shape[2], device=str(query.device)
    )
    compiled = torch.compile(flex_attention, dynamic=False)
    scale = data.case.scale

    def call() -> torch.Tensor:
        out = compiled(query, keys, values, block_mask=mask, scale=scale, enable_gqa=True)
        return out[0].transpose(0, 1)

    return call


def _varlen(data: AttentionData) -> Call:
    """Dense, by cumulative lengths."""
    attend = _varlen_attn()

    query, keys, values, options = _varlen_arguments(data, attend)
    key_rows, value_rows = (x[0].transpose(0, 1).contiguous() for x in (keys, values))
    query_rows = query[0].transpose(0, 1).contiguous()
    starts = _starts(data, data.case.num_context)
    query_starts = _starts(data, data.case.num_new)
    lengths = (data.case.num_new, data.case.num_context)

    def call() -> torch.Tensor:
        out: torch.Tensor = attend(
            query_rows, key_rows, value_rows, query_starts, starts, *lengths, **options
        )
        return out

    return call


def _varlen_paged(data: AttentionData) -> Call:
    """Through the page table, where torch has it (2.12 and later)."""
    attend = _varlen_attn()

    if "block_table" not in inspect.signature(attend).parameters:
        raise NotImplementedError(f"torch {torch.__version__}'s varlen_attn has no block_table")
    _, _, _, options = _varlen_arguments(data, attend)
    case = data.case
    rows = case.num_rows
    query_starts = (
        torch.arange(rows + 1, dtype=torch.int32, device=data.query.device) * case.num_new
    )
    used = torch.full((rows,), case.num_context, dtype=torch.int32, device=data.query.device)
    options.update(seqused_k=used, block_table=data.page_table)

    def call() -> torch.Tensor:
        out: torch.Tensor = attend(
            data.query,
            data.keys,
            data.values,
            query_starts,
            None,
            case.num_new,
            case.num_context,
            **options,
        )
        return out

    return call


def _varlen_attn() -> Any:
    """Any, since its arguments and results differ between versions of torch."""
    from torch.nn.attention import varlen  # noqa: PLC0415 (new in 2.10)

    return varlen.varlen_attn


def _varlen_arguments(
    data: AttentionData, attend: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
    known = inspect.signature(attend).parameters
    query, keys, values = _dense(data)
    options: dict[str, Any] = {}
    if "window_size" in known:
        options["window_size"] = (-1, 0)
    elif "is_causal" in known:
        options["is_causal"] = True
    else:
        raise NotImplementedError(f"varlen_attn of unknown arguments: {', '.join(known)}")
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    elif data.case.num_heads != data.case.num_kv_heads:
        group = data.case.num_heads // data.case.num_kv_heads
        keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    if "scale" in known:
        options["scale"] = data.case.scale
    return query, keys, values, options


def _starts(data: AttentionData, length: int) -> torch.Tensor:
    return torch.tensor([0, length], dtype=torch.int32, device=data.query.device)


def _dense(data: AttentionData) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries [1, num_heads, num_new, D]; keys and values [1, num_kv_heads, num_context, D]."""
    keys, values = data.dense(0)
    query = data.query[data.tokens(0)]
    return tuple(x.transpose(0, 1).unsqueeze(0).contiguous() for x in (query, keys, values))  # type: ignore[return-value]


PREFILL: Mapping[str, Maker] = {
    "SDPA flash": _sdpa(SDPBackend.FLASH_ATTENTION, grouped=True),
    "SDPA flash, heads repeated": _sdpa(SDPBackend.FLASH_ATTENTION, grouped=False),
    "SDPA cuDNN": _sdpa(SDPBackend.CUDNN_ATTENTION, grouped=True),
    "SDPA cuDNN, heads repeated": _sdpa(SDPBackend.CUDNN_ATTENTION, grouped=False),
    "varlen_attn": _varlen,
    "varlen_attn, paged": _varlen_paged,
    "FlexAttention": _flex,
}
"""The last one compiles for half a minute."""

PAGED: Mapping[str, Maker] = {"varlen_attn, paged": _varlen_paged}
"""For batches of several rows."""

ON_CPU: Mapping[str, Maker] = {"SDPA math": _sdpa(SDPBackend.MATH, grouped=True)}
"""What a dry run has."""
