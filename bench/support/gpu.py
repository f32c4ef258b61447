"""Which GPU a figure was measured on. Imports torch, so ``support`` itself must come before it."""

import subprocess

import torch


def gpu() -> dict[str, str]:
    """Name, memory, processors, capability and driver of the first GPU; empty without one."""
    if not torch.cuda.is_available():
        return {}
    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name,
        "gpu_memory_gib": f"{found.total_memory / 2**30:.1f}",
        "gpu_processors": str(found.multi_processor_count),
        "gpu_capability": f"{found.major}.{found.minor}",
        "cuda": str(torch.version.cuda),
        "driver": _driver(),
    }


def _driver() -> str:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip().partition("\n")[0] or "unknown"
