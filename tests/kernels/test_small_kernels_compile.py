"""The small kernels compile for real GPUs, without spills and with 16-byte accesses.

Needs no GPU: Triton brings its assembler. How fast they are only a GPU can tell.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_kernels_compile_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # An empty cache, so that something is compiled; imports as in this process.
    environment |= {
        "TRITON_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    script = Path(__file__).with_name("compile_small_kernels.py")
    run = subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert len(found) == 22
    for name, code in found.items():
        assert code["local"] == 0, f"{name} spills: {code}"
        # 512 threads of 128 registers are all that a processor holds.
        assert code["registers"] <= 128, f"{name}: {code}"
        # All but positions, slots and page numbers, which are one number each, is 16 bytes wide.
        assert all(bits == 128 for bits in code["stores"]), f"{name}: {code}"
        narrow = [bits for bits in code["loads"] if bits != 128]
        assert len(narrow) <= 2, f"{name}: {code}"
        assert len(code["loads"]) > len(narrow), f"{name}: {code}"
