"""How kernels for processors are compiled: by numba, once a machine.

A kernel is a function over addresses and sizes, compiled when it is first called and kept on disk.
Addresses, because reading what an array is made of costs more than most calls here take: a call
takes 0.6 us, with eight arrays 8 us. So a kernel checks nothing; its launcher does.

Parallel loops (``prange``) run on OpenMP's threads, which are torch's own where both load the same
library (on Linux they do): two pools would take the cores from each other. Only a layer that
several threads may call at once will do; ``check`` says if there is none.

Importing this module imports numba (0.4 s).
"""

import os
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
import torch
from numba import config

config.THREADING_LAYER = "threadsafe"
config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

# No "nnan" and no "ninf": a row's NaN has to stay one.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


def kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a kernel, whose loops over ``prange`` are shared among threads.

    *Cost*: half a second to some seconds at the first call with each kind of numbers, 10 ms where
    an earlier process has left it on disk. Without a place for that (``cache_directory``) every
    process compiles anew.
    """
    directory = cache_directory()
    before = config.CACHE_DIR
    # Read while decorating; others who use numba in this process have theirs.
    config.CACHE_DIR = "" if directory is None else str(directory)
    try:
        compiled: Callable[..., None] = numba.njit(
            parallel=True,
            fastmath=_FAST,
            error_model="numpy",
            nogil=True,
            cache=directory is not None,
        )(function)
    finally:
        config.CACHE_DIR = before
    return compiled


def inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile what kernels call within one of their threads; it becomes part of them."""
    compiled: Callable[..., Any] = numba.njit(fastmath=_FAST, error_model="numpy", nogil=True)(
        function
    )
    return compiled


@cache
def cache_directory() -> Path | None:
    """Where compiled kernels are kept: below the user's cache directory, or else beside the
    sources; None if neither can be written to.

    numba finds out if a kernel's own file has changed, but not what it calls in others; so the
    directory is named after what is in this folder.
    """
    here = Path(__file__).parent
    digest = sha256()
    for path in sorted(here.glob("*.py")):
        digest.update(path.read_bytes())
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for parent in (Path(home) / "radixserve" / "kernels", here / "__pycache__" / "kernels"):
        directory = parent / digest.hexdigest()[:16]
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            (directory / "writable").touch()
        except OSError:
            continue
        return directory
    return None


def check() -> None:
    """*Raises* ``ImportError``, which says why, if kernels cannot run in this process."""
    try:
        import numba.np.ufunc.omppool  # noqa: PLC0415
    except ImportError:
        try:
            import numba.np.ufunc.tbbpool  # noqa: F401, PLC0415
        except ImportError as error:
            raise ImportError(
                f"numba finds neither OpenMP nor TBB here, whose threads kernels share ({error})"
            ) from error


def match_threads() -> None:
    """Have kernels that this thread calls share their loops among as many threads as torch's
    operations use; as many as there are processors at most. *Cost*: 1 us."""
    numba.set_num_threads(min(torch.get_num_threads(), config.NUMBA_NUM_THREADS))
