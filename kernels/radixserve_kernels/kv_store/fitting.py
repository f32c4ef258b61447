"""What both kernels ask of their tensors, wherever they run."""

import torch

from radixserve_kernels.checks import FLOATS, check_contiguous, check_dtype, check_shape


def check_fit(
    qkv: torch.Tensor,
    weight: torch.Tensor | None,
    angles: torch.Tensor,
    positions: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,
    *,
    indices: tuple[torch.dtype, ...],
) -> None:
    """Shapes, strides and dtypes, those of positions and slots among ``indices``. How large a head
    may be and where tensors lie is the kernel's own to check. *Raises* ``ValueError``."""
    num_kv_heads, head_dim = keys.shape[2:]
    check_shape("values", values, tuple(keys.shape))
    for name, tensor in (("keys", keys), ("values", values)):
        if tensor.stride()[2:] != (head_dim, 1):
            raise ValueError(
                f"{name}: expected the heads of a slot to lie together, strides "
                f"[_, _, {head_dim}, 1], got {list(tensor.stride())}"
            )
    check_shape("qkv", qkv, ("T", "(H + 2 Hkv) * D"))
    num_tokens, width = qkv.shape
    if width % head_dim != 0 or width // head_dim <= 2 * num_kv_heads:
        raise ValueError(
            f"qkv: expected a multiple of D = {head_dim} columns, more than those of "
            f"2 * {num_kv_heads} heads of keys and values, got {width}"
        )
    if qkv.stride(1) != 1:
        raise ValueError(f"qkv: expected contiguous rows, got strides {list(qkv.stride())}")
    check_dtype("qkv", qkv, FLOATS)
    check_shape("angles", angles, ("num_positions", head_dim))
    check_contiguous("angles", angles)
    same = {"angles": angles, "keys": keys, "values": values}
    if weight is not None:
        check_shape("weight", weight, (width // head_dim - num_kv_heads, head_dim))
        check_contiguous("weight", weight)
        same["weight"] = weight
    for name, tensor in same.items():
        check_dtype(name, tensor, (qkv.dtype,))
    for name, tensor in (("positions", positions), ("slots", slots)):
        check_shape(name, tensor, (num_tokens,))
        check_dtype(name, tensor, indices)
        check_contiguous(name, tensor)
