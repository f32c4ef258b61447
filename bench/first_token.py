"""Time to first token behind a cached prefix, and what a long prompt does to others' streams.

    python bench/first_token.py [--rounds 15]

One model (88M parameters, bfloat16), in-process, token ids in. Three prompts take turns: 16 tokens
alone, the same number behind a cached prefix of 4,096, and all 4,112 uncached. Then eight streams
decode while a prompt of 4,096 tokens prefills, paced as the server paces; a gap is the time between
two tokens of a stream.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import json
import statistics
import time

import numpy as np
from tqdm import tqdm

from radixserve.config import EngineConfig
from radixserve.engine.async_engine import SERVING_ITL_STRETCH
from radixserve.engine.build import build_core
from radixserve.engine.core import EngineCore
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.types import EngineRequest
from support.checkpoint import VOCAB_SIZE, bench_checkpoint

NUM_PREFIX = 4096
NUM_SUFFIX = 16
NUM_STREAMS = 8


class Bench:
    """A core and a source of prompts that nobody has seen before."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self._rng = np.random.default_rng(0)
        self._serial = 0

    def tokens(self, count: int) -> list[int]:
        return [int(token) for token in self._rng.integers(300, VOCAB_SIZE, count)]

    def submit(self, prompt: list[int], max_tokens: int) -> RequestId:
        self._serial += 1
        request_id = RequestId(str(self._serial))
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        resolved = params.resolve(self.core.info.sampling_defaults, max_tokens=max_tokens, seed=0)
        self.core.add(
            EngineRequest(
                request_id=request_id, prompt_ids=prompt, params=resolved, end_token_ids=[]
            )
        )
        return request_id

    def first_token_ms(self, prompt: list[int], *, num_cached: int) -> float:
        """Milliseconds from submission to the first token, with nothing else running."""
        begun = time.perf_counter()
        self.submit(prompt, max_tokens=1)
        while not (deltas := self.core.step()):
            pass
        elapsed_ms = (time.perf_counter() - begun) * 1e3
        assert deltas[0].num_cached_tokens == num_cached, deltas
        return elapsed_ms


def time_first_tokens(bench: Bench, rounds: int) -> dict[str, float]:
    prefix = bench.tokens(NUM_PREFIX)
    bench.first_token_ms([*prefix, 1], num_cached=0)
    alone, behind, whole = [], [], []
    for _ in tqdm(range(rounds), desc="first tokens"):
        alone.append(bench.first_token_ms(bench.tokens(NUM_SUFFIX), num_cached=0))
        behind.append(
            bench.first_token_ms(prefix + bench.tokens(NUM_SUFFIX), num_cached=NUM_PREFIX)
        )
        whole.append(bench.first_token_ms(bench.tokens(NUM_PREFIX + NUM_SUFFIX), num_cached=0))
    return {
        "alone_ms": statistics.median(alone),
        "behind_cached_ms": statistics.median(behind),
        "whole_uncached_ms": statistics.median(whole),
        "behind_over_alone": statistics.median(b / a for a, b in zip(alone, behind, strict=True)),
        "whole_over_behind": statistics.median(w / b for w, b in zip(whole, behind, strict=True)),
    }


def time_gaps(bench: Bench) -> dict[str, float]:
    """Gaps of the streams while one long prompt prefills, and of those before it came."""
    streams = {bench.submit(bench.tokens(64), max_tokens=4000): 0.0 for _ in range(NUM_STREAMS)}
    for _ in range(40):
        bench.core.step()
    gaps: dict[str, list[float]] = {"before": [], "during": []}
    long_prompt: RequestId | None = None
    phase = "before"
    for step in range(100_000):
        deltas = bench.core.step()
        now = time.perf_counter()
        for delta in deltas:
            if delta.request_id in streams:
                if streams[delta.request_id]:
                    gaps[phase].append((now - streams[delta.request_id]) * 1e3)
                streams[delta.request_id] = now
        if any(delta.request_id == long_prompt for delta in deltas):
            break
        if step == 60:
            long_prompt = bench.submit(bench.tokens(NUM_PREFIX), max_tokens=1)
            phase = "during"
    for request_id in streams:
        bench.core.abort(request_id)
    everything = gaps["before"] + gaps["during"]
    median = statistics.median(everything)
    return {
        "streams": NUM_STREAMS,
        "median_gap_before_ms": statistics.median(gaps["before"]),
        "median_gap_during_ms": statistics.median(gaps["during"]),
        "max_gap_during_ms": max(gaps["during"]),
        "max_over_median_of_all": max(gaps["during"]) / median,
        "prefill_tokens_per_s": NUM_PREFIX / (sum(gaps["during"]) / 1e3 / NUM_STREAMS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="counted rounds (default: 15)")
    rounds = parser.parse_args().rounds
    facts = print_machine()
    core = build_core(
        EngineConfig(
            model=str(bench_checkpoint()),
            dtype="bfloat16",
            kv_cache_gib=3,
            max_itl_stretch=SERVING_ITL_STRETCH,
        ),
        progress=False,
    )
    bench = Bench(core)
    first = time_first_tokens(bench, rounds)
    gap_runs = [time_gaps(bench) for _ in tqdm(range(5), desc="streams")]
    gaps = {name: statistics.median(run[name] for run in gap_runs) for name in gap_runs[0]}
    print("\n| first token | median | wanted |")
    print("|---|---|---|")
    print(f"| {NUM_SUFFIX} tokens alone | {first['alone_ms']:.1f} ms | |")
    print(
        f"| {NUM_SUFFIX} behind {NUM_PREFIX:,} cached | {first['behind_cached_ms']:.1f} ms, "
        f"{first['behind_over_alone']:.2f}x of alone | at most 2x |"
    )
    print(
        f"| all {NUM_PREFIX + NUM_SUFFIX:,} uncached | {first['whole_uncached_ms']:.0f} ms, "
        f"{first['whole_over_behind']:.0f}x of behind | at least 20x |"
    )
    print(f"\n| gaps of {NUM_STREAMS} streams | median of {len(gap_runs)} runs | wanted |")
    print("|---|---|---|")
    print(f"| median gap, streams alone | {gaps['median_gap_before_ms']:.1f} ms | |")
    print(f"| median gap while {NUM_PREFIX:,} prefill | {gaps['median_gap_during_ms']:.1f} ms | |")
    print(
        f"| longest gap while {NUM_PREFIX:,} prefill | {gaps['max_gap_during_ms']:.1f} ms, "
        f"{gaps['max_over_median_of_all']:.2f}x the median of all gaps | at most 3x |"
    )
    print(f"| prefill beside the streams | {gaps['prefill_tokens_per_s']:.0f} tokens/s | |")
    print(json.dumps({"bench": "first_token", "machine": facts, "first": first, "gaps": gaps}))


if __name__ == "__main__":
    main()
