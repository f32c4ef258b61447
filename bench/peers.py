"""Output tokens per second beside transformers' own continuous batching, in one process.

Both load the same checkpoint in bfloat16 and run the same prompts, greedily, alternating, each
from an empty cache; both share prefixes within a run. The first round of each warms up and is not
counted.

    python bench/peers.py [--rounds 5]
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, GenerationConfig

from radixserve import LLM, SamplingParams
from support.checkpoint import VOCAB_SIZE, bench_checkpoint


@dataclass(frozen=True, slots=True)
class Workload:
    """``num_prompts`` prompts of ``shared + own`` tokens, ``new`` tokens each to generate."""

    num_prompts: int
    shared: int
    own: int
    new: int
    wanted_ratio: float

    @property
    def name(self) -> str:
        shared = f"{self.shared} shared + " if self.shared else ""
        return f"{self.num_prompts} prompts of {shared}{self.own}, {self.new} new"

    def prompts(self) -> list[list[int]]:
        rng = np.random.default_rng(0)
        shared = rng.integers(300, VOCAB_SIZE, self.shared).tolist()
        own = rng.integers(300, VOCAB_SIZE, (self.num_prompts, self.own)).tolist()
        return [shared + one for one in own]


WORKLOADS = (Workload(16, 1024, 32, 32, 4.0), Workload(32, 0, 128, 64, 2.0))


def rate(run: Callable[[], int]) -> float:
    """Output tokens per second of one run."""
    begun_s = time.perf_counter()
    num_tokens = run()
    return num_tokens / (time.perf_counter() - begun_s)


def run_ours(llm: LLM, workload: Workload) -> int:
    llm.clear_cache()
    params = SamplingParams(temperature=0, max_tokens=workload.new, ignore_eos=True)
    outputs = llm.generate(workload.prompts(), params)
    assert all(len(output.token_ids) == workload.new for output in outputs)
    return len(outputs) * workload.new


def run_transformers(model: torch.nn.Module, workload: Workload) -> int:
    config = GenerationConfig(
        max_new_tokens=workload.new, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    outputs = model.generate_batch(  # type: ignore[operator]
        workload.prompts(), generation_config=config, progress_bar=False
    )
    num_tokens = sum(len(output.generated_tokens) for output in outputs.values())
    assert num_tokens == workload.num_prompts * workload.new, num_tokens
    return num_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: 5)")
    rounds = parser.parse_args().rounds
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    facts = print_machine()
    path = bench_checkpoint()
    reference = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    results = []
    with LLM(str(path), dtype="bfloat16", kv_cache_gib=2) as llm:
        for workload in WORKLOADS:
            ours, theirs = [], []
            for _ in tqdm(range(rounds + 1), desc=workload.name):
                ours.append(rate(partial(run_ours, llm, workload)))
                theirs.append(rate(partial(run_transformers, reference, workload)))
            ratio = statistics.median(a / b for a, b in zip(ours[1:], theirs[1:], strict=True))
            results.append(
                {
                    "workload": workload.name,
                    "radixserve_tok_s": round(statistics.median(ours[1:]), 1),
                    "transformers_tok_s": round(statistics.median(theirs[1:]), 1),
                    "spread": [round(min(ours[1:]), 1), round(max(ours[1:]), 1)],
                    "ratio": round(ratio, 2),
                    "wanted_ratio": workload.wanted_ratio,
                }
            )
    print("\n| output tokens/s | radixserve | transformers | ratio | wanted |")
    print("|---|---|---|---|---|")
    for row in results:
        print(
            f"| {row['workload']} | {row['radixserve_tok_s']} | {row['transformers_tok_s']} "
            f"| {row['ratio']}x | {row['wanted_ratio']}x |"
        )
    print(json.dumps({"bench": "peers", "machine": facts, "results": results}))


if __name__ == "__main__":
    main()
