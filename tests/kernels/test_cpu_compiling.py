"""How kernels for processors are compiled, and on how many threads they run."""

import sys
from functools import cache
from typing import Any

import numba
import pytest
import torch
from numba import prange

from radixserve_kernels.cpu import compiling
from radixserve_kernels.cpu.numbers import FLOAT32, load, store


def test_without_openmp_and_tbb_kernels_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    compiling.check()
    monkeypatch.setitem(sys.modules, "numba.np.ufunc.omppool", None)
    monkeypatch.setitem(sys.modules, "numba.np.ufunc.tbbpool", None)
    with pytest.raises(ImportError, match="numba finds neither OpenMP nor TBB here"):
        compiling.check()
    monkeypatch.setitem(sys.modules, "numba.np.ufunc.tbbpool", numba)
    compiling.check()


def test_where_numba_is_told_to_compile_nothing_kernels_do_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(ImportError, match="NUMBA_DISABLE_JIT is set"):
        compiling.check()


def test_threads_are_torchs_as_far_as_there_are_processors() -> None:
    before = torch.get_num_threads()
    try:
        for wanted in (1, 1_000):
            torch.set_num_threads(wanted)
            compiling.match_threads()
            assert numba.get_num_threads() == min(wanted, numba.config.NUMBA_NUM_THREADS)
    finally:
        torch.set_num_threads(before)
        compiling.match_threads()


@cache
def make_largest() -> Any:
    def largest(x, out, count):  # type: ignore[no-untyped-def] # kernels have no types
        for index in prange(1):
            most = load(x, 0, FLOAT32)
            for other in range(1, count):
                most = max(most, load(x, other, FLOAT32))
            store(out, index, FLOAT32, most * 0.0)

    return compiling.kernel(largest)


def test_arithmetic_keeps_what_is_not_a_number() -> None:
    """The compiler may reorder sums, but not take it that there is neither NaN nor infinity."""
    out = torch.zeros(1)
    for first in (torch.nan, torch.inf):
        x = torch.tensor([first, 1.0])
        make_largest()(x.data_ptr(), out.data_ptr(), 2)
        assert bool(out.isnan())
