"""What the machine can do at most: bytes read and operations done in a second. From them come the
floors that every figure is held against.
"""

import time
from collections.abc import Callable

import torch

_READ_BYTES = 2**30
_MATRIX = 4096


class Limits:
    """Measures with as many threads as torch uses."""

    def __init__(self) -> None:
        self._memory = torch.ones(_READ_BYTES // 4, dtype=torch.float32)
        self._matrix = torch.ones(_MATRIX, _MATRIX, dtype=torch.bfloat16)
        self._product = torch.empty_like(self._matrix)

    def bytes_per_s(self, repeats: int = 5) -> float:
        """Reading memory that no cache holds: the best of some sums of 1 GiB of float32. The best,
        since a floor must not be too high."""
        return _READ_BYTES / min(self._seconds(self._memory.sum) for _ in range(repeats))

    def operations_per_s(self, repeats: int = 5) -> float:
        """bfloat16 products of square matrices of 4,096: the best of some."""
        seconds = min(self._seconds(self._multiply) for _ in range(repeats))
        return 2 * _MATRIX**3 / seconds

    def _multiply(self) -> torch.Tensor:
        return torch.mm(self._matrix, self._matrix, out=self._product)

    @staticmethod
    def _seconds(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
