"""What launchers ask of their tensors, in words that say what was expected and what was got.

Reads sizes, strides, dtypes and devices only: nothing here waits for a device.
"""

import torch

FLOATS = (torch.float16, torch.bfloat16, torch.float32)
INDICES = (torch.int32, torch.int64)


def check_dtype(name: str, tensor: torch.Tensor, allowed: tuple[torch.dtype, ...]) -> None:
    """*Raises* ``ValueError``."""
    if tensor.dtype not in allowed:
        expected = " or ".join(_short(dtype) for dtype in allowed)
        raise ValueError(f"{name}: expected {expected}, got {_short(tensor.dtype)}")


def check_shape(name: str, tensor: torch.Tensor, expected: tuple[int | str, ...]) -> None:
    """Sizes that must hold are numbers, sizes that are free are names. *Raises* ``ValueError``."""
    matches = tensor.dim() == len(expected) and all(
        isinstance(want, str) or want == size
        for want, size in zip(expected, tensor.shape, strict=True)
    )
    if not matches:
        wanted = ", ".join(str(size) for size in expected)
        raise ValueError(f"{name}: expected shape [{wanted}], got {list(tensor.shape)}")


def check_contiguous(name: str, tensor: torch.Tensor) -> None:
    """*Raises* ``ValueError``."""
    if not tensor.is_contiguous():
        raise ValueError(
            f"{name}: expected a contiguous tensor, got shape {list(tensor.shape)} with strides "
            f"{list(tensor.stride())}"
        )


def check_place(**tensors: torch.Tensor) -> None:
    """All on one device, and kernels run there in this process. *Raises* ``ValueError``."""
    # Only here: it needs Triton, which kernels for processors do without.
    from radixserve_kernels import target  # noqa: PLC0415

    (first, leader), *others = tensors.items()
    if not target.runs_on(leader.device):
        where = "the CPU (the interpreter is on)" if target.INTERPRETED else "a CUDA GPU"
        raise ValueError(f"{first}: expected a tensor on {where}, got one on {leader.device}")
    for name, tensor in others:
        if tensor.device != leader.device:
            raise ValueError(
                f"{name}: expected a tensor on {leader.device}, as {first} is, got one on "
                f"{tensor.device}"
            )


def check_on_cpu(**tensors: torch.Tensor) -> None:
    """All in the host's memory. *Raises* ``ValueError``."""
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu":
            raise ValueError(f"{name}: expected a tensor on the CPU, got one on {tensor.device}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
