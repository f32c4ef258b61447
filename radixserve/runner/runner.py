"""Performs a planned step: moves between tiers, page copies, one forward pass, one sampling.

    launch(plan)   queues all of it on the device and returns
    wait()         the tokens that it sampled, when they are there

Steps run in the order launched. On a GPU up to two may be under way, so that the next is queued
before the host knows what the one before it sampled: those tokens are on the device, and the next
step takes them from there. A launch never waits for the device; the only wait is for the read-back
of a step's tokens. On a CPU a launch has run when it returns.

The runner owns the model's weights, the KV tensors and the buffers of a step, and reads requests
without ever changing one. It decides nothing: which tokens run, in which pages, and what becomes of
the result is the scheduler's.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from radixserve.attention.base import AttentionBackend, ForwardBatch, GraphAttention
from radixserve.cache.prefix_cache import PageCopy
from radixserve.cascade import CascadeCosts
from radixserve.config import BatchLimits
from radixserve.device.lost import losing_device
from radixserve.device.transfer import Fetch, Transfer
from radixserve.ids import PageId
from radixserve.model.causal_lm import CausalLM
from radixserve.model.ops import LayerOps
from radixserve.request import Request
from radixserve.runner.batch import BatchBuilder, BatchRow
from radixserve.runner.graphs import DecodeGraphs, Recorder
from radixserve.runner.host_pages import NOTHING_MOVED, HostPages, Moving
from radixserve.runner.kv_tensors import KVTensors
from radixserve.sampling.noise import choice_seed
from radixserve.sampling.row import SampleRow
from radixserve.sampling.sampler import Sampler, Samples
from radixserve.sampling.scoring import ScoreRow, Scores, launch_scores
from radixserve.scheduler.plan import PlannedRow, StepPlan, StepResult
from radixserve.types import SampledToken, TokenLogprob

if TYPE_CHECKING:
    from radixserve.model.decode_calls import DecodeCalls


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerInfo:
    """What was decided and found while the runner was made."""

    architecture: str
    num_parameters: int
    vocab_size: int
    max_model_len: int
    device: str
    dtype: str
    """Of activations, keys and values, and of weights that are not quantised."""
    quantization: str = "none"
    attention: str
    page_size: int
    num_pages: int
    kv_cache_bytes: int
    num_host_pages: int = 0
    """Pages in the host tier; 0: there is none."""
    cascade_costs: CascadeCosts | None = None
    """When it pays to read once what rows share; None: rows are not to be looked at for it."""
    limits: BatchLimits


class LaunchedStep:
    """A step under way."""

    def __init__(
        self,
        rows: Sequence[PlannedRow],
        samples: Samples | None,
        scores: Scores | None,
        end: Fetch,
        moving: Moving,
    ) -> None:
        self._rows = rows
        self._samples = samples
        self._scores = scores
        self._end = end
        self._moving = moving

    def wait(self) -> StepResult:
        """What the step sampled. Blocks until the step has run and its moves are done, also where
        it sampled nothing: whoever launches must not run away from the device. *Raises*
        ``DeviceLostError``."""
        with losing_device():
            self._end.wait()
            moved_s = self._moving.wait()
            sampled = self._samples.wait() if self._samples is not None else []
            scores = self._scores.wait() if self._scores is not None else []
        return StepResult(_by_row(self._rows, sampled), _scores_by_row(self._rows, scores), moved_s)


class ModelRunner:
    """One model on one device."""

    def __init__(
        self,
        model: CausalLM,
        kv: KVTensors,
        attention: AttentionBackend,
        ops: LayerOps,
        sampler: Sampler,
        transfer: Transfer,
        info: RunnerInfo,
        *,
        host_pages: HostPages | None = None,
        max_in_flight: int = 1,
    ) -> None:
        """Without ``host_pages`` no plan may have moves."""
        self.info = info
        self.host_pages = host_pages
        self.max_in_flight = max_in_flight
        """How many steps may be launched before the first of them is waited for."""
        self._model = model
        self._kv = kv
        self._attention = attention
        self._ops = ops
        self._sampler = sampler
        self._transfer = transfer
        self._batches = BatchBuilder(kv.page_size, transfer)
        self._graphs: DecodeGraphs | None = None
        self._decode_calls: DecodeCalls | None = None
        self._sampled: torch.Tensor | None = None
        self._pending: dict[Request, int] = {}
        """Whose token is where in ``_sampled``: of the last step launched that had rows."""

    def launch(self, plan: StepPlan) -> LaunchedStep:
        """Queue one step. Its plan has rows, or moves, or both.

        *Mutates* the slots and pages that ``plan.moves`` go to, then the targets of ``plan.copies``
        and the slots of the rows' tokens. *Raises* ``DeviceLostError``.
        """
        with losing_device(), torch.inference_mode():
            moving = self._move(plan)
            if not plan.rows:
                assert not plan.copies, "copies go with the rows of their leases"
                # What the last step sampled stays pending: this one samples nothing.
                return LaunchedStep((), None, None, self._transfer.fetch(), moving)
            try:
                return self._launch_rows(plan, moving)
            except BaseException:
                # Whoever is told that the step has failed takes its slots for free.
                moving.wait()
                raise

    def _move(self, plan: StepPlan) -> Moving:
        if self.host_pages is None:
            assert not plan.moves, f"moves, and no host pages: {plan.moves}"
            return NOTHING_MOVED
        return self.host_pages.perform(plan.moves)

    def _launch_rows(self, plan: StepPlan, moving: Moving) -> LaunchedStep:
        self._kv.copy_pages(plan.copies)
        built = self._batches.build([self._batch_row(row) for row in plan.rows], plan.cascade)
        built.fill_in(self._sampled)
        score_rows = _score_rows(plan.rows)
        hidden, logits = self._forward(built.batch, by_recording=not score_rows)
        sample_rows = self._sample_rows(plan.rows)
        num_sampled = sum(row.num_samples > 0 for row in plan.rows)
        samples = scores = None
        if sample_rows:
            if logits is None:
                logits = self._model.logits(hidden[:num_sampled])
            samples = self._sampler.launch(logits, sample_rows, self._sampled)
        if score_rows:
            scores = launch_scores(
                hidden[num_sampled:],
                self._model.logits,
                score_rows,
                self._transfer,
                vocab_size=self.info.vocab_size,
            )
        self._sampled = samples.token_ids if samples is not None else None
        self._pending = _pending_tokens(plan.rows)
        return LaunchedStep(plan.rows, samples, scores, self._transfer.fetch(), moving)

    def run(self, plan: StepPlan) -> StepResult:
        """Launch a step and wait for it."""
        return self.launch(plan).wait()

    def warm_up(self, num_tokens: int) -> None:
        """Do what steps do, once: a prompt of ``num_tokens``, a decode step whose input the device
        knows, a copy of a page, sampling. So the first request finds libraries loaded and kernels
        built.

        *Mutates* the first pages: to be called before any page is in use.
        """
        num_pages = -(-num_tokens // self._kv.page_size)
        token_ids = np.zeros(num_tokens, dtype=np.int32)
        pages = np.arange(num_pages, dtype=np.int32)
        sampled = torch.zeros(1, dtype=torch.int64, device=self._model.device)
        with torch.inference_mode():
            for start in (0, num_tokens - 1):
                count, pending = num_tokens - start, 0 if start else None
                row = BatchRow(token_ids, start, count, pages, wants_logits=True, pending=pending)
                built = self._batches.build([row])
                built.fill_in(sampled)
                hidden, _ = self._forward(built.batch, by_recording=True)
            self._sampler.warm_up(self._model.logits(hidden))
            if self._kv.num_pages > 1:
                self._kv.copy_pages([PageCopy(PageId(0), PageId(1))])

    def record_graphs(
        self,
        attention: GraphAttention,
        recorder: Recorder,
        sizes: Sequence[int],
        *,
        progress: bool,
    ) -> None:
        """Record decode steps of these numbers of rows; from now on they run by recordings.

        *Cost*: two forward passes each.
        """
        graphs = DecodeGraphs(
            attention,
            max_rows=max(sizes),
            max_pages=-(-self._model.max_model_len // self._kv.page_size),
            dtype=self._model.dtype,
            device=self._model.device,
        )

        def forward(batch: ForwardBatch, plan: Any) -> torch.Tensor:
            return self._model.hidden(batch, self._kv.layers, attention, self._ops, plan)

        with torch.inference_mode():
            graphs.record(forward, recorder, sizes, progress=progress)
        self._graphs = graphs

    def use_decode_calls(self) -> None:
        """From now on run decode steps of few rows as one call, if this model's products allow it.
        For ``CpuAttention`` with ``CpuOps``. *Cost*: buffers for as many rows as may come."""
        max_rows = self.info.limits.max_running
        self._decode_calls = self._model.decode_calls(self._kv.layers, max_rows)

    def _forward(
        self, batch: ForwardBatch, *, by_recording: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Hidden states [S, hidden_size] of a batch; if it may be, by a recording that fits it, or
        by one call, which may compute the logits too, [S, vocab_size]."""
        plan = self._attention.plan(batch)
        if by_recording and self._decode_calls is not None:
            decoded = self._decode_calls.run(batch, plan)
            if decoded is not None:
                return decoded
        hidden = None
        if by_recording and self._graphs is not None:
            hidden = self._graphs.run(batch, plan)
        if hidden is None:
            hidden = self._model.hidden(batch, self._kv.layers, self._attention, self._ops, plan)
        return hidden, None

    def _batch_row(self, row: PlannedRow) -> BatchRow:
        request = row.request
        assert request.lease is not None, "a planned request holds its pages"
        end = row.start + row.num_scheduled_tokens
        return BatchRow(
            request.token_ids,
            row.start,
            row.num_scheduled_tokens,
            request.lease.page_table,
            row.num_samples > 0,
            self._pending[request] if end > request.num_tokens else None,
            row.num_scores,
        )

    def _sample_rows(self, rows: Sequence[PlannedRow]) -> list[SampleRow]:
        """Every token to be chosen, in the order of the rows."""
        sample_rows = []
        logits_row = 0
        for row in rows:
            if row.num_samples == 0:
                continue
            request, params = row.request, row.request.params
            assert params.seed is not None, "params are resolved"
            position = row.start + row.num_scheduled_tokens
            for sample in range(row.num_samples):
                # A row that chooses several tokens is about to fork; then each is another choice's.
                index = request.index if row.num_samples == 1 else sample
                sample_rows.append(
                    SampleRow(
                        logits_row=logits_row,
                        params=params,
                        seed=choice_seed(params.seed, index),
                        position=position,
                        prompt_ids=request.prompt_ids,
                        output_ids=request.output_ids,
                        pending=self._pending[request] if position > request.num_tokens else None,
                        banned_ids=_banned_ids(request, position),
                        choice=request,
                        mask=request.constraint,
                    )
                )
            logits_row += 1
        return sample_rows


