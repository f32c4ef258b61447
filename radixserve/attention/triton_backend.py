"""Attention by the Triton kernels: the backend for GPUs, and under the interpreter for any CPU.

A step is cut into items on the host (``paged_attention.work``), sent in one copy, and every layer
launches the same work. What the batch's cascade says that rows share is read once, by items of
levels. Partial results lie in one room of fixed size, which layers and steps share, since they
follow one another on one stream; a step whose partial results exceed it is attended in waves, a few
rows after the other.

Decode steps can be captured in CUDA graphs: a static plan has tensors of fixed addresses and sizes,
and its launches read from the device how much of them counts. A step of several waves runs without
a graph, and so does one of more items than the static plan holds.

A step's first layer is checked; the others, whose tensors are like it in all but their contents,
are launched without asking again, since that would take the host longer than a launch.

Knows no page and no request. Imports triton, so the registry imports it only where it is asked for.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from radixserve.attention.base import AttentionShape, ForwardBatch
from radixserve.cascade import Cascade, CascadeCosts
from radixserve.device.transfer import Transfer
from radixserve.errors import ConfigError
from radixserve_kernels.paged_attention.device_work import DeviceWork, new_partials, partial_bytes
from radixserve_kernels.paged_attention.items import (
    ITEM_FIELDS,
    MERGE_FIELDS,
    IntArray,
    TileShape,
    tile_shape,
)
from radixserve_kernels.paged_attention.launch import (
    PreparedAttention,
    check_attention,
    launch_attention,
    prepare_attention,
)
from radixserve_kernels.paged_attention.level_work import LEVEL_FIELDS, NO_LEVELS
from radixserve_kernels.paged_attention.splits import (
    MAX_ROW_PARTIALS,
    MAX_SPLITS,
    SPLIT_TOKENS,
    least_length,
)
from radixserve_kernels.paged_attention.waves import plan_waves

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
    short_only: DeviceWork | None = None
    """A static plan's work without its tall items, which batches of few tokens cannot have: these
    are spared a launch in each layer."""
    prepared: PreparedAttention | None = None
    """How it is launched, once the first layer has passed the checks."""


class TritonAttention:
    """``GraphAttention`` by ``radixserve_kernels.paged_attention``."""

    name = "triton"
    cascade_costs: CascadeCosts | None

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
        self.cascade_costs = cascade_costs(shape)
        self._num_slots = max(MAX_ROW_PARTIALS, ROOM_BYTES // partial_bytes(num_heads, head_dim))
        self._room = new_partials(self._num_slots, num_heads, head_dim, transfer.device)

    def plan(self, batch: ForwardBatch) -> TritonPlan:
        """Cut the step into items. *Cost*: 100 to 500 microseconds of the host, and one copy."""
        waves = plan_waves(
            np.array(batch.query_start_host, dtype=np.int32),
            np.array(batch.context_lens_host, dtype=np.int32),
            self._tiles,
            self._num_slots,
            _levels(batch.cascade, self._shape.page_size),
        )
        there = iter(self._transfer.put(*(array for work in waves for array in work.arrays)))
        return TritonPlan(
            tuple(
                DeviceWork(
                    next(there),
                    next(there),
                    next(there),
                    next(there),
                    next(there),
                    *self._room,
                    has_levels=work.has_levels,
                )
                for work in waves
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
        waves = plan.waves
        if plan.short_only is not None and _is_short(len(query), self._tiles):
            waves = (plan.short_only,)
        for work in waves:
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

        # A short item leaves a partial result or is its row's only one. A tall one is of a level,
        # and leaves those of the tokens that make it tall; the last of a level's tiles may be of
        # fewer, but then the others are of more. What does not fit runs without a graph.
        num_partials = min(max_rows * MAX_SPLITS, self._num_slots)
        least_tall = self._tiles.short // self._tiles.group + 1
        num_tall = 0 if _is_short(max_rows, self._tiles) else num_partials // least_tall
        work = DeviceWork(
            counts=zeros(3),
            short_items=zeros(num_partials + max_rows, ITEM_FIELDS),
            tall_items=zeros(num_tall, ITEM_FIELDS),
            merges=zeros(max_rows, MERGE_FIELDS),
            first_slots=zeros(max_rows),
            partials=self._room[0],
            partial_lse=self._room[1],
            is_static=True,
            has_levels=True,
        )
        short_only = replace(work, tall_items=work.tall_items[:0])
        shape = (max_rows, self._shape.num_heads, self._shape.head_dim)
        out = torch.zeros(shape, dtype=dtype, device=device)
        return TritonPlan((work,), out, short_only)

    def load_plan(self, static: TritonPlan, plan: TritonPlan) -> bool:
        """See ``GraphAttention.load_plan``. *Cost*: a few small copies on the device."""
        if len(plan.waves) != 1:
            return False
        sources, targets = (
            (work.counts, work.short_items, work.tall_items, work.merges, work.first_slots)
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


def cascade_costs(shape: AttentionShape) -> CascadeCosts:
    """When a level pays, counted in bytes against those of a key and its value in 16 bits.

    A new token behind a level has one partial result more than by itself at most, as both are cut
    in the same places: written and read again in float32. And since a level's end is rounded down
    to a split's, each of its rows reads half a split of it by itself, on the average. A level costs
    no launch, as there is one for all; but its last program ends later than the others, by about
    the time that a split takes. Unmeasured.
    """
    key_bytes = 2 * 2 * shape.num_kv_heads * shape.head_dim
    split = least_length(shape.num_heads // shape.num_kv_heads, SPLIT_TOKENS)
    extra = 2 * partial_bytes(shape.num_heads, shape.head_dim) / key_bytes
    return CascadeCosts(level_keys=split, token_keys=split / 2 + extra)


def _levels(cascade: Cascade, page_size: int) -> IntArray:
    """The cascade's levels as ``level_work`` takes them: in keys, not in pages."""
    if not cascade.levels:
        return NO_LEVELS
    fields = [
        (level.first_row, level.end_row, level.first_page, level.end_page)
        for level in cascade.levels
    ]
    levels = np.array(fields, dtype=np.int32).reshape(-1, LEVEL_FIELDS)
    levels[:, 2:] *= page_size
    return levels


def _is_short(num_tokens: int, tiles: TileShape) -> bool:
    """Whether one-token rows, so many, have no tall item: not even a level of them all."""
    return num_tokens * tiles.group <= tiles.short
