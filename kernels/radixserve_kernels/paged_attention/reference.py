"""The meaning of paged attention, written to be read: every backend is tested against it.

A row with ``n`` new tokens has ``L`` keys, the new ones included. Its query ``i`` stands at
position ``p = L - n + i`` and sees keys ``0 .. p``; with a window of ``w`` only the last ``w`` of
them, ``p - w + 1 .. p``:

    s[j]      = scale * q[i, h] . k[j, h // G]                             (G heads a KV head)
    s[j]      = c * tanh(s[j] / c)                                         (with a soft cap of c)
    out[i, h] = softmax_j(s) . v[j, h // G]

where key ``j`` of the row lies in page ``page_table[b, j // P]`` at offset ``j % P``. Everything is
computed in float32 (float64 inputs stay float64), one row, one head group at a time. Knows no
request and no tree; stores nothing.
"""

import torch


def paged_attention_reference(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    query_start: torch.Tensor,
    context_lens: torch.Tensor,
    page_table: torch.Tensor,
    scale: float,
    *,
    soft_cap: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Attend; the new tokens' keys and values must already be in their pages.

    ``query``: [T, num_heads, head_dim]; ``keys``, ``values``: [num_pages, page_size, num_kv_heads,
    head_dim]; ``query_start``: int[B+1]; ``context_lens``: int[B]; ``page_table``: int[B,
    max_pages], of which row ``b`` uses its first ``ceil(context_lens[b] / page_size)`` entries.
    Returns float32 (or float64) [T, num_heads, head_dim].

    *Cost* of order ``sum(n * L)`` a head, in plain tensor arithmetic.
    """
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    page_size, num_kv_heads = keys.shape[1], keys.shape[2]
    group = query.shape[1] // num_kv_heads
    out = torch.empty(query.shape, dtype=dtype, device=query.device)
    for row, length in enumerate(context_lens.tolist()):
        first, last = query_start[row : row + 2].tolist()
        pages = page_table[row, : -(-length // page_size)].long()
        k = keys[pages].flatten(0, 1)[:length].to(dtype)  # [L, Hkv, D]
        v = values[pages].flatten(0, 1)[:length].to(dtype)
        query_positions = torch.arange(length - (last - first), length, device=query.device)
        distance = query_positions[:, None] - torch.arange(length, device=query.device)
        is_visible = distance >= 0
        if window is not None:
            is_visible &= distance < window
        for head in range(query.shape[1]):
            kv_head = head // group
            scores = scale * query[first:last, head].to(dtype) @ k[:, kv_head].T  # [n, L]
            if soft_cap is not None:
                scores = soft_cap * torch.tanh(scores / soft_cap)
            weights = scores.masked_fill(~is_visible, float("-inf")).softmax(dim=-1)
            out[first:last, head] = weights @ v[:, kv_head]
    return out
