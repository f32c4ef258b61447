"""Which attention backend serves which device: the one place that knows them all.

Backends with kernels are imported only where they are asked for, so that radixserve runs on
platforms that have no triton, or none of numba's threads.
"""

import logging
from collections.abc import Callable

import torch

from radixserve.attention.base import AttentionBackend, AttentionShape
from radixserve.attention.gather_backend import GatherAttention
from radixserve.attention.varlen_backend import VarlenAttention
from radixserve.device.transfer import Transfer
from radixserve.errors import ConfigError

logger = logging.getLogger(__name__)

NAMES = ("auto", "cpu", "torch", "triton", "varlen")

MakeAttention = Callable[[Transfer], AttentionBackend]


def make_attention(name: str, shape: AttentionShape, transfer: Transfer) -> AttentionBackend:
    """The backend ``name`` for the transfer's device: see ``find_attention``."""
    return find_attention(name, shape, transfer.device)(transfer)


def find_attention(name: str, shape: AttentionShape, device: torch.device) -> MakeAttention:
    """How to make the backend ``name`` for a device; asking costs none of the device's memory.

    "auto" is the best there is: "triton" on a CUDA GPU; on a CPU "cpu", or with a warning "torch"
    where kernels cannot be compiled. *Raises* ``ConfigError`` if the name, the device, the shape or
    this installation does not allow it. (A backend may know head sizes that do not fit it, and
    raise the same when it is made.)
    """
    if name not in NAMES:
        raise ConfigError(f"attention must be one of {', '.join(NAMES)}; got {name!r}")
    if shape.num_heads % shape.num_kv_heads != 0:
        raise ConfigError(
            f"{shape.num_heads} query heads cannot share {shape.num_kv_heads} key heads evenly"
        )
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"there is no attention for device {device.type!r}; use 'cpu' or 'cuda'")
    if name == "auto" and device.type == "cpu":
        try:
            return _find_cpu(shape, device)
        except ConfigError as error:
            logger.warning("%s; until then 'torch' copies every row's keys: slow", error)
            name = "torch"
    if name == "cpu":
        return _find_cpu(shape, device)
    if name == "torch":
        return lambda _: GatherAttention(shape)
    if name == "varlen":
        varlen = VarlenAttention(shape, device)
        return lambda _: varlen
    return _find_triton(shape, device)


def _find_cpu(shape: AttentionShape, device: torch.device) -> MakeAttention:
    if device.type != "cpu":
        raise ConfigError(
            f"attention 'cpu' runs on CPUs only, got device {device.type!r}; use attention 'auto'"
        )
    try:
        from radixserve.attention.cpu_backend import CpuAttention  # noqa: PLC0415
        from radixserve_kernels.cpu import compiling  # noqa: PLC0415

        compiling.check()
    except ImportError as error:
        raise ConfigError(
            f"attention 'cpu' cannot compile its kernels here ({error}); install numba and an "
            "OpenMP library (libgomp), or use attention 'torch'"
        ) from error
    return lambda _: CpuAttention(shape)


def _find_triton(shape: AttentionShape, device: torch.device) -> MakeAttention:
    try:
        from radixserve.attention.triton_backend import TritonAttention  # noqa: PLC0415
        from radixserve_kernels import target  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"attention 'triton' cannot be imported here ({error}); install triton 3.6 or later, "
            "or use attention 'torch'"
        ) from error
    if not target.runs_on(device):
        if device.type == "cpu":
            remedy = "set TRITON_INTERPRET=1 in the environment (slow), or use attention 'torch'"
        else:
            remedy = "unset TRITON_INTERPRET, under which kernels take CPU tensors only"
        raise ConfigError(
            f"attention 'triton' does not run on device {device.type!r} in this process; {remedy}"
        )
    return lambda transfer: TritonAttention(shape, transfer)
