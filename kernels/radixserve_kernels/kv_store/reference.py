"""The meaning of norm, rotation and storing, written to be read: the kernel is tested against it.

Of a token's heads, the first H are queries, the next Hkv keys, the last Hkv values. Queries and
keys are normed, head by head, if there is a norm, and rotated: with ``c`` and ``s`` the cosines and
sines of the token's position,

    out[i]       = x[i]       * c[i] - x[i + D/2] * s[i]
    out[i + D/2] = x[i + D/2] * c[i] + x[i]       * s[i]        for i < D/2

Everything is computed in float64; what is stored is rounded once, to the dtype of what holds it.
*Source*: arXiv 2104.09864 (RoPE).
"""

import torch


def kv_store_reference(
    qkv: torch.Tensor,
    weight: torch.Tensor | None,
    eps: float,
    angles: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
) -> torch.Tensor:
    """Store keys and values and return the queries, float64 [T, H, D].

    ``qkv``: [T, (H + 2 Hkv) * D]; ``weight``: [H + Hkv, D]; ``angles``: [num_positions, D], cosines
    first; ``positions``, ``slots``: int[T]; ``keys``, ``values``: [num_pages, page_size, Hkv, D].
    A token whose slot is negative is not stored.
    *Mutates* ``keys`` and ``values``.
    """
    _, page_size, num_kv_heads, head_dim = keys.shape
    heads = qkv.double().view(len(qkv), qkv.shape[1] // head_dim, head_dim)
    rotated, value = heads[:, :-num_kv_heads], heads[:, -num_kv_heads:]
    if weight is not None:
        mean_square = rotated.square().mean(dim=-1, keepdim=True)
        rotated = rotated * (mean_square + eps).rsqrt() * weight.double()
    cos, sin = angles[positions].double().unsqueeze(1).chunk(2, dim=-1)
    low, high = rotated.chunk(2, dim=-1)
    rotated = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)
    query, key = rotated[:, :-num_kv_heads], rotated[:, -num_kv_heads:]
    for token, slot in enumerate(slots.tolist()):
        if slot >= 0:
            page, offset = divmod(slot, page_size)
            keys[page, offset] = key[token]
            values[page, offset] = value[token]
    return query
