"""What a kernel for processors is made of lies where a change of it is noticed (cpu/keeping.py)."""

from tests.structure.test_imports import imports, is_below, modules

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
