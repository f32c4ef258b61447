"""Norm, rotation and storing compiled for processors: against float64, and against torch's own."""

import dataclasses
from typing import Any

import pytest
import torch

from radixserve.model.ops import HeadShape, Norm
from radixserve.model.rope import Rotation
from radixserve.model.torch_ops import TorchOps
from radixserve_kernels.kv_store.cases import TEST_CASES, KVStoreCase, KVStoreInputs, make_inputs
from radixserve_kernels.kv_store.cpu import ALONE, kv_store
from radixserve_kernels.kv_store.reference import kv_store_reference
from tests.kernels.judging import (
    assert_as_close_as_torch,
    assert_same_bits,
    nan_filled_outputs,
)

pytestmark = pytest.mark.usefixtures("two_threads")

CPU = torch.device("cpu")
SMALL = KVStoreCase(5, 6, 2, 80, 4, True)
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


def ours(inputs: KVStoreInputs) -> torch.Tensor:
    with nan_filled_outputs():
        return kv_store(
            inputs.qkv,
            inputs.weight,
            inputs.eps,
            inputs.angles,
            inputs.positions,
            inputs.keys,
            inputs.values,
            inputs.slots,
        )


def theirs(case: KVStoreCase, inputs: KVStoreInputs, slots: torch.Tensor) -> torch.Tensor:
    """The same by ``TorchOps``, which knows no slot of -1."""
    cos, sin = inputs.angles[inputs.positions].unsqueeze(1).chunk(2, dim=-1)
    return TorchOps().rotate_and_store(
        inputs.qkv,
        HeadShape(case.num_heads, case.num_kv_heads, case.head_dim),
        None if inputs.weight is None else Norm(inputs.weight, inputs.eps),
        Rotation(torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)),
        inputs.keys,
        inputs.values,
        slots,
    )


