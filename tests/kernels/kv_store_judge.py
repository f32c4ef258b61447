"""What storing has to do, whichever kernel does it: against float64, and against torch's own."""

import dataclasses
from collections.abc import Callable

import torch

from radixserve.model.ops import HeadShape, Norm
from radixserve.model.rope import Rotation
from radixserve.model.torch_ops import TorchOps
from radixserve_kernels.kv_store.cases import KVStoreCase, KVStoreInputs
from radixserve_kernels.kv_store.reference import kv_store_reference
from tests.kernels.judging import assert_as_close_as_torch, assert_same_bits, nan_filled_outputs


class KVStoreJudge:
    """Of one kernel, called as ``kv_store_reference`` is."""

    def __init__(self, kernel: Callable[..., torch.Tensor]) -> None:
        self._kernel = kernel

    def run(self, inputs: KVStoreInputs) -> torch.Tensor:
        """The queries. *Mutates* the pages."""
        with nan_filled_outputs():
            return self._kernel(
                inputs.qkv,
                inputs.weight,
                inputs.eps,
                inputs.angles,
                inputs.positions,
                inputs.keys,
                inputs.values,
                inputs.slots,
            )

    def check(self, case: KVStoreCase, inputs: KVStoreInputs) -> None:
        """Run all three on copies of the pages; judge queries and keys, compare everything else."""
        exact_query, exact_storage = exactly(inputs)
        by_torch, by_us = copied(inputs), copied(inputs)
        # Where nothing is stored, torch stores into a page that is not looked at.
        spare = inputs.storage.shape[2] * case.page_size - 1
        torch_slots = torch.where(inputs.slots < 0, spare, inputs.slots)
        their_query = theirs(case, by_torch, torch_slots)
        our_query = self.run(by_us)
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

    def check_batch(self, case: KVStoreCase, inputs: KVStoreInputs) -> None:
        """What a token becomes does not depend on the tokens beside it: of the first, the
        middle one and the last. *Mutates* the pages."""
        together = self.run(inputs)
        for token in (0, case.num_tokens // 2, case.num_tokens - 1):
            only = slice(token, token + 1)
            alone = dataclasses.replace(
                inputs,
                qkv=inputs.qkv[only],
                positions=inputs.positions[only],
                slots=inputs.slots[only],
                storage=inputs.storage.clone().fill_(torch.nan),
            )
            assert_same_bits(self.run(alone)[0], together[token])
            page, offset = divmod(int(inputs.slots[token]), case.page_size)
            assert_same_bits(alone.keys[page, offset], inputs.keys[page, offset])
            assert_same_bits(alone.values[page, offset], inputs.values[page, offset])

    def check_padding(self, inputs: KVStoreInputs) -> None:
        """Tokens without slots are stored nowhere. *Mutates* nothing."""
        slots = torch.full_like(inputs.slots, -1)
        padded = dataclasses.replace(inputs, slots=slots, positions=torch.zeros_like(slots))
        before = padded.storage.clone()
        query = self.run(padded)
        assert_same_bits(padded.storage, before)
        assert query.isfinite().all()

    def check_strides(self, inputs: KVStoreInputs) -> None:
        """Rows of the projection, pages and slots may lie apart. *Mutates* the pages."""
        num_pages, page_size, num_kv_heads, head_dim = inputs.keys.shape
        num_tokens, width = inputs.qkv.shape
        wide = inputs.qkv.new_full((num_tokens, 2 * width + 11), torch.nan)
        wide[:, 7 : 7 + width] = inputs.qkv
        # Keys of a page beside something else of it; then keys of a slot beside something else.
        by_page = inputs.keys.new_full((num_pages, 3, page_size, num_kv_heads, head_dim), torch.nan)
        by_slot = inputs.keys.new_full((num_pages, page_size, 2, num_kv_heads, head_dim), torch.nan)
        query = self.run(inputs)
        for keys, values in ((by_page[:, 0], by_slot[:, :, 1]), (by_slot[:, :, 0], by_page[:, 1])):
            again = self._kernel(
                wide[:, 7 : 7 + width],
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


def with_unstored_tokens(case: KVStoreCase, inputs: KVStoreInputs) -> KVStoreInputs:
    """Every third token's slot is -1, and no token's the last, which ``check`` lets torch have."""
    spare = inputs.storage.shape[2] * case.page_size - 1
    slots = inputs.slots.clone()
    slots[1::3] = -1
    slots[slots == spare] = -1
    return dataclasses.replace(inputs, slots=slots)
