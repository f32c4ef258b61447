"""How much of a GPU's memory is left for KV pages: found by running the largest step.

What a step needs besides weights and pages (hidden states, logits, the sampler's float32 copies,
libraries' workspaces) depends on model, device and versions in ways that no formula keeps up with.
So a step of the most tokens and the most samples runs once, on a few scratch pages, and its peak is
what must stay free.
"""

from typing import Protocol

import numpy as np
import torch

from radixserve.attention.base import AttentionBackend
from radixserve.config import BatchLimits
from radixserve.device.transfer import Transfer
from radixserve.errors import ConfigError
from radixserve.model.causal_lm import CausalLM
from radixserve.model.ops import LayerOps
from radixserve.runner.batch import BatchBuilder, BatchRow
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.sampling.row import SampleRow
from radixserve.sampling.sampler import Sampler

SHARE = 0.92
"""Of what the largest step leaves free, this much becomes KV pages. The rest is for decode graphs,
fragmentation, and whatever else shares the device."""


class DeviceMemory(Protocol):
    """What a device says of its memory, in bytes."""

    def free(self) -> int:
        """What could still be allocated, caches of unused memory given back."""
        ...

    def begin(self) -> None:
        """From now on, keep the peak."""
        ...

    def peak(self) -> int:
        """The most that was allocated at a time since ``begin``, above what was allocated then."""
        ...


class CudaMemory:
    """``DeviceMemory`` of a GPU, as torch's allocator tells it. Waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._allocated = 0

    def free(self) -> int:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(self._device)[0])

    def begin(self) -> None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._allocated = torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        torch.cuda.synchronize(self._device)
        return int(torch.cuda.max_memory_allocated(self._device)) - self._allocated


def available_for_pages(
    memory: DeviceMemory,
    model: CausalLM,
    attention: AttentionBackend,
    ops: LayerOps,
    sampler: Sampler,
    transfer: Transfer,
    *,
    limits: BatchLimits,
    page_size: int,
) -> int:
    """Bytes that may become KV pages: what is free, less what the largest step needs.

    *Raises* ``ConfigError`` if that step alone does not fit. *Cost*: one step.
    """
    try:
        memory.begin()
        _largest_step(model, attention, ops, sampler, transfer, limits, page_size)
        needed = memory.peak()
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"a step of max_batch_tokens ({limits.max_batch_tokens}) tokens does not fit beside "
            f"the weights on {model.device}: {error}; lower max_batch_tokens"
        ) from error
    return max(0, memory.free() - needed)


def _largest_step(
    model: CausalLM,
    attention: AttentionBackend,
    ops: LayerOps,
    sampler: Sampler,
    transfer: Transfer,
    limits: BatchLimits,
    page_size: int,
) -> None:
    """One step of ``max_batch_tokens`` tokens that samples for ``max_running`` rows."""
    longest = min(limits.max_batch_tokens, model.max_model_len)
    num_pages = -(-longest // page_size)
    # All rows and all layers share the pages: what is in them does not matter.
    config, dtype = model.config, model.dtype
    shape = (2, num_pages, page_size, config.num_kv_heads, config.head_dim)
    keys, values = torch.zeros(shape, dtype=dtype, device=model.device)
    pages = np.arange(num_pages, dtype=np.int32)
    token_ids = np.zeros(longest, dtype=np.int32)
    rows = []
    remaining = limits.max_batch_tokens
    for number in range(limits.max_running):
        # One token at least for every row still to come.
        count = min(longest, remaining - (limits.max_running - number - 1))
        rows.append(BatchRow(token_ids, 0, count, pages, wants_logits=True))
        remaining -= count
    batch = BatchBuilder(page_size, transfer).build(rows).batch
    choices = [_Choice() for _ in rows]
    # With penalties, whose counts the sampler keeps room for from now on.
    params = SamplingParams(
        temperature=1.0, top_p=0.9, logprobs=20, repetition_penalty=1.1
    ).resolve(SamplingDefaults(), max_tokens=1, seed=0)
    with torch.inference_mode():
        logits = model.forward(batch, [(keys, values)] * config.num_layers, attention, ops)
        sampler.launch(
            logits,
            [
                SampleRow(
                    logits_row=number,
                    params=params,
                    seed=0,
                    position=row.num_tokens,
                    prompt_ids=token_ids,
                    output_ids=token_ids[:0],
                    pending=None,
                    banned_ids=(),
                    choice=choice,
                )
                for number, (row, choice) in enumerate(zip(rows, choices, strict=True))
            ],
        ).wait()


class _Choice:
    """Whose history the sampler counts: alive until the step has run."""
