"""Weights in 4 bits: groups of 32 along the inputs, each with a scale and a zero of its own,
``weight = (nibble - 8) * scale + zero``: 0.625 bytes a weight with 2-byte scales.

Made from the checkpoint's own weights, round to nearest; of some ranges that a group's 16 steps may
span, the one of least squared error is taken. As in 8 bits, few rows go to a compiled kernel and
many are multiplied by weights that are unpacked, tile by tile, into a scratch buffer (there rounded
to the activations' type once more, as the kernel does where it multiplies in that type; without
compiled kernels twice).

A group is 16 bytes: low nibbles are its first 16 inputs, high nibbles the others. A row's groups
lie in order.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)

from radixserve.model.linear_compiled import make_product, unpack_int4
from radixserve.model.linear_int8 import Scratch

GROUP = 32
"""Weights that share a scale and a zero."""

_SPANS = (1.0, 0.97, 0.93)
"""Parts of a group's range, from its middle, that its 16 steps may span: less than all of it rounds
most weights better and cuts the ends off. Seven hundredths less squared error than the whole range
alone, for normal and for heavy-tailed weights; more candidates hardly add."""


class Int4Linear:
    """``Linear`` by a weight in 4 bits, for float32 and bfloat16 activations on a CPU. Only for
    shapes that ``fits_int4``."""

    __slots__ = ("_bias", "_packed", "_product", "_scales", "_scratch", "kernel_rows")

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
        assert fits_int4(weight.shape)
        self._packed, self._scales = quantise_int4(weight)
        self._bias = bias
        self._scratch = scratch
        self.kernel_rows = kernel_rows
        self._product = make_product(self._packed, bias, self._scales) if kernel_rows else None

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
        num_outputs, num_inputs = self._packed.shape[0], x.shape[1]
        tile = max(1, Scratch.TILE // num_inputs)
        if num_outputs <= tile:
            return F.linear(x, self._numbers(0, num_outputs), self._bias)
        product = x.new_empty((x.shape[0], num_outputs))
        for start in range(0, num_outputs, tile):
            end = min(start + tile, num_outputs)
            bias = None if self._bias is None else self._bias[start:end]
            product[:, start:end] = F.linear(x, self._numbers(start, end), bias)
        return product

    def _numbers(self, start: int, end: int) -> torch.Tensor:
        """The weights of these outputs: [end - start, in]."""
        scales = self._scales[start:end]
        num_outputs, num_groups, _ = scales.shape
        packed = self._packed[start:end].view(num_outputs, num_groups, GROUP // 2)
        if self._product is not None:
            numbers = self._scratch.numbers(2 * packed.numel()).view(num_outputs, -1)
            unpack_int4(packed, scales, numbers)
            return numbers
        nibbles = self._scratch.bytes(packed.numel()).view(packed.shape)
        signed = nibbles.view(torch.int8)
        numbers = self._scratch.numbers(2 * packed.numel())
        halves = numbers.view(num_outputs, num_groups, 2, GROUP // 2)
        # Eight is subtracted from bytes: four times as many fit a register.
        torch.bitwise_and(packed, 15, out=nibbles)
        halves[:, :, 0].copy_(signed.sub_(8))
        torch.bitwise_right_shift(packed, 4, out=nibbles)
        halves[:, :, 1].copy_(signed.sub_(8))
        grouped = numbers.view(num_outputs, num_groups, GROUP)
        scale, zero = scales.unsqueeze(-2).unbind(-1)
        # Two operations, each of which is vectorised, take a quarter of one's time that is not.
        return grouped.mul_(scale).add_(zero).view(num_outputs, -1)

    @property
    def num_bytes(self) -> int:
        return self._packed.nbytes + self._scales.nbytes


def fits_int4(shape: torch.Size) -> bool:
    """Whether a weight of [out, in] consists of whole groups."""
    return shape[1] % GROUP == 0


def quantise_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of nibbles, uint8[out, in / 2], and of ``weight``'s type scales and zeros,
    [out, in / 32, 2], nearest to ``weight`` [out, in].

    *Cost*: some thirty passes over the weight in float32, some of whose rows at a time.
    """
    num_outputs, num_inputs = weight.shape
    num_groups = num_inputs // GROUP
    packed = torch.empty((num_outputs, num_inputs // 2), dtype=torch.uint8)
    scales = torch.empty((num_outputs, num_groups, 2), dtype=weight.dtype)
    step = max(1, Scratch.TILE // 4 // num_inputs)
    for start in range(0, num_outputs, step):
        end = min(start + step, num_outputs)
        groups = weight[start:end].float().view(end - start, num_groups, GROUP)
        nibbles, scale, zero = _nearest(groups, weight.dtype)
        low, high = nibbles.view(end - start, num_groups, 2, GROUP // 2).unbind(2)
        packed[start:end] = (low + 16 * high).view(end - start, num_inputs // 2)
        scales[start:end] = torch.cat((scale, zero), dim=-1)
    return packed, scales


def _nearest(
    groups: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Nibbles int32 of the shape of ``groups`` (float32[..., 32]); scale and zero, [..., 1],
    float32 numbers that ``dtype`` holds exactly."""
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    least = scale = zero = nibbles = None
    for span in _SPANS:
        a_scale = (half * (span * 2 / 15)).to(dtype).float()
        a_zero = (middle + a_scale / 2).to(dtype).float()
        # A group of equal weights is all zero point: any scale will do.
        a_scale.masked_fill_(a_scale == 0, 1)
        some = ((groups - a_zero) / a_scale).round_().clamp_(-8, 7)
        error = torch.addcmul(a_zero, some, a_scale).sub_(groups).square_().sum(-1, keepdim=True)
        if least is None or scale is None or zero is None or nibbles is None:
            least, scale, zero, nibbles = error, a_scale, a_zero, some
            continue
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, a_scale, scale)
        zero = torch.where(better, a_zero, zero)
        nibbles = torch.where(better, some, nibbles)
    assert nibbles is not None
    assert scale is not None
    assert zero is not None
    return nibbles.add_(8).to(torch.int32), scale, zero