def exactly(inputs: KVStoreInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and the whole storage, both float64."""
    storage = inputs.storage.double()
    query = kv_store_reference(
        inputs.qkv,
        inputs.weight,
        inputs.eps,
        inputs.angles,
        inputs.positions,
        storage[1, 0],
        storage[1, 1],
        inputs.slots,
    )
    return query, storage


def copied(inputs: KVStoreInputs) -> KVStoreInputs:
    return dataclasses.replace(inputs, storage=inputs.storage.clone())


def check(case: KVStoreCase, inputs: KVStoreInputs) -> None:
    """Run all three on copies of the pages; judge queries and keys, compare everything else."""
    exact_query, exact_storage = exactly(inputs)
    by_torch, by_us = copied(inputs), copied(inputs)
    # Where nothing is stored, torch stores into a page that is not looked at.
    spare = inputs.storage.shape[2] * case.page_size - 1
    torch_slots = torch.where(inputs.slots < 0, spare, inputs.slots)
    their_query = theirs(case, by_torch, torch_slots)
    our_query = ours(by_us)
    assert our_query.is_contiguous()
    assert_as_close_as_torch(our_query, their_query, exact_query)

    slots = inputs.slots[inputs.slots >= 0]
    page, offset = slots // case.page_size, slots % case.page_size
    assert_as_close_as_torch(
        by_us.keys[page, offset], by_torch.keys[page, offset], exact_storage[1, 0][page, offset]
    )
    assert_same_bits(by_us.values[page, offset], by_torch.values[page, offset])
    # With what was written taken back, nothing has changed: no other slot, no other layer.
    by_us.keys[page, offset] = inputs.keys[page, offset]
    by_us.values[page, offset] = inputs.values[page, offset]
    assert_same_bits(by_us.storage, inputs.storage)


def with_unstored_tokens(case: KVStoreCase, inputs: KVStoreInputs) -> KVStoreInputs:
    """Every third token's slot is -1, and no token's the last, which ``check`` lets torch have."""
    spare = inputs.storage.shape[2] * case.page_size - 1
    slots = inputs.slots.clone()
    slots[1::3] = -1
    slots[slots == spare] = -1
    return dataclasses.replace(inputs, slots=slots)


@pytest.mark.parametrize(("case", "dtype"), CASES, ids=str)
def test_queries_keys_and_values(case: KVStoreCase, dtype: torch.dtype) -> None:
    check(case, with_unstored_tokens(case, make_inputs(case, dtype, CPU)))


@pytest.mark.parametrize("size", [2e4, 1e-3, 0.0], ids=str)
def test_heads_whose_squares_half_precision_cannot_hold(size: float) -> None:
    case = KVStoreCase(5, 3, 1, 64, 4, True)
    inputs = make_inputs(case, torch.float16, CPU)
    check(case, dataclasses.replace(inputs, qkv=(inputs.qkv.sign() * size).half()))


def test_what_is_not_a_number_stays_in_its_head() -> None:
    inputs = make_inputs(SMALL, torch.bfloat16, CPU)
    expected, by_us = copied(inputs), copied(inputs)
    query = ours(expected)
    # One number of token 2's query head 3, of token 1's key head 0, and of token 3's value head 1.
    for token, head in ((2, 3), (1, 6), (3, 9)):
        by_us.qkv[token, head * 80 + 50] = torch.nan
    again = ours(by_us)
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
    inputs = make_inputs(SMALL, torch.bfloat16, CPU)
    slots = torch.full_like(inputs.slots, -1)
    padded = dataclasses.replace(inputs, slots=slots, positions=torch.zeros_like(slots))
    before = padded.storage.clone()
    query = ours(padded)
    assert_same_bits(padded.storage, before)
    assert query.isfinite().all()


@pytest.mark.parametrize("num_tokens", [9, ALONE // 640 + 1])
def test_a_token_does_not_depend_on_its_batch(num_tokens: int) -> None:
    """Whether one thread computes them or several."""
    case = dataclasses.replace(SMALL, num_tokens=num_tokens)
    inputs = make_inputs(case, torch.bfloat16, CPU)
    together = ours(inputs)
    for token in (0, 4, num_tokens - 1):
        only = slice(token, token + 1)
        alone = dataclasses.replace(
            inputs,
            qkv=inputs.qkv[only],
            positions=inputs.positions[only],
            slots=inputs.slots[only],
            storage=inputs.storage.clone().fill_(torch.nan),
        )
        assert_same_bits(ours(alone)[0], together[token])
        page, offset = divmod(int(inputs.slots[token]), case.page_size)
        assert_same_bits(alone.keys[page, offset], inputs.keys[page, offset])
        assert_same_bits(alone.values[page, offset], inputs.values[page, offset])


def test_strides_are_honoured() -> None:
    """Rows of the projection, pages and slots that lie apart."""
    inputs = make_inputs(SMALL, torch.bfloat16, CPU)
    num_pages, page_size, num_kv_heads, head_dim = inputs.keys.shape
    wide = torch.full((SMALL.num_tokens, 2000), torch.nan, dtype=torch.bfloat16)
    wide[:, 7 : 7 + inputs.qkv.shape[1]] = inputs.qkv
    qkv = wide[:, 7 : 7 + inputs.qkv.shape[1]]
    # Keys of a page beside something else of it; then keys of a slot beside something else of it.
    by_page = inputs.keys.new_full((num_pages, 3, page_size, num_kv_heads, head_dim), torch.nan)
    by_slot = inputs.keys.new_full((num_pages, page_size, 2, num_kv_heads, head_dim), torch.nan)
    query = ours(inputs)
    for keys, values in (
        (by_page[:, 0], by_slot[:, :, 1]),
        (by_slot[:, :, 0], by_page[:, 1]),
    ):
        again = kv_store(
            qkv,
            inputs.weight,
            inputs.eps,
            inputs.angles,
            inputs.positions,
            keys,
            values,
            inputs.slots,
        )
        assert_same_bits(again, query)
        assert_same_bits(keys, inputs.keys)
        assert_same_bits(values, inputs.values)


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
