"""transformers in a process of its own: requests in as JSON lines, answers out likewise.

    python -m peers_parts.transformers_worker

A process of its own, so that it waits for its threads as is best for it, not as radixserve does.
Knows nothing of radixserve; times are taken here. Each run begins with an empty cache.

Continuous batching reads a mask over its whole cache in every layer of every step, and by default
makes that cache as large as memory allows: here it gets no more than a workload needs, which makes
it several times faster. (Tried besides: 2,048 tokens a batch instead of 512, 0.66 to 1.02 of its
speed; eager attention, 0.8.) Plain ``generate`` pads all prompts to one length (here they have one)
and shares no prefix.
"""

import logging
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    ContinuousBatchingConfig,
    GenerationConfig,
    LogitsProcessorList,
)

from peers_parts.serving import serve_stdio

PAGE_SIZE = 32
PAGES_TO_SPARE = 8
BATCH_TOKENS = 512


class Clock:
    """A processor of logits that changes none and remembers when they came."""

    def __init__(self) -> None:
        self.times_s: list[float] = []

    def __call__(self, _token_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.times_s.append(time.perf_counter())
        return scores


def in_parts(begun_s: float, times_s: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The time until every prompt had its first token, and of each step from then on until the
    first prompt ends. ``times_s``: of each prompt's tokens."""
    latest = max(times_s, key=lambda times: times[0])
    ends_s = min(times[-1] for times in times_s)
    # Half a step's tolerance: the tokens of one step come microseconds apart.
    steps = [step for step in pairwise(latest) if sum(step) / 2 < ends_s]
    return {
        "prefill_s": latest[0] - begun_s,
        "step_ms": [(after - before) * 1e3 for before, after in steps],
    }


class Worker:
    """One model, if told to load it. A method of a request's name answers it."""

    def __init__(self) -> None:
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        self._model: Any = None

    def load(self, checkpoint: str) -> None:
        """In bfloat16."""
        self._model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
        # Whatever comes, an answer has the length that was asked for.
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0

    def batched(self, prompts: list[list[int]], shared: int, new: int) -> dict[str, Any]:
        """Continue every prompt by ``new`` tokens, by continuous batching. Seconds in all and of
        the prefill, milliseconds of each decode step, and the tokens in no order."""
        pages = -(-shared // PAGE_SIZE)
        pages += sum(-(-(len(prompt) - shared + new) // PAGE_SIZE) for prompt in prompts)
        batching = ContinuousBatchingConfig(
            page_size=PAGE_SIZE,
            num_blocks=pages + PAGES_TO_SPARE,
            max_batch_tokens=BATCH_TOKENS,
        )
        config = GenerationConfig(
            max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        begun = time.perf_counter()
        outputs = self._model.generate_batch(
            prompts,
            generation_config=config,
            continuous_batching_config=batching,
            record_timestamps=True,
            progress_bar=False,
        )
        total_s = time.perf_counter() - begun
        tokens = [list(output.generated_tokens) for output in outputs.values()]
        parts = in_parts(begun, [output.timestamps for output in outputs.values()])
        return {"total_s": total_s, "tokens": tokens, **parts}

    def plain(self, prompts: list[list[int]], new: int) -> dict[str, Any]:
        """The same by ``generate``; the tokens by prompt. All prompts have one length."""
        inputs = torch.tensor(prompts)
        clock = Clock()
        begun = time.perf_counter()
        output = self._model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=new,
            do_sample=False,
            logits_processor=LogitsProcessorList([clock]),
        )
        total_s = time.perf_counter() - begun
        tokens = output[:, inputs.shape[1] :].tolist()
        return {"total_s": total_s, "tokens": tokens, **in_parts(begun, [clock.times_s])}


if __name__ == "__main__":
    serve_stdio(Worker())
