"""Every kind of product against float64, and what is chosen for which weight."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from radixserve.errors import ConfigError
from radixserve.model import linear_choice
from radixserve.model.linear import Linear, PackedLinear, PaddedLinear, PlainLinear, can_pack
from radixserve.model.linear_choice import LinearMaker, check_quantization
from radixserve.model.linear_compiled import CompiledLinear
from radixserve.model.linear_int4 import GROUP, Int4Linear, fits_int4, quantise_int4
from radixserve.model.linear_int8 import Int8Linear, Scratch, quantise_int8
from radixserve.model.linear_timing import race
from radixserve_kernels.linear.reference import weight_of_int4, weight_of_int8

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 4e-3}
"""Of a result relative to the greatest: half a unit in bfloat16's last place, and the sums' own."""


def weight_of(out: int, ins: int, dtype: torch.dtype, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, ins, generator=generator) / math.sqrt(ins)
    # Outputs of different sizes, as trained ones are, and off centre.
    weight = weight.mul(torch.linspace(0.2, 3.0, out).unsqueeze(1)).add(0.01)
    return weight.to(dtype)


def rows_of(count: int, ins: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(count, ins, generator=torch.Generator().manual_seed(count)).to(dtype)


def bias_of(out: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.linspace(-1, 1, out).to(dtype)


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product: torch.Tensor = torch.mm(x.double(), weight.double().T)
    return product if bias is None else product + bias.double()


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    assert found.is_contiguous()
    return float((found.double() - expected).abs().max() / expected.abs().max())


def int8_weight(weight: torch.Tensor) -> torch.Tensor:
    return weight_of_int8(*quantise_int8(weight))


def int4_weight(weight: torch.Tensor) -> torch.Tensor:
    return weight_of_int4(*quantise_int4(weight))


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


def test_nothing_is_packed_where_torch_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_pack(torch.float16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(torch.float32)
    monkeypatch.setattr(linear_choice, "race", lambda *each: [1.0] * len(each))
    made = LinearMaker(torch.float32).make(weight_of(1024, 512, torch.float32))
    assert isinstance(made, PlainLinear)


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


# ---- choosing ------------------------------------------------------------------------------------


def chosen(
    monkeypatch: pytest.MonkeyPatch,
    seconds: Callable[[Sequence[Any]], float],
    *,
    shape: tuple[int, int] = (1024, 512),
    quantization: str = "none",
    compiled: bool = False,
    can_pack: bool = True,
    **arguments: Any,
) -> Linear:
    """What is made if an alternative, told by its runs, takes so many seconds."""
    monkeypatch.setattr(linear_choice, "race", lambda *each: [seconds(runs) for runs in each])
    monkeypatch.setattr(linear_choice, "can_pack", lambda dtype: can_pack)
    maker = LinearMaker(torch.float32, quantization, compiled=compiled)
    return maker.make(weight_of(*shape, torch.float32), **arguments)


def of(runs: Sequence[Any]) -> type:
    return type(runs[0].func)


def test_packed_has_to_win_by_a_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    for share, kind in ((0.9, PackedLinear), (0.97, PlainLinear)):

        def seconds(runs: Sequence[Any], share: float = share) -> float:
            return share if of(runs) is PackedLinear else 1.0

        made = chosen(monkeypatch, seconds)
        assert type(made) is kind


def test_compiled_has_to_win_by_a_margin_and_be_beaten_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seconds(compiled: float, packed: float) -> Callable[[Sequence[Any]], float]:
        def of_runs(runs: Sequence[Any]) -> float:
            if getattr(runs[0].func, "__name__", "") == "by_kernel":
                rows: int = runs[0].args[0].shape[0]
                return rows / 20
            return {CompiledLinear: compiled, PackedLinear: packed}.get(of(runs), 1.0)

        return of_runs

    made = chosen(monkeypatch, seconds(0.9, 0.87), compiled=True)
    assert isinstance(made, CompiledLinear)
    assert made._kernel_rows == 16
    assert type(chosen(monkeypatch, seconds(0.97, 1.0), compiled=True)) is PlainLinear
    assert type(chosen(monkeypatch, seconds(0.9, 0.8), compiled=True)) is PackedLinear
    # Packing would copy what others keep.
    made = chosen(monkeypatch, seconds(0.9, 0.8), compiled=True, is_shared=True)
    assert type(made) is CompiledLinear
    # Too few inputs for a tile.
    made = chosen(monkeypatch, seconds(0.1, 1.0), compiled=True, shape=(16_384, 24))
    assert type(made) is PlainLinear
    assert type(chosen(monkeypatch, seconds(0.1, 1.0))) is PlainLinear


def test_rows_are_padded_where_that_wins_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    made = chosen(monkeypatch, lambda runs: 0.9 if of(runs) is PaddedLinear else 1.0)
    assert isinstance(made, PlainLinear)

    def seconds(runs: Sequence[Any]) -> float:
        wins = of(runs) is PaddedLinear and runs[0].args[0].shape[0] == 24
        return 0.5 if wins else 1.0

    made = chosen(monkeypatch, seconds)
    assert isinstance(made, PaddedLinear)
    assert made._rows == (*range(24), *[32] * 9)
    made = chosen(monkeypatch, lambda runs: 0.5 if of(runs) is PaddedLinear else 1.0)
    assert isinstance(made, PaddedLinear)
    assert made._rows == (*range(12), *[16] * 5, *range(17, 24), *[32] * 9)


def test_the_crossing_is_the_last_number_of_rows_at_which_the_kernel_wins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit, expected in ((0, 0), (1, 1), (30, 24), (10**6, 256)):

        def seconds(runs: Sequence[Any], limit: int = limit) -> float:
            count: int = runs[0].args[0].shape[0]
            return count / (limit + 0.5) if runs[0].func.__name__ == "by_kernel" else 1.0

        made = chosen(monkeypatch, seconds, quantization="int8", compiled=True)
        assert isinstance(made, Int8Linear)
        assert made._kernel_rows == expected


def test_small_weights_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_choice, "race", None)
    for quantization, kind in (("none", PlainLinear), ("int8", Int8Linear), ("int4", Int4Linear)):
        maker = LinearMaker(torch.float32, quantization, compiled=True)
        assert type(maker.make(weight_of(128, 64, torch.float32))) is kind


@pytest.mark.parametrize(("shape", "is_head"), [((128, 64), True), ((128, 48), False)])
def test_the_head_and_what_does_not_fit_4_bits_get_8(shape: tuple[int, int], is_head: bool) -> None:
    maker = LinearMaker(torch.float32, "int4")
    assert isinstance(maker.make(weight_of(*shape, torch.float32), is_head=is_head), Int8Linear)


def test_each_shape_is_measured_once_and_told(caplog: pytest.LogCaptureFixture) -> None:
    maker = LinearMaker(torch.bfloat16, "int8", compiled=True)
    with caplog.at_level(logging.INFO):
        for seed in range(3):
            maker.make(weight_of(512, 512, torch.bfloat16, seed=seed))
        maker.make(weight_of(64, 64, torch.bfloat16))
        maker.log()
    (line,) = caplog.messages
    assert line.count("512x512 int8 (unpacked from ") == 1
    assert "64x64 int8 (unpacked from 9 rows on)" in line


def test_a_measured_choice_multiplies_rightly() -> None:
    """Nothing replaced: the race is run."""
    weight, bias = weight_of(768, 512, torch.float32), bias_of(768, torch.float32)
    for quantization in ("none", "int8"):
        made = LinearMaker(torch.float32, quantization, compiled=True).make(weight, bias)
        meant = weight if quantization == "none" else int8_weight(weight)
        for count in (1, 13, 40):
            x = rows_of(count, 512, torch.float32)
            assert error(made(x), exact(x, meant, bias)) < 2 * ROUNDING[torch.float32]


def test_a_race_gives_every_alternative_the_same_turns() -> None:
    order: list[str] = []
    times = race([lambda: order.append("a")], [lambda: order.append("b")] * 2)
    assert len(times) == 2
    assert all(0 <= time < 1 for time in times)
    assert "".join(order) in ("abb" * 4, "abb" * 3, "abb" * 2)


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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_the_weight_that_was_given_stays(dtype: torch.dtype, quantization: str) -> None:
    """Look-ups go on to use it where the output layer is the embedding."""
    weight = weight_of(512, 512, dtype)
    kept = weight.clone()
    maker = LinearMaker(dtype, quantization, compiled=True)
    for is_head in (False, True):
        maker.make(weight, is_head=is_head)(rows_of(40, 512, dtype))
        assert torch.equal(weight, kept)


def test_what_cannot_be_quantised_is_refused() -> None:
    check_quantization("none", torch.float16, torch.device("cuda"))
    check_quantization("int4", torch.bfloat16, CPU)
    with pytest.raises(ConfigError, match=r"'int8' is for CPUs.*use device 'cpu'"):
        check_quantization("int8", torch.bfloat16, torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"not torch.float16; set dtype"):
        check_quantization("int8", torch.float16, CPU)
