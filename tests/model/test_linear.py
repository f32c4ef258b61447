"""Every kind of product against float64."""

import pytest
import torch

from radixserve.model.linear import Linear, PackedLinear, PaddedLinear, PlainLinear, can_pack
from radixserve.model.linear_choice import LinearMaker
from radixserve.model.linear_compiled import CompiledLinear
from radixserve.model.linear_int4 import GROUP, Int4Linear, fits_int4
from radixserve.model.linear_int8 import Int8Linear, Scratch, quantise_int8
from tests.model.products import (
    DTYPES,
    ROUNDING,
    bias_of,
    error,
    exact,
    int4_weight,
    int8_weight,
    rows_of,
    weight_of,
)

# ---- plain, packed, padded -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("shape", [(96, 64), (513, 300)])
def test_plain_and_packed_mean_the_same(
    dtype: torch.dtype, has_bias: bool, shape: tuple[int, int]
) -> None:
    if not can_pack(dtype):
        pytest.skip("this machine packs no such weights")
    weight, bias = weight_of(*shape, dtype), bias_of(shape[0], dtype) if has_bias else None
    kinds: list[Linear] = [PlainLinear(weight, bias), PackedLinear(weight, bias)]
    for count in (1, 3, 16, 70):
        x = rows_of(count, shape[1], dtype)
        for kind in kinds:
            assert error(kind(x), exact(x, weight, bias)) < ROUNDING[dtype]
    assert [kind.num_bytes for kind in kinds] == [weight.nbytes] * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [False, True])
def test_compiled_means_the_same_in_both_ways(dtype: torch.dtype, has_bias: bool) -> None:
    weight, bias = weight_of(101, 77, dtype), bias_of(101, dtype) if has_bias else None
    made = CompiledLinear(weight, bias, kernel_rows=4)
    for count in (1, 4, 5, 33):
        x = rows_of(count, 77, dtype)
        ways = (made.by_kernel(x), made.by_library(x))
        assert torch.equal(made(x), ways[count > 4])
        for way in ways:
            assert error(way, exact(x, weight, bias)) < ROUNDING[dtype]
    assert made.num_bytes == weight.nbytes
    # Nothing is copied: it goes on to mean what the weight holds.
    weight.mul_(-2)
    for count in (1, 5):
        x = rows_of(count, 77, dtype)
        assert error(made(x), exact(x, weight, bias)) < ROUNDING[dtype]


class Recorded:
    """A product that remembers how many rows it was given."""

    num_bytes = 7

    def __init__(self, inner: Linear) -> None:
        self._inner = inner
        self.counts: list[int] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.counts.append(x.shape[0])
        return self._inner(x)


def test_rows_are_padded_as_the_table_says_and_none_come_back() -> None:
    weight, bias = weight_of(48, 32, torch.float32), bias_of(48, torch.float32)
    inner = Recorded(PlainLinear(weight, bias))
    padded = PaddedLinear(inner, (0, 1, 4, 4, 4))
    for count in range(1, 7):
        x = rows_of(count, 32, torch.float32)
        assert error(padded(x), exact(x, weight, bias)) < ROUNDING[torch.float32]
    assert inner.counts == [1, 4, 4, 4, 5, 6]
    assert padded.num_bytes == 7


