"""What a kernel for processors is made of lies where a change of it is noticed (cpu/keeping.py),
and who does without such kernels does without numba."""

import subprocess
import sys
from pathlib import Path

from tests.structure.test_imports import imports, is_below, modules
from tests.support.checkpoints import make_checkpoint

COMMON = "radixserve_kernels.cpu"
# Launchers' own, which no kernel calls.
CHECKS = "radixserve_kernels.checks"


def test_kernels_take_what_they_are_made_of_from_their_folder() -> None:
    found = 0
    for name, path in modules():
        imported = imports(path)
        folder = name.rpartition(".")[0]
        is_kernel = any(is_below(one, f"{COMMON}.compiling") for one in imported)
        if not is_kernel or not is_below(name, "radixserve_kernels"):
            continue
        found += 1
        for one in imported:
            if is_below(one, "radixserve_kernels"):
                allowed = any(is_below(one, place) for place in (folder, COMMON, CHECKS))
                assert allowed, f"{name} imports {one}: a change of it would go unnoticed"
    assert found >= 3


WITHOUT_NUMBA = """
import sys
from radixserve import LLM
with LLM(sys.argv[1], attention="torch", device="cpu", num_pages=16) as llm:
    llm.generate([[1, 2, 3]])
import radixserve.attention.triton_backend, radixserve.attention.varlen_backend
import radixserve.model.triton_ops, radixserve.sampling.kernel_chooser
print([name for name in ("numba", "llvmlite") if name in sys.modules])
"""


def test_only_engines_with_compiled_kernels_import_numba(tmp_path: Path) -> None:
    """Neither those with torch's attention, nor what those on a GPU import."""
    directory = make_checkpoint("qwen3", tmp_path, seed=1)
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA, str(directory)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "[]"
