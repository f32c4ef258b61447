"""Which kind of product is chosen for which weight."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from radixserve.errors import ConfigError
from radixserve.model import linear_choice
from radixserve.model.linear import Linear, PackedLinear, PaddedLinear, PlainLinear, can_pack
from radixserve.model.linear_choice import LinearMaker, check_quantization
from radixserve.model.linear_compiled import CompiledLinear
from radixserve.model.linear_int4 import Int4Linear
from radixserve.model.linear_int8 import Int8Linear
from radixserve.model.linear_timing import race
from tests.model.products import (
    DTYPES,
    ROUNDING,
    bias_of,
    error,
    exact,
    int8_weight,
    rows_of,
    weight_of,
)

CPU = torch.device("cpu")


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

    made = chosen(monkeypatch, seconds(0.9, 0.73), compiled=True)
    assert isinstance(made, CompiledLinear)
    assert made.kernel_rows == 16
    assert type(chosen(monkeypatch, seconds(0.97, 1.0), compiled=True)) is PlainLinear
    assert type(chosen(monkeypatch, seconds(0.9, 0.71), compiled=True)) is PackedLinear
    # Where no compiled one is in the lead, less will do.
    assert type(chosen(monkeypatch, seconds(0.97, 0.9), compiled=True)) is PackedLinear
    # Packing would copy what others keep.
    made = chosen(monkeypatch, seconds(0.9, 0.5), compiled=True, is_shared=True)
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
        assert made.kernel_rows == expected


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


def test_nothing_is_packed_where_torch_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_pack(torch.float16)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(torch.float32)
    monkeypatch.setattr(linear_choice, "race", lambda *each: [1.0] * len(each))
    made = LinearMaker(torch.float32).make(weight_of(1024, 512, torch.float32))
    assert isinstance(made, PlainLinear)


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
