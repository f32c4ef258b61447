"""What multiplies by a weight: ``x @ weight.T + bias``, the weight as given or reordered.

A weight never changes, so a CPU's library may store it in the order in which its kernel reads it.
``F.linear`` does that anew on every call; ``PackedLinear`` did it once. Which of them a weight gets
is measured when it is loaded (``linear_choice.py``); on a GPU it is always the plain one. All give
the same numbers up to rounding. By the weight as it is, for few rows:
``linear_compiled.py``; quantised weights: ``linear_int8.py``, ``linear_int4.py``.

Measured in November 2026 on 2 cores of an AMD EPYC with AVX512-BF16: ms for the products of all
layers (12, hidden 768, inner 2,048) in bfloat16, medians of 5 to 21 runs in one process that took
turns, so that each found its weights in memory and not in a cache:

    rows                  1     4    16    32    64   512  2048
    plain              13.2   9.9  12.3  15.8  21.8   108   384
    packed              5.3   6.0   7.6  10.9  16.4   105   363
    compiled            4.8   5.9   7.3  10.7  18.3   122   415
    8 bits              2.2   2.7   5.2   9.6  18.0   122   426
    4 bits              2.5   3.0   8.3  18.0  25.0   119   430
    4, never compiled    70    57    64    68    75   173   453

Compiled is for all rows by the kernel (``linear_compiled.py``); 8 and 4 bits go to it up to as many
rows as loading measured: 128 to 256, and 24 to 48. Without compiled kernels quantised weights only
save memory: all rows are multiplied by unpacked weights. In float32, in another run and with an
output layer of 16,384, plain took 20, 35 and 36 ms at 1, 4 and 16 rows, packed 13, 12 and 13.
"""

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)


class Linear(Protocol):
    """A weight and perhaps a bias, ready to multiply."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``x``: [rows, in], contiguous. Returns a new tensor, [rows, out], contiguous."""
        ...

    @property
    def num_bytes(self) -> int:
        """Memory that the weight takes, its scales included."""
        ...


@runtime_checkable
class KernelLinear(Linear, Protocol):
    """One that multiplies few rows by a compiled kernel."""

    @property
    def kernel_rows(self) -> int:
        """So many rows at most go to the kernel; 0: none."""
        ...

    def by_kernel(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The product of few rows, to ``out``, [rows, out], contiguous, if it is given. Not for
        ``kernel_rows=0``. *Mutates* ``out``."""
        ...


class PlainLinear:
    """The weight as it is: on GPUs, and where nothing else pays."""

    __slots__ = ("_bias", "_weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """``weight``: [out, in]; ``bias``: [out]. Neither is copied."""
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self._weight, self._bias)

    @property
    def num_bytes(self) -> int:
        return self._weight.nbytes


class PackedLinear:
    """The weight in oneDNN's own order, for CPUs where ``can_pack``.

    *Cost*: the weight's bytes once more while it is made; whoever gave the plain one may drop it
    then. Packing takes 0.35 ms a MB.
    """

    __slots__ = ("_bias", "_multiply", "_num_bytes", "_weight")

    PACKED_FOR = 16
    """Rows that the order is chosen for. Float32 in the order for 1 row is 1.5 times slower, even
    at 1 row; bfloat16 has one order for all. A product of other rows is right too."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """``weight``: [out, in], copied; ``bias``: [out], not copied."""
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, self.PACKED_FOR)
        self._bias = bias
        self._num_bytes = weight.nbytes
        # The overload itself: torch need not look for it on each of a hundred calls a step.
        self._multiply: Any = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self._multiply(x, self._weight, self._bias, "none", [], "")
        return product

    @property
    def num_bytes(self) -> int:
        return self._num_bytes


class PaddedLinear:
    """Another ``Linear`` that is given more rows than there are, where it is faster so.

    Matrix units work on tiles of 16 rows or more, and some kernels are slow at any other number.
    """

    __slots__ = ("_inner", "_rows")

    def __init__(self, inner: Linear, rows: tuple[int, ...]) -> None:
        """Run ``r`` rows as ``rows[r] >= r``; more rows than the table has, as they are."""
        assert all(padded >= count for count, padded in enumerate(rows))
        self._inner = inner
        self._rows = rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        count = x.shape[0]
        if count >= len(self._rows) or self._rows[count] == count:
            return self._inner(x)
        padded = F.pad(x, (0, 0, 0, self._rows[count] - count))
        return self._inner(padded)[:count]

    @property
    def num_bytes(self) -> int:
        return self._inner.num_bytes


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch packs weights of this type, and multiplies by them in hardware
    or as well as it can otherwise. *Cost*: none worth knowing."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch's own
        return False
    operators = torch.ops.mkldnn
    if not all(
        hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
    ):
        return False
    if dtype == torch.bfloat16:
        return bool(operators._is_mkldnn_bf16_supported())
    return dtype == torch.float32
