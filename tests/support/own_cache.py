"""A user's cache directory for one process, without what every process would compile anew."""

from pathlib import Path

from radixserve_kernels.cpu.keeping import cache_directory


def own_cache(directory: Path) -> dict[str, str]:
    """Variables of a process whose cache is ``directory``: empty, but for the compiled kernels of
    this process's, which are its kernels too.

    Compiling takes every server half a minute. That a process without kernels compiles and keeps
    them is tests/kernels/test_cpu_keeping.py's.
    """
    kept = cache_directory()
    if kept is not None:
        link = directory / "radixserve" / "kernels"
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        link.symlink_to(kept, target_is_directory=True)
    return {"XDG_CACHE_HOME": str(directory)}
