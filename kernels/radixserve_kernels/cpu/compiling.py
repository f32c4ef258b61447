"""How kernels for processors are compiled: by numba, once a machine.

A kernel is a function over addresses and sizes, compiled when it is first called and kept on disk
(``keeping.py``). Addresses, because reading what an array is made of costs more than most calls
here take: a call takes 0.6 us, with eight arrays 8 us. So a kernel checks nothing; its launcher
does.

Parallel loops (``prange``) run on OpenMP's threads, which are torch's own where both load the same
library (on Linux they do): two pools would take the cores from each other. Only a layer that
several threads may call at once will do; ``check`` says if there is none.

Importing this module imports numba (0.4 s).
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numba
import torch
from numba import config

from radixserve_kernels.cpu.keeping import keep

config.THREADING_LAYER = "threadsafe"
config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]

# No "nnan" and no "ninf": a row's NaN has to stay one.
_FAST = {"reassoc", "contract", "arcp", "nsz"}


class Kernel:
    """A compiled kernel. To call it is to launch it, or to note the launch (``noting``)."""

    __slots__ = ("dispatcher",)

    def __init__(self, dispatcher: Any) -> None:
        """``dispatcher``: numba's."""
        self.dispatcher = dispatcher

    def __call__(self, *arguments: Any) -> None:
        if _notes.calls is None:
            self.dispatcher(*arguments)
        else:
            _notes.calls.append(Call(self, arguments))


class Call(NamedTuple):
    """A launch that was noted."""

    kernel: Kernel
    arguments: tuple[Any, ...]


class _Notes(threading.local):
    calls: list[Call] | None = None


_notes = _Notes()


@contextmanager
def noting() -> Iterator[list[Call]]:
    """Within, launches of this thread are noted in the list that is given, and not carried out."""
    assert _notes.calls is None, "launches are being noted already"
    calls: list[Call] = []
    _notes.calls = calls
    try:
        yield calls
    finally:
        _notes.calls = None


def kernel(function: Callable[..., None]) -> Kernel:
    """Compile a kernel, whose loops over ``prange`` are shared among threads.

    *Cost*: half a second to some seconds at the first call with each kind of numbers, 10 ms where
    an earlier process has left it on disk. Where nothing can be kept every process compiles anew.
    """
    return _kept(function, parallel=True)


def serial_kernel(function: Callable[..., None]) -> Kernel:
    """``kernel`` without a loop over ``prange``."""
    return _kept(function, parallel=False)


def _kept(function: Callable[..., None], *, parallel: bool) -> Kernel:
    compiled: Any = numba.njit(parallel=parallel, fastmath=_FAST, error_model="numpy", nogil=True)(
        function
    )
    keep(compiled, function)
    return Kernel(compiled)


def inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile what kernels call within one of their threads; it becomes part of them."""
    compiled: Callable[..., Any] = numba.njit(fastmath=_FAST, error_model="numpy", nogil=True)(
        function
    )
    return compiled


def inner_in_order(function: Callable[..., Any]) -> Callable[..., Any]:
    """``inner`` for arithmetic that has to be done in the order it is written in."""
    compiled: Callable[..., Any] = numba.njit(
        fastmath={"contract"}, error_model="numpy", nogil=True
    )(function)
    return compiled


def check() -> None:
    """*Raises* ``ImportError``, which says why, if kernels cannot run in this process."""
    if config.DISABLE_JIT:
        raise ImportError("NUMBA_DISABLE_JIT is set, which has numba compile nothing")
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
