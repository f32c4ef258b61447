"""Attention by the Triton kernels: the backend for GPUs, and under the interpreter for any CPU.

A step is cut into items on the host (``paged_attention.work``), sent in one copy, and every layer
launches the same work. Partial results of split keys lie in one room of fixed size, which layers
and steps share, since they follow one another on one stream; a step whose partial results exceed it
is attended in waves, a few rows after the other.

Decode steps can be captured in CUDA graphs: a static plan has tensors of fixed addresses and sizes,
and its launches read from the device how much of them counts. A step of several waves runs without
a graph.

A step's first layer is checked; the others, whose tensors are like it in all but their contents,
are launched without asking again, since that would take the host longer than a launch.

Knows no page and no request. Imports triton, so the registry imports it only where it is asked for.
"""

from dataclasses import dataclass

import numpy as np
import torch

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.cascade import CascadeCosts
from radixserve.device.transfer import Transfer
from radixserve.errors import ConfigError
from radixserve_kernels.paged_attention.launch import (
    DeviceWork,
    PreparedAttention,
    check_attention,
    launch_attention,
    new_partials,
    partial_bytes,
    prepare_attention,
)
from radixserve_kernels.paged_attention.work import (
    ITEM_FIELDS,
    MAX_ROW_PARTIALS,
    MAX_SPLITS,
    MERGE_FIELDS,
    plan_waves,
    tile_shape,
)

ROOM_BYTES = 256 << 20
"""What partial results may take. Enough for 254 decode rows of the longest contexts at 32 heads of
128 (64 splits of 16.1 KiB each)."""


@dataclass(slots=True)
class TritonPlan:
    """One step's work on the device."""

    waves: tuple[DeviceWork, ...]
    """One after the other; one, unless the partial results of one would exceed the room."""
    out: torch.Tensor | None = None
    """A static plan's result, [max_rows, num_heads, head_dim]. Rows of padding, which no item has,
    hold what an earlier step or nobody left: numbers at any rate, so that nothing overflows on the
    way through the rest of the model."""
    prepared: PreparedAttention | None = None
    """How it is launched, once the first layer has passed the checks."""


class TritonAttention:
    """``GraphAttention`` by ``radixserve_kernels.paged_attention``."""

    name = "triton"
    cascade_costs: CascadeCosts | None = None

    def __init__(self, shape: AttentionShape, transfer: Transfer) -> None:
        """*Raises* ``ConfigError`` for head sizes and groups that the kernels do not know, and for
        GPUs whose shared memory is too small for them.
        *Cost*: reserves ``ROOM_BYTES`` on the device."""
        self._shape = shape
        self._transfer = transfer
        try:
            for dtype in (torch.bfloat16, torch.float32):
                self._prepared(dtype)
            self._tiles = tile_shape(shape.num_heads // shape.num_kv_heads)
        except ValueError as error:
            raise ConfigError(
                f"attention 'triton' does not fit this model: {error}; use attention 'torch'"
            ) from error
        num_heads, head_dim = shape.num_heads, shape.head_dim
        self._num_slots = max(MAX_ROW_PARTIALS, ROOM_BYTES // partial_bytes(num_heads, head_dim))
        self._room = new_partials(self._num_slots, num_heads, head_dim, transfer.device)

    def plan(self, batch: ForwardBatch) -> TritonPlan:
        """Cut the step into items. *Cost*: some 100 microseconds of the host, and one copy."""
        waves = plan_waves(
            np.array(batch.query_start_host, dtype=np.int32),
            np.array(batch.context_lens_host, dtype=np.int32),
            self._tiles,
            self._num_slots,
        )
        arrays = []
        for work in waves:
            lengths = [len(work.short_items), len(work.tall_items), len(work.merges)]
            counts = np.array(lengths, dtype=np.int32)
            arrays += [counts, work.short_items, work.tall_items, work.merges]
        there = iter(self._transfer.put(*arrays))
        return TritonPlan(
            tuple(
                DeviceWork(next(there), next(there), next(there), next(there), *self._room)
                for _ in waves
            )
        )

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        batch: ForwardBatch,
        plan: TritonPlan,
    ) -> torch.Tensor:
        """See ``AttentionBackend.forward``. *Mutates* ``plan``: it remembers the checks.
        *Raises* ``ValueError`` for a first layer's tensors that do not fit.
        *Cost*: at most three launches a wave."""
        out = torch.empty_like(query) if plan.out is None else plan.out[: len(query)]
        if plan.prepared is None:
            for work in plan.waves:
                check_attention(query, keys, values, batch.page_table, work, out)
            shape = self._shape
            assert keys.shape[1:] == (shape.page_size, shape.num_kv_heads, shape.head_dim)
            assert query.shape[1] == shape.num_heads
            plan.prepared = self._prepared(query.dtype)
        for work in plan.waves:
            launch_attention(plan.prepared, query, keys, values, batch.page_table, work, out)
        return out.flatten(1)

    def _prepared(self, dtype: torch.dtype) -> PreparedAttention:
        shape = self._shape
        return prepare_attention(
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            shape.page_size,
            dtype,
            self._transfer.device,
            scale=shape.scale,
        )

    def static_plan(self, max_rows: int, dtype: torch.dtype) -> TritonPlan:
        """See ``GraphAttention.static_plan``."""
        device = self._transfer.device

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        # A row's short items are its partial results, or the one that needs none.
        num_items = min(max_rows * MAX_SPLITS, self._num_slots + max_rows)
        work = DeviceWork(
            counts=zeros(3),
            short_items=zeros(num_items, ITEM_FIELDS),
            tall_items=zeros(0, ITEM_FIELDS),
            merges=zeros(max_rows, MERGE_FIELDS),
            partials=self._room[0],
            partial_lse=self._room[1],
        )
        shape = (max_rows, self._shape.num_heads, self._shape.head_dim)
        return TritonPlan((work,), torch.zeros(shape, dtype=dtype, device=device))

    def load_plan(self, static: TritonPlan, plan: TritonPlan) -> bool:
        """See ``GraphAttention.load_plan``. *Cost*: one to three small copies on the device."""
        if len(plan.waves) != 1:
            return False
        sources, targets = (
            (work.counts, work.short_items, work.tall_items, work.merges)
            for work in (plan.waves[0], static.waves[0])
        )
        if any(len(source) > len(target) for source, target in zip(sources, targets, strict=True)):
            return False
        torch._foreach_copy_(
            [target[: len(source)] for source, target in zip(sources, targets, strict=True)],
            list(sources),
            non_blocking=True,
        )
        return True