def _score_rows(rows: Sequence[PlannedRow]) -> list[ScoreRow]:
    """Every run of prompt tokens to be scored, in the order of the rows."""
    return [
        ScoreRow(
            row.request.token_ids[row.start + 1 : row.start + 1 + row.num_scores].copy(),
            row.request.params.prompt_logprobs or 0,
        )
        for row in rows
        if row.num_scores
    ]


def _banned_ids(request: Request, position: int) -> Collection[int]:
    if request.constraint is not None:
        # Its mask says when it may end: whoever can do nothing else must.
        return ()
    if position - request.num_prompt_tokens < request.params.min_tokens:
        return request.stop_token_ids
    return ()


def _pending_tokens(rows: Sequence[PlannedRow]) -> dict[Request, int]:
    """Where the samples of a step hold each request's next token. A request about to fork is not
    planned again before its choices are known, so it has no entry."""
    pending: dict[Request, int] = {}
    index = 0
    for row in rows:
        if row.num_samples == 1:
            pending[row.request] = index
        index += row.num_samples
    return pending


def _scores_by_row(
    rows: Sequence[PlannedRow], scores: Sequence[tuple[TokenLogprob, ...]]
) -> tuple[tuple[TokenLogprob, ...], ...]:
    if not scores:
        return ()
    found = iter(scores)
    return tuple(next(found) if row.num_scores else () for row in rows)


def _by_row(
    rows: Sequence[PlannedRow], sampled: Sequence[SampledToken | None]
) -> tuple[tuple[SampledToken | None, ...], ...]:
    if all(row.num_samples == 1 for row in rows):
        # As it nearly always is.
        return tuple(zip(sampled, strict=True))
    tokens = iter(sampled)
    return tuple(tuple(next(tokens) for _ in range(row.num_samples)) for row in rows)
