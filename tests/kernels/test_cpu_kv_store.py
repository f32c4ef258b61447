"""Norm, rotation and storing compiled for processors: against float64, and against torch's own."""

import dataclasses
from typing import Any

import pytest
import torch

from radixserve_kernels.kv_store.cases import TEST_CASES, KVStoreCase, make_inputs
from radixserve_kernels.kv_store.cpu import ALONE, kv_store
from tests.kernels.judging import assert_same_bits
from tests.kernels.kv_store_judge import KVStoreJudge, copied, with_unstored_tokens

pytestmark = pytest.mark.usefixtures("two_threads")

CPU = torch.device("cpu")
SMALL = KVStoreCase(5, 6, 2, 80, 4, True)
JUDGE = KVStoreJudge(kv_store)
# Head sizes with and without norms: each is a kernel of its own, to be compiled.
KERNELS = {
    torch.bfloat16: ((16, False), (80, True), (128, True)),
    torch.float32: ((24, True), (192, False)),
    torch.float16: ((64, True),),
}
CASES = [
    *(
        (case, dtype)
        for dtype, shapes in KERNELS.items()
        for case in TEST_CASES
        if (case.head_dim, case.has_norm) in shapes
    ),
    (dataclasses.replace(SMALL, num_tokens=ALONE // 640 + 1), torch.bfloat16),
]


@pytest.mark.parametrize(("case", "dtype"), CASES, ids=str)
def test_queries_keys_and_values(case: KVStoreCase, dtype: torch.dtype) -> None:
    JUDGE.check(case, with_unstored_tokens(case, make_inputs(case, dtype, CPU)))


@pytest.mark.parametrize("size", [2e4, 1e-3, 0.0], ids=str)
def test_heads_whose_squares_half_precision_cannot_hold(size: float) -> None:
    case = KVStoreCase(5, 3, 1, 64, 4, True)
    inputs = make_inputs(case, torch.float16, CPU)
    JUDGE.check(case, dataclasses.replace(inputs, qkv=(inputs.qkv.sign() * size).half()))


def test_what_is_not_a_number_stays_in_its_head() -> None:
    inputs = make_inputs(SMALL, torch.bfloat16, CPU)
    expected, by_us = copied(inputs), copied(inputs)
    query = JUDGE.run(expected)
    # One number of token 2's query head 3, of token 1's key head 0, and of token 3's value head 1.
    for token, head in ((2, 3), (1, 6), (3, 9)):
        by_us.qkv[token, head * 80 + 50] = torch.nan
    again = JUDGE.run(by_us)
    assert bool(again[2, 3].isnan().all())
    again[2, 3] = query[2, 3]
    assert_same_bits(again, query)
    keys, values = by_us.keys.view(-1, 2, 80), by_us.values.view(-1, 2, 80)
    key, value = keys[inputs.slots[1], 0], values[inputs.slots[3], 1]
    assert bool(key.isnan().all())
    assert value.isnan().nonzero().tolist() == [[50]]
    key.copy_(expected.keys.view(-1, 2, 80)[inputs.slots[1], 0])
    value.copy_(expected.values.view(-1, 2, 80)[inputs.slots[3], 1])
    assert_same_bits(by_us.storage, expected.storage)


def test_tokens_without_slots_are_stored_nowhere() -> None:
    JUDGE.check_padding(make_inputs(SMALL, torch.bfloat16, CPU))


@pytest.mark.parametrize("num_tokens", [9, ALONE // 640 + 1])
def test_a_token_does_not_depend_on_its_batch(num_tokens: int) -> None:
    """Whether one thread computes them or several."""
    case = dataclasses.replace(SMALL, num_tokens=num_tokens)
    JUDGE.check_batch(case, make_inputs(case, torch.bfloat16, CPU))


def test_strides_are_honoured() -> None:
    JUDGE.check_strides(make_inputs(SMALL, torch.bfloat16, CPU))


def test_what_does_not_fit_is_refused() -> None:
    inputs = make_inputs(SMALL, torch.float32, CPU)
    keys = inputs.keys
    assert inputs.weight is not None
    cases: dict[str, dict[str, torch.Tensor]] = {
        r"keys: expected an even D, got 79": {"keys": keys[..., :79]},
        r"values: expected shape \[4, 4, 2, 80\], got": {"values": keys[:, :3]},
        r"keys: expected the heads of a slot to lie together": {
            "keys": keys.repeat(1, 1, 2, 1)[:, :, ::2]
        },
        r"qkv: expected a multiple of D = 80 columns": {"qkv": inputs.qkv[:, :-1]},
        r"qkv: expected .* more than those of 2 \* 2 heads .* got 320": {
            "qkv": inputs.qkv[:, :320]
        },
        r"qkv: expected contiguous rows, got strides": {"qkv": inputs.qkv.repeat(1, 2)[:, ::2]},
        r"angles: expected shape \[num_positions, 80\]": {"angles": inputs.angles[:, :40]},
        r"weight: expected shape \[8, 80\], got \[6, 80\]": {"weight": inputs.weight[:6]},
        r"angles: expected float32, got float16": {"angles": inputs.angles.half()},
        r"slots: expected shape \[5\], got \[4\]": {"slots": inputs.slots[:4]},
        r"positions: expected int64, got int32": {"positions": inputs.positions.int()},
        r"slots: expected a contiguous tensor": {"slots": inputs.slots.repeat_interleave(2)[::2]},
        r"slots: expected a tensor on the CPU, got one on meta": {"slots": inputs.slots.to("meta")},
    }
    good: dict[str, Any] = {
        "qkv": inputs.qkv,
        "weight": inputs.weight,
        "eps": 1e-6,
        "angles": inputs.angles,
        "positions": inputs.positions,
        "keys": inputs.keys,
        "values": inputs.values,
        "slots": inputs.slots,
    }
    for message, bad in cases.items():
        with pytest.raises(ValueError, match=message):
            kv_store(**(good | bad))
