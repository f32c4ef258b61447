"""Which device the model runs on, and in which type: what "auto" means on this machine."""

import platform

import torch

from radixserve.errors import ConfigError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means. "auto": the first GPU if torch can use one.

    *Raises* ``ConfigError`` if there is no GPU that torch can use and one was asked for.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        raise ConfigError(
            f"device is {name!r}, but torch {torch.__version__} ({built}) finds no GPU; install a "
            "CUDA build of torch and check nvidia-smi, or use device 'cpu'"
        )
    return torch.device("cuda", torch.cuda.current_device())


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type that "float32", "bfloat16", "float16" or "auto" means on this device.

    "auto" is bfloat16 where the hardware multiplies it; else float16 on a GPU, float32 on a CPU.
    *Raises* ``ConfigError`` for float16 on a CPU: its products are emulated, or rounded badly.
    """
    if name != "auto":
        if name == "float16" and device.type == "cpu":
            raise ConfigError("dtype float16 is for GPUs; on a CPU use 'float32' or 'bfloat16'")
        return _DTYPES[name]
    if device.type == "cuda":
        multiplies = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if multiplies else torch.float16
    return torch.bfloat16 if multiplies_bfloat16() else torch.float32


def multiplies_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 in hardware.

    torch has no public question for it; an emulated product would be slower than float32.
    """
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if machine in ("aarch64", "arm64") and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
