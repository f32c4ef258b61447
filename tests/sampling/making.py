"""Rows to sample, and the plainest sampler that means the same.

Kernels choose on ``DEVICE``: a GPU, or the CPU under Triton's interpreter. The host chooses on the
CPU.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch

from radixserve.device.transfer import make_transfer
from radixserve.sampling.noise import uniform
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.sampling.row import SampleRow
from radixserve.sampling.sampler import Sampler
from radixserve.types import SampledToken
from tests.kernels.judging import DEVICE


class Choice:
    """The identity of a choice, which a test can drop."""


def place_of(*, use_kernel: bool) -> torch.device:
    """Where the logits of a sampler with or without kernels are."""
    return DEVICE if use_kernel else torch.device("cpu")


def make_sampler(vocab_size: int, *, use_kernel: bool = False) -> Sampler:
    transfer = make_transfer(place_of(use_kernel=use_kernel))
    return Sampler(vocab_size, transfer, use_kernel=use_kernel)


def sample(
    vocab_size: int, logits: torch.Tensor, rows: Sequence[SampleRow], *, use_kernel: bool = False
) -> list[SampledToken | None]:
    """One step of a sampler that has seen nothing."""
    there = logits.to(place_of(use_kernel=use_kernel))
    return make_sampler(vocab_size, use_kernel=use_kernel).launch(there, rows).wait()


def make_row(
    logits_row: int = 0,
    *,
    seed: int = 0,
    position: int = 0,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
    banned: Collection[int] = (),
    choice: object = None,
    pending: int | None = None,
    **params: Any,
) -> SampleRow:
    resolved = SamplingParams(**params).resolve(SamplingDefaults(), max_tokens=100, seed=seed)
    return SampleRow(
        logits_row=logits_row,
        params=resolved,
        seed=seed,
        position=position,
        prompt_ids=np.array(prompt, dtype=np.int32),
        output_ids=np.array(output, dtype=np.int32),
        banned_ids=banned,
        choice=Choice() if choice is None else choice,
        pending=pending,
    )


def kept_tokens(logits: torch.Tensor, params: SamplingParams) -> list[tuple[int, float]]:
    """(token, weight) of what temperature, top-k, top-p and min-p leave, best first."""
    assert params.temperature
    assert params.top_k is not None
    assert params.top_p is not None
    assert params.min_p is not None
    scaled = (logits.float() - logits.float().max()) / params.temperature
    ranked = sorted(enumerate(scaled.tolist()), key=lambda pair: (-pair[1], pair[0]))
    if params.top_k:
        ranked = ranked[: params.top_k]
    weights = [(token, math.exp(value)) for token, value in ranked]
    total = math.fsum(weight for _, weight in weights)
    kept: list[tuple[int, float]] = []
    before = 0.0
    for token, weight in weights:
        within = before < params.top_p * total or params.top_p == 1.0
        if not kept or (within and weight >= params.min_p):
            kept.append((token, weight))
        before += weight
    return kept


def draw(kept: list[tuple[int, float]], row: SampleRow) -> int:
    """Inverse CDF over ``kept``, in the order of ids."""
    kept = sorted(kept)
    target = uniform(row.seed, row.position) * math.fsum(weight for _, weight in kept)
    for token, weight in kept:
        target -= weight
        if target < 0:
            return token
    return kept[-1][0]
