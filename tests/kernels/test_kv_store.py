"""Norm, rotation and storing against float64, and against torch's own at the same dtype."""

import dataclasses
from typing import Any

import pytest
import torch

from radixserve_kernels.kv_store.cases import TEST_CASES, KVStoreCase, make_inputs
from radixserve_kernels.kv_store.kernel import blocks, kv_store
from tests.kernels.judging import DEVICE, DTYPES, assert_same_bits
from tests.kernels.kv_store_judge import KVStoreJudge, copied, with_unstored_tokens

SMALL = KVStoreCase(5, 6, 2, 80, 4, True)
JUDGE = KVStoreJudge(kv_store)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", TEST_CASES, ids=str)
def test_queries_keys_and_values(case: KVStoreCase, dtype: torch.dtype) -> None:
    JUDGE.check(case, with_unstored_tokens(case, make_inputs(case, dtype, DEVICE)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [2e4, 1e-3, 0.0], ids=str)
def test_heads_whose_squares_half_precision_cannot_hold(size: float, dtype: torch.dtype) -> None:
    inputs = make_inputs(SMALL, dtype, DEVICE)
    JUDGE.check(SMALL, dataclasses.replace(inputs, qkv=(inputs.qkv.sign() * size).to(dtype)))


def test_a_graphs_padding_stores_nothing() -> None:
    JUDGE.check_padding(make_inputs(SMALL, torch.bfloat16, DEVICE))


def test_indices_of_four_bytes_are_the_same() -> None:
    inputs = make_inputs(SMALL, torch.float32, DEVICE)
    narrow = dataclasses.replace(
        copied(inputs), positions=inputs.positions.int(), slots=inputs.slots.int()
    )
    assert_same_bits(JUDGE.run(narrow), JUDGE.run(inputs))
    assert_same_bits(narrow.storage, inputs.storage)


def test_a_token_does_not_depend_on_its_batch() -> None:
    case = KVStoreCase(9, 6, 2, 96, 16, True)
    JUDGE.check_batch(case, make_inputs(case, torch.bfloat16, DEVICE))


def test_strides_are_honoured() -> None:
    JUDGE.check_strides(make_inputs(SMALL, torch.float32, DEVICE))


def test_programs_take_as_many_heads_as_threads_have_room_for() -> None:
    assert blocks(48, 128) == (16, 64, 4)
    assert blocks(48, 80) == (16, 64, 4)
    assert blocks(48, 64) == (32, 32, 4)
    assert blocks(48, 256) == (8, 128, 4)
    assert blocks(3, 16) == (4, 8, 1)


def test_what_does_not_fit_is_refused() -> None:
    inputs = make_inputs(SMALL, torch.float32, DEVICE)
    keys = inputs.keys
    assert inputs.weight is not None
    cases: dict[str, dict[str, torch.Tensor]] = {
        r"keys: expected an even D of 2 to 512, got 79": {"keys": keys[..., :79]},
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
        r"positions: expected int32 or int64, got int16": {"positions": inputs.positions.short()},
        r"slots: expected a tensor on .* meta": {"slots": inputs.slots.to("meta")},
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
