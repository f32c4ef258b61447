"""Weights in 8 bits: one signed byte a weight and one scale an output, ``weight = scale * byte``.

Made from the checkpoint's own weights, round to nearest. Two ways to multiply, which mean the same
weights:

    few rows    a compiled kernel reads the bytes as they are: half of bfloat16's memory traffic
    many rows   bytes become the activations' type, tile by tile in a scratch buffer, for an
                ordinary product; the scales multiply its result

Where they cross is measured (``linear_choice.py``); without compiled kernels all rows take the
second way. Every byte is exact in bfloat16, so the ways differ by the result's rounding alone.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from radixserve.model.linear_compiled import make_product


class Scratch:
    """Where weights are unpacked for one product at a time. For one thread."""

    __slots__ = ("_bytes", "_numbers")

    TILE = 2**21
    """Weights unpacked at a time: large enough that calling operations costs nothing, small enough
    for a cache."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._numbers = torch.empty(0, dtype=dtype)
        self._bytes = torch.empty(0, dtype=torch.uint8)

    @property
    def dtype(self) -> torch.dtype:
        return self._numbers.dtype

    def numbers(self, count: int) -> torch.Tensor:
        """[count] of ``dtype``, with anything in it; valid until the next call."""
        if self._numbers.numel() < count:
            self._numbers = _buffer(count, self.dtype)
        return self._numbers[:count]

    def bytes(self, count: int) -> torch.Tensor:
        """uint8[count], with anything in it; valid until the next call."""
        if self._bytes.numel() < count:
            self._bytes = _buffer(count, torch.uint8)
        return self._bytes[:count]


def _buffer(count: int, dtype: torch.dtype) -> torch.Tensor:
    # What is made under inference mode could be written to under no other.
    with torch.inference_mode(False):
        return torch.empty(count, dtype=dtype)


class Int8Linear:
    """``Linear`` by a weight in 8 bits, for float32 and bfloat16 activations on a CPU."""

    __slots__ = ("_bias", "_product", "_quantised", "_scales", "_scratch", "kernel_rows")

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scratch: Scratch,
        *,
        kernel_rows: int,
    ) -> None:
        """``weight``: [out, in], quantised here and not kept; ``bias``: [out].

        ``kernel_rows``: so many rows at most go to the compiled kernel; 0: there is none.
        """
        self._quantised, self._scales = quantise_int8(weight)
        self._bias = bias
        self._scratch = scratch
        self.kernel_rows = kernel_rows
        self._product = make_product(self._quantised, bias, self._scales) if kernel_rows else None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self._product is None or x.shape[0] > self.kernel_rows:
            return self.by_unpacking(x)
        return self._product(x, None)

    def by_kernel(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The product of few rows, to ``out`` if it is given, which it *mutates*; not for
        ``kernel_rows=0``."""
        assert self._product is not None
        return self._product(x, out)

    def by_unpacking(self, x: torch.Tensor) -> torch.Tensor:
        """The product of many rows."""
        num_outputs, num_inputs = self._quantised.shape
        tile = max(1, Scratch.TILE // num_inputs)
        if num_outputs <= tile:
            product = F.linear(x, self._numbers(0, num_outputs)).mul_(self._scales)
        else:
            product = x.new_empty((x.shape[0], num_outputs))
            for start in range(0, num_outputs, tile):
                end = min(start + tile, num_outputs)
                part = F.linear(x, self._numbers(start, end))
                torch.mul(part, self._scales[start:end], out=product[:, start:end])
        return product if self._bias is None else product.add_(self._bias)

    def _numbers(self, start: int, end: int) -> torch.Tensor:
        quantised = self._quantised[start:end]
        return self._scratch.numbers(quantised.numel()).view(quantised.shape).copy_(quantised)

    @property
    def num_bytes(self) -> int:
        return self._quantised.nbytes + self._scales.nbytes


def quantise_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes int8[out, in] and scales [out], of ``weight``'s type, with ``bytes * scales`` nearest
    to ``weight`` [out, in].

    *Cost*: passes over the weight in float32, some of whose rows at a time.
    """
    quantised = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(weight.shape[0], dtype=weight.dtype)
    step = max(1, Scratch.TILE // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        rows = slice(start, min(start + step, weight.shape[0]))
        part = weight[rows].float()
        scale = (part.abs().amax(1) / 127).to(weight.dtype)
        # A row of zeros has no scale; any will do.
        scale.masked_fill_(scale == 0, 1)
        # By the scale as it is stored: what its rounding costs, the bytes make good.
        quantised[rows] = part.div(scale.float().unsqueeze(1)).round_().clamp_(-127, 127)
        scales[rows].copy_(scale)
    return quantised, scales
