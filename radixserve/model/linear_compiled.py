"""Products of few rows by compiled kernels, for CPUs (``radixserve_kernels/linear/cpu.py``), and
the ``Linear`` that leaves many rows to torch.

The weight stays as it is, row by row: both ways read the same bytes, and so may a look-up in tied
embeddings. Nothing here imports the compiler before it is called: where compiled kernels are not
wanted (attention "torch"), nothing here is.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

Product = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Of rows, to the tensor given, or to a new one."""


class CompiledLinear:
    """The weight as it is, for CPUs; of a shape that ``fits_product``."""

    __slots__ = ("_bias", "_product", "_weight", "kernel_rows")

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, kernel_rows: int
    ) -> None:
        """``weight``: [out, in], float32 or bfloat16; ``bias``: [out]. Neither is copied.

        ``kernel_rows``: so many rows at most go to the compiled kernel.
        """
        self._weight = weight
        self._bias = bias
        self.kernel_rows = kernel_rows
        self._product = make_product(weight, bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.by_kernel(x) if x.shape[0] <= self.kernel_rows else self.by_library(x)

    def by_kernel(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The product of few rows, to ``out`` if it is given, which it *mutates*."""
        return self._product(x, out)

    def by_library(self, x: torch.Tensor) -> torch.Tensor:
        """The product of many rows."""
        return F.linear(x, self._weight, self._bias)

    @property
    def num_bytes(self) -> int:
        return self._weight.nbytes


def make_product(
    weight: torch.Tensor, bias: torch.Tensor | None = None, scales: torch.Tensor | None = None
) -> Product:
    """A product for few rows by a weight that ``fits_product``; tensors are kept, not copied.
    *Cost*: seconds where a kernel has to be compiled (once a machine), else some microseconds."""
    from radixserve_kernels.linear.cpu import Product as Compiled  # noqa: PLC0415

    return Compiled(weight, bias, scales)


def unpack_int4(packed: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
    """The kernels' own way to unpack half bytes. *Mutates* ``out``."""
    from radixserve_kernels.linear import cpu  # noqa: PLC0415

    cpu.unpack_int4(packed, scales, out)


def fits_product(shape: torch.Size) -> bool:
    """Whether the kernels multiply by a weight of [out, in]."""
    from radixserve_kernels.linear.cpu import fits  # noqa: PLC0415

    return fits(*shape)


def match_threads() -> None:
    """Have this thread's compiled products use as many threads as torch's."""
    from radixserve_kernels.cpu import compiling  # noqa: PLC0415

    compiling.match_threads()
