"""Weights in 4 bits: groups of 32 along the inputs, each with a scale and a zero of its own,
``weight = (nibble - 8) * scale + zero``: 0.625 bytes a weight with 2-byte scales.

Made from the checkpoint's own weights, round to nearest; of some ranges that a group's 16 steps may
span, the one of least squared error is taken. As in 8 bits, few rows go to torch's kernel and many
are multiplied by weights that are unpacked, tile by tile, into a scratch buffer (there rounded to
the activations' type once more, which the kernel does not do). Unpacking takes about as long as
reading the weights ten times: it pays where the kernel, whose time grows with every row, is slower
still.

The kernel's order of the nibbles is torch's own affair and depends on the processor. Two orders are
known here:

    [out / block][in][block / 2] bytes, low nibbles: the block's first half of outputs, high: second

with blocks of 64 (AVX512) or 32 (AVX2). Which one this process has is found by packing a weight and
looking; in any other (ARM's), all rows go to the kernel.
"""

from functools import cache

import torch

from radixserve.model.linear_int8 import Scratch

GROUP = 32
"""Weights that share a scale and a zero."""

_BLOCKS = (64, 32)
_SPANS = (1.0, 0.97, 0.93)
"""Parts of a group's range, from its middle, that its 16 steps may span: less than all of it rounds
most weights better and cuts the ends off. Seven hundredths less squared error than the whole range
alone, for normal and for heavy-tailed weights; more candidates hardly add."""


class Int4Linear:
    """``Linear`` by a weight in 4 bits, for float32 and bfloat16 activations on a CPU. Only for
    shapes that ``fits_int4``."""

    __slots__ = ("_bias", "_block", "_kernel_rows", "_packed", "_scales", "_scratch", "_shape")

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        scratch: Scratch,
        *,
        kernel_rows: int,
    ) -> None:
        """``weight``: [out, in], quantised here and not kept; ``bias``: [out].

        ``kernel_rows``: so many rows at most go to torch's kernel, if others need not.
        """
        assert fits_int4(weight.shape)
        self._shape = weight.shape
        self._packed, self._scales = quantise_int4(weight)
        self._bias = bias
        self._scratch = scratch
        self._block = packed_block()
        self._kernel_rows = kernel_rows

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        few = x.shape[0] <= self._kernel_rows or self._block is None
        product = self.by_kernel(x) if few else self.by_unpacking(x)
        return product if self._bias is None else product.add_(self._bias)

    def by_kernel(self, x: torch.Tensor) -> torch.Tensor:
        """The product without the bias, for few rows."""
        product: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu.default(
            x, self._packed, GROUP, self._scales
        )
        return product

    def by_unpacking(self, x: torch.Tensor) -> torch.Tensor:
        """The product without the bias, for many rows, where the kernel's order is known."""
        block = self._block
        assert block is not None
        num_outputs, num_inputs = self._shape
        tile = max(block, Scratch.TILE // num_inputs // block * block)
        if num_outputs <= tile:
            return torch.mm(x, self._numbers(0, num_outputs, block))
        product = x.new_empty((x.shape[0], num_outputs))
        for start in range(0, num_outputs, tile):
            end = min(start + tile, num_outputs)
            product[:, start:end] = torch.mm(x, self._numbers(start, end, block))
        return product

    def _numbers(self, start: int, end: int, block: int) -> torch.Tensor:
        """The weights of these outputs, whole blocks: [in, end - start]."""
        num_inputs = self._shape[1]
        count, half = (end - start) // block, block // 2
        packed = self._packed[start:end].view(count, num_inputs, half)
        nibbles = self._scratch.bytes(packed.numel()).view(packed.shape)
        signed = nibbles.view(torch.int8).transpose(0, 1)
        numbers = self._scratch.numbers((end - start) * num_inputs)
        halves = numbers.view(num_inputs, count, 2, half)
        # Eight is subtracted from bytes: four times as many fit a register.
        torch.bitwise_and(packed, 15, out=nibbles)
        halves[:, :, 0].copy_(signed.sub_(8))
        torch.bitwise_right_shift(packed, 4, out=nibbles)
        halves[:, :, 1].copy_(signed.sub_(8))
        grouped = numbers.view(num_inputs // GROUP, GROUP, end - start)
        # A copy of each, which is small, lets the large operation read them in order.
        scale, zero = self._scales[:, start:end].permute(2, 0, 1).contiguous().unsqueeze(2)
        return torch.addcmul(zero, grouped, scale, out=grouped).view(num_inputs, end - start)

    @property
    def num_bytes(self) -> int:
        return self._packed.nbytes + self._scales.nbytes


def fits_int4(shape: torch.Size) -> bool:
    """Whether a weight of [out, in] consists of whole groups and whole blocks."""
    return shape[0] % max(_BLOCKS) == 0 and shape[1] % GROUP == 0


def quantise_int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nibbles in the kernel's order, uint8[out, in / 2], and of ``weight``'s type scales and zeros,
    [in / 32, out, 2], nearest to ``weight`` [out, in].

    *Cost*: some thirty passes over the weight in float32, some of whose rows at a time.
    """
    num_outputs, num_inputs = weight.shape
    packed = torch.empty((num_outputs, num_inputs // 2), dtype=torch.uint8)
    scales = torch.empty((num_inputs // GROUP, num_outputs, 2), dtype=weight.dtype)
    whole = max(_BLOCKS)
    step = max(whole, Scratch.TILE // 4 // num_inputs // whole * whole)
    for start in range(0, num_outputs, step):
        end = min(start + step, num_outputs)
        groups = weight[start:end].float().view(end - start, num_inputs // GROUP, GROUP)
        nibbles, scale, zero = _nearest(groups, weight.dtype)
        packed[start:end] = _pack(nibbles.view(end - start, num_inputs))
        scales[:, start:end, 0] = scale.squeeze(-1).t()
        scales[:, start:end, 1] = zero.squeeze(-1).t()
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


def _pack(nibbles: torch.Tensor) -> torch.Tensor:
    """From int32[out, in] in 0..15 to the kernel's order."""
    packed: torch.Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu.default(nibbles, 1)
    return packed


@cache
def packed_block() -> int | None:
    """The block of the kernel's order in this process; None if it is none of those known here."""
    whole = max(_BLOCKS)
    # No two neighbours alike, neither along the outputs nor along the inputs.
    outputs, inputs = torch.arange(whole, dtype=torch.int32), torch.arange(GROUP, dtype=torch.int32)
    nibbles = (outputs.unsqueeze(1) * 7 + outputs.unsqueeze(1) // 16 + inputs * 3) % 16
    packed = _pack(nibbles)
    for block in _BLOCKS:
        halves = nibbles.view(whole // block, 2, block // 2, GROUP).transpose(-1, -2)
        expected = (halves[:, 0] + 16 * halves[:, 1]).to(torch.uint8)
        if torch.equal(packed.view(-1), expected.reshape(-1)):
            return block
    return None
