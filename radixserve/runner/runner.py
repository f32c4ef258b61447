"""Performs a planned step: page copies, one forward pass, one sampling.

The runner owns the model's weights, the KV tensors and the buffers of a step, and reads requests
without ever changing one. It decides nothing: which tokens run, in which pages, and what becomes of
the result is the scheduler's.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from radixserve.attention.base import AttentionBackend
from radixserve.model.causal_lm import CausalLM
from radixserve.request import Request
from radixserve.runner.batch import BatchBuilder, BatchRow
from radixserve.runner.kv_tensors import KVTensors
from radixserve.sampling.noise import choice_seed
from radixserve.sampling.row import SampleRow
from radixserve.sampling.sampler import Sampler
from radixserve.scheduler.plan import PlannedRow, StepPlan, StepResult
from radixserve.types import SampledToken


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerInfo:
    """What was decided and found while the runner was made."""

    architecture: str
    num_parameters: int
    vocab_size: int
    max_model_len: int
    device: str
    dtype: str
    attention: str
    page_size: int
    num_pages: int
    kv_cache_bytes: int


class ModelRunner:
    """One model on one device."""

    def __init__(
        self,
        model: CausalLM,
        kv: KVTensors,
        attention: AttentionBackend,
        sampler: Sampler,
        info: RunnerInfo,
    ) -> None:
        self.info = info
        self._model = model
        self._kv = kv
        self._attention = attention
        self._sampler = sampler
        self._batches = BatchBuilder(kv.page_size, model.device)

    def run(self, plan: StepPlan) -> StepResult:
        """Perform one step. Its plan has at least one row.

        *Mutates* the KV tensors: first the targets of ``plan.copies``, then the slots of the rows'
        tokens.
        """
        with torch.inference_mode():
            self._kv.copy_pages(plan.copies)
            batch = self._batches.build([_batch_row(row) for row in plan.rows])
            logits = self._model.forward(batch, self._kv.layers, self._attention)
            sample_rows = _sample_rows(plan.rows)
            sampled = self._sampler.sample(logits, sample_rows) if sample_rows else []
        return StepResult(_by_row(plan.rows, sampled))

    def warm_up(self, num_tokens: int) -> None:
        """Run a prompt of ``num_tokens`` and a decode step, so that the first request finds
        libraries loaded and kernels built.

        *Mutates* the first pages: to be called before any page is in use.
        """
        num_pages = -(-num_tokens // self._kv.page_size)
        token_ids = torch.zeros(num_tokens, dtype=torch.int32).numpy()
        pages = torch.arange(num_pages, dtype=torch.int32).numpy()
        with torch.inference_mode():
            for start in (0, num_tokens - 1):
                row = BatchRow(token_ids, start, num_tokens - start, pages, wants_logits=True)
                self._model.forward(self._batches.build([row]), self._kv.layers, self._attention)


def _batch_row(row: PlannedRow) -> BatchRow:
    request = row.request
    assert request.lease is not None, "a planned request holds its pages"
    return BatchRow(
        request.token_ids,
        row.start,
        row.num_scheduled_tokens,
        request.lease.page_table,
        row.num_samples > 0,
    )


def _sample_rows(rows: Sequence[PlannedRow]) -> list[SampleRow]:
    """Every token to be chosen, in the order of the rows."""
    sample_rows = []
    logits_row = 0
    for row in rows:
        if row.num_samples == 0:
            continue
        request, params = row.request, row.request.params
        assert params.seed is not None, "params are resolved"
        token_ids = request.token_ids
        for sample in range(row.num_samples):
            # A row that chooses several tokens is about to fork; then each is another choice's.
            index = request.index if row.num_samples == 1 else sample
            sample_rows.append(
                SampleRow(
                    logits_row=logits_row,
                    params=params,
                    seed=choice_seed(params.seed, index),
                    position=row.start + row.num_scheduled_tokens,
                    prompt_ids=token_ids[: request.num_prompt_tokens],
                    output_ids=request.output_ids,
                    banned_ids=_banned_ids(request),
                )
            )
        logits_row += 1
    return sample_rows


def _banned_ids(request: Request) -> Collection[int]:
    if request.num_output_tokens < request.params.min_tokens:
        return request.stop_token_ids
    return ()


def _by_row(
    rows: Sequence[PlannedRow], sampled: Sequence[SampledToken | None]
) -> tuple[tuple[SampledToken | None, ...], ...]:
    tokens = iter(sampled)
    return tuple(tuple(next(tokens) for _ in range(row.num_samples)) for row in rows)
