"""The one interface between a model and whatever computes attention for it.

A forward batch is flat: the tokens of all rows of a step, one after the other, with no padding
(``T`` tokens, ``B`` rows). A row is one request's share of the step, be it a chunk of a long prompt
or a single new token; attention treats both alike. Everything is passed explicitly; there is no
module-level context.

    rows            |-- row 0: 5 tokens --|- row 1: 1 -|-- row 2: 3 --|
    input_ids[T]      a   b   c   d   e        f         g   h   i
    positions[T]      0   1   2   3   4        17        8   9   10
    query_start[B+1]  0                        5         6             9
    context_lens[B]   5                        18        11                (keys, new ones included)

This module knows tensors and page tables; it knows no request, no tree and no model.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from radixserve.cascade import NO_CASCADE, Cascade, CascadeCosts


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The tensors of one step. Integer tensors are int32 unless a torch index demands int64."""

    input_ids: torch.Tensor
    """int64[T], on the device."""
    positions: torch.Tensor
    """int64[T], on the device: each token's index in its request."""
    slots: torch.Tensor
    """int64[T], on the device: where each token's keys and values go (page * P + offset)."""
    query_start: torch.Tensor
    """int32[B+1], on the device."""
    context_lens: torch.Tensor
    """int32[B], on the device."""
    page_table: torch.Tensor
    """int32[B, max_pages], on the device; entries past a row's last page are 0 and never read."""
    query_start_host: tuple[int, ...]
    """``query_start`` as Python ints, for planning without reading a device tensor back."""
    context_lens_host: tuple[int, ...]
    """``context_lens`` as Python ints."""
    logits_indices: torch.Tensor
    """int64[S], on the device: the flat indices of the tokens whose logits are wanted."""
    cascade: Cascade = NO_CASCADE
    """What the rows share, and is worth reading once."""

    @property
    def num_tokens(self) -> int:
        return self.query_start_host[-1]

    @property
    def num_rows(self) -> int:
        return len(self.context_lens_host)


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The numbers that every layer of a model shares."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    page_size: int


class AttentionBackend(Protocol):
    """Causal, grouped-query, paged attention over a ragged batch."""

    name: str
    """What the setting ``attention`` calls it."""
    cascade_costs: CascadeCosts | None
    """When it pays to read what rows share once; None: it never does, a batch's cascade is not
    looked at."""

    def plan(self, batch: ForwardBatch) -> Any:
        """Do, once per step, the work that all layers share. Returns what ``forward`` wants."""
        ...

    def forward(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        batch: ForwardBatch,
        plan: Any,
    ) -> torch.Tensor:
        """Attend. The step's own keys and values are in their pages already.

        ``query``: [T, num_heads, head_dim], rotated. ``keys``, ``values``: one layer's share of the
        KV tensors, [num_pages, page_size, num_kv_heads, head_dim]. Returns
        [T, num_heads * head_dim].
        """
        ...


@runtime_checkable
class GraphAttention(AttentionBackend, Protocol):
    """A backend whose decode steps can be captured in a CUDA graph and replayed.

    A graph replays its launches with the very addresses and grids of its capture. So a decode
    step's plan is copied into a static one, made once, which every graph was captured with.
    """

    def static_plan(self, max_rows: int, dtype: torch.dtype) -> Any:
        """A plan of fixed addresses for batches of up to ``max_rows`` one-token rows; no row yet.

        ``dtype``: of queries, keys and values. ``forward`` with it launches the same grids whatever
        it holds; its result is valid until the next call.
        """
        ...

    def load_plan(self, static: Any, plan: Any) -> bool:
        """Copy a decode step's plan into the static one, without waiting for the device.

        Returns False, with nothing copied, if it does not fit: then the step runs without a graph.
        *Mutates* ``static``.
        """
        ...
