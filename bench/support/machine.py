"""What a figure was measured on: printed by every benchmark, and part of its JSON."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine() -> dict[str, str]:
    """Processor, cores this process may use, and the versions that matter."""
    facts = {
        "cpu": _cpu_name(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"),
        "bf16": ", ".join(_bf16_units()) or "none",
        "python": platform.python_version(),
    }
    for package in ("torch", "triton", "transformers", "numpy"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def print_machine() -> dict[str, str]:
    """Print the facts on one line and return them."""
    facts = machine()
    print("machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    return facts


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _bf16_units() -> list[str]:
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