# ---- 8 bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_is_the_nearest(dtype: torch.dtype) -> None:
    weight = weight_of(200, 96, dtype)
    weight[3] = 0
    quantised, scales = quantise_int8(weight)
    assert int(quantised.abs().max()) == 127
    assert not quantised[3].any()
    off = (int8_weight(weight) - weight.double()).abs()
    # Half a step; at a row's greatest weight more, by as much as the scale was rounded.
    limit = scales.double() * (0.5 + 127 * torch.finfo(dtype).eps)
    assert bool((off <= limit.unsqueeze(1)).all())
    inside = quantised.abs() < 126
    assert bool((off <= scales.double().unsqueeze(1) * (0.5 + 1e-6))[inside].all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", [2**21, 96 * 70], ids=["whole", "tiles"])
def test_both_ways_of_int8_are_the_same_product(
    dtype: torch.dtype, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scratch, "TILE", tile)
    weight, bias = weight_of(192, 96, dtype), bias_of(192, dtype)
    made = Int8Linear(weight, bias, Scratch(dtype), kernel_rows=4)
    for count in (1, 4, 5, 33):
        x = rows_of(count, 96, dtype)
        expected = exact(x, int8_weight(weight), bias)
        assert error(made(x), expected) < 2 * ROUNDING[dtype]
        assert error(made.by_kernel(x), expected) < ROUNDING[dtype]
    assert made.num_bytes == 192 * 96 + 192 * dtype.itemsize


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize(
    ("shape", "compiled"),
    [((64, 64), False), ((520, 544), False), ((3, 64), True), ((64, 24), True)],
)
def test_without_a_kernel_all_rows_are_unpacked(
    quantization: str, shape: tuple[int, int], compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in (Int8Linear, Int4Linear):
        monkeypatch.setattr(kind, "by_kernel", lambda self, x: pytest.fail("to the kernel"))
    weight, bias = weight_of(*shape, torch.bfloat16), bias_of(shape[0], torch.bfloat16)
    made = LinearMaker(torch.bfloat16, quantization, compiled=compiled).make(weight, bias)
    is_int4 = quantization == "int4" and fits_int4(weight.shape)
    assert isinstance(made, Int4Linear if is_int4 else Int8Linear)
    meant = int4_weight(weight) if is_int4 else int8_weight(weight)
    for count in (1, 3, 8):
        x = rows_of(count, shape[1], torch.bfloat16)
        assert error(made(x), exact(x, meant, bias)) < 2 * ROUNDING[torch.bfloat16]


# ---- 4 bits --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tile", [2**21, 96 * 70], ids=["whole", "tiles"])
def test_both_ways_of_int4_are_the_same_product(
    dtype: torch.dtype, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scratch, "TILE", tile)
    weight, bias = weight_of(192, 96, dtype), bias_of(192, dtype)
    made = Int4Linear(weight, bias, Scratch(dtype), kernel_rows=4)
    for count in (1, 4, 5, 33):
        x = rows_of(count, 96, dtype)
        expected = exact(x, int4_weight(weight), bias)
        assert error(made(x), expected) < 2 * ROUNDING[dtype]
        assert error(made.by_kernel(x), expected) < 2 * ROUNDING[dtype]
    assert made.num_bytes == 192 * 96 // 2 + 2 * dtype.itemsize * 192 * 96 // GROUP


def test_int4_takes_the_range_of_least_error() -> None:
    weight = weight_of(128, 128, torch.float32)
    groups = weight.view(-1, GROUP)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)

    def squares(found: torch.Tensor) -> torch.Tensor:
        return (found - groups).double().square().sum(1)

    by_span = []
    for span in (1.0, 0.97, 0.93):
        step = (high - low) * span / 15
        start = (low + high - 15 * step) / 2
        nearest = ((groups - start) / step).round().clamp(0, 15)
        by_span.append(squares(nearest * step + start))
    found = squares(int4_weight(weight).view(-1, GROUP))
    assert bool((found <= torch.stack(by_span).amin(0) * (1 + 1e-3)).all())
    # Each of them is some group's best.
    assert len(set(torch.stack(by_span).argmin(0).tolist())) == 3
    assert float(found.sum()) < 0.95 * float(by_span[0].sum())


def test_int4_holds_groups_of_equal_weights() -> None:
    weight = torch.full((64, 64), 0.375)
    weight[5] = 0
    assert torch.equal(int4_weight(weight), weight.double())


@pytest.mark.parametrize(("shape", "fits"), [((64, 32), True), ((7, 96), True), ((64, 48), False)])
def test_what_fits_groups(shape: tuple[int, int], fits: bool) -> None:
    assert fits_int4(torch.Size(shape)) == fits


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows_give_none(dtype: torch.dtype) -> None:
    """A step that ends inside every prompt asks for no logits."""
    weight, bias, scratch = weight_of(128, 64, dtype), bias_of(128, dtype), Scratch(dtype)
    kinds: list[Linear] = [PlainLinear(weight, bias)]
    if can_pack(dtype):
        kinds += [PackedLinear(weight, bias), PaddedLinear(PackedLinear(weight), (0, 16))]
    for quantised in (Int8Linear, Int4Linear):
        kinds += [quantised(weight, bias, scratch, kernel_rows=rows) for rows in (0, 8)]
    kinds += [CompiledLinear(weight, bias, kernel_rows=8)]
    for kind in kinds:
        assert kind(weight.new_empty(0, 64)).shape == (0, 128)
