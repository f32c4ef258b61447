"""Decode steps as CUDA graphs: one launch instead of some fifteen per layer.

A graph is a recording of a forward pass with its addresses and sizes. So there is one per batch
size of a short list, each recorded over the same static inputs, and a step of ``B`` one-token rows
is copied into them and runs as the next larger size:

    batch of 3 rows ──copy──▶ | r0 | r1 | r2 | padding |   the recording for 4 rows
                                              slot -1: stores nothing; no keys, no attention

What a padding row computes is read by nobody. A recording ends before the last product: its result
is a few hidden states, where logits would take hundreds of megabytes over all sizes. Replays come
one after the other on one stream, so all recordings share one pool of memory, and a result is valid
until the next replay is queued.

How a recording is made is ``Recorder``'s: ``CudaRecorder`` on a GPU. Tests bring one that simply
runs the function again, so that everything else here is exercised without a GPU.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm

from radixserve.attention.base import ForwardBatch, GraphAttention

Forward = Callable[[ForwardBatch, Any], torch.Tensor]
"""A batch and its attention plan to hidden states behind the last norm, device work only."""


class Recorder(Protocol):
    """Turns device work into something that can be run again."""

    def record(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """``run`` may be called several times. The result queues what it queued, and returns the
        tensor that it returned, computed anew."""
        ...


class CudaRecorder:
    """CUDA graphs that share one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def record(self, run: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        # Once outside, so that nothing is compiled, loaded or tuned while recording.
        run()
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = run()
        self._pool = graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay


def graph_sizes(max_rows: int) -> list[int]:
    """Batch sizes worth a recording, ascending: powers of two up to 32, then every 32, ``max_rows``
    last. A step's cost hardly grows within a stretch: it is the weights' reading."""
    sizes = [size for size in (1, 2, 4, 8, 16, 32) if size < max_rows]
    return [*sizes, *range(64, max_rows, 32), max_rows]


class DecodeGraphs:
    """Recorded decode steps of up to ``max_rows`` rows, over static inputs."""

    def __init__(
        self,
        attention: GraphAttention,
        *,
        max_rows: int,
        max_pages: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """``max_pages``: the longest page table that a row can have."""
        self._attention = attention
        self._plan = attention.static_plan(max_rows, dtype)
        self._input_ids = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._positions = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._slots = torch.full((max_rows,), -1, dtype=torch.int64, device=device)
        self._query_start = torch.arange(max_rows + 1, dtype=torch.int32, device=device)
        self._context_lens = torch.zeros(max_rows, dtype=torch.int32, device=device)
        self._page_table = torch.zeros(max_rows, max_pages, dtype=torch.int32, device=device)
        self._rows = torch.arange(max_rows, dtype=torch.int64, device=device)
        self._recordings: dict[int, Callable[[], torch.Tensor]] = {}
        self.sizes: tuple[int, ...] = ()
        """The recorded batch sizes, ascending."""

    def record(
        self, forward: Forward, recorder: Recorder, sizes: Sequence[int], *, progress: bool
    ) -> None:
        """Record ``forward`` at every size, the largest first: the others fit into its memory.

        ``progress`` draws a bar on stderr if that is a terminal. *Cost*: two forward passes each.
        """
        for size in tqdm(
            sorted(sizes, reverse=True),
            desc="Recording decode graphs",
            # None: draw only on a terminal.
            disable=None if progress else True,
        ):
            batch = self._static_batch(size)

            def run(batch: ForwardBatch = batch) -> torch.Tensor:
                return forward(batch, self._plan)

            self._recordings[size] = recorder.record(run)
        self.sizes = tuple(sorted(self._recordings))

    def run(self, batch: ForwardBatch, plan: Any) -> torch.Tensor | None:
        """Hidden states [B, hidden_size] of a batch of one-token rows that all want logits; None if
        no recording fits.

        ``plan`` is what the attention backend made of the batch. *Mutates* the static inputs and
        the KV tensors. The result is valid until the next replay. *Cost*: a dozen small copies and
        one launch.
        """
        num_rows = batch.num_rows
        size = next((size for size in self.sizes if size >= num_rows), None)
        if size is None or batch.num_tokens != num_rows or len(batch.logits_indices) != num_rows:
            return None
        width = batch.page_table.shape[1]
        if width > self._page_table.shape[1] or not self._attention.load_plan(self._plan, plan):
            return None
        self._input_ids[:num_rows].copy_(batch.input_ids)
        self._positions[:num_rows].copy_(batch.positions)
        self._slots[:num_rows].copy_(batch.slots)
        self._context_lens[:num_rows].copy_(batch.context_lens)
        self._page_table[:num_rows, :width].copy_(batch.page_table)
        if size > num_rows:
            self._slots[num_rows:size].fill_(-1)
            self._context_lens[num_rows:size].zero_()
        return self._recordings[size]()[:num_rows]

    def _static_batch(self, size: int) -> ForwardBatch:
        return ForwardBatch(
            input_ids=self._input_ids[:size],
            positions=self._positions[:size],
            slots=self._slots[:size],
            query_start=self._query_start[: size + 1],
            context_lens=self._context_lens[:size],
            page_table=self._page_table[:size],
            query_start_host=tuple(range(size + 1)),
            context_lens_host=(0,) * size,
            logits_indices=self._rows[:size],
        )
