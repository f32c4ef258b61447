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

from tqdm import tqdm

from radixserve.config import EngineConfig
from radixserve.engine.async_engine import SERVING_ITL_STRETCH
from radixserve.engine.build import build_core
from radixserve.ids import RequestId
from support.checkpoint import bench_checkpoint
from support.in_process import InProcess

NUM_PREFIX = 4096
NUM_SUFFIX = 16
NUM_STREAMS = 8


def first_token_ms(engine: InProcess, prompt: list[int], *, num_cached: int) -> float:
    elapsed_ms, delta = engine.first_token(prompt)
    assert delta.num_cached_tokens == num_cached, delta
    return elapsed_ms


def time_first_tokens(engine: InProcess, rounds: int) -> dict[str, float]:
    prefix = engine.tokens(NUM_PREFIX)
    first_token_ms(engine, [*prefix, 1], num_cached=0)
    alone, behind, whole = [], [], []
    for _ in tqdm(range(rounds), desc="first tokens"):
        alone.append(first_token_ms(engine, engine.tokens(NUM_SUFFIX), num_cached=0))
        behind.append(
            first_token_ms(engine, prefix + engine.tokens(NUM_SUFFIX), num_cached=NUM_PREFIX)
        )
        whole.append(first_token_ms(engine, engine.tokens(NUM_PREFIX + NUM_SUFFIX), num_cached=0))
    return {
        "alone_ms": statistics.median(alone),
        "behind_cached_ms": statistics.median(behind),
        "whole_uncached_ms": statistics.median(whole),
        "behind_over_alone": statistics.median(b / a for a, b in zip(alone, behind, strict=True)),
        "whole_over_behind": statistics.median(w / b for w, b in zip(whole, behind, strict=True)),
    }


def time_gaps(engine: InProcess) -> dict[str, float]:
    """Gaps of the streams while one long prompt prefills, and of those before it came."""
    streams = {engine.submit(engine.tokens(64), max_tokens=4000): 0.0 for _ in range(NUM_STREAMS)}
    for _ in range(40):
        engine.core.step()
    gaps: dict[str, list[float]] = {"before": [], "during": []}
    long_prompt: RequestId | None = None
    phase = "before"
    for step in range(100_000):
        deltas = engine.core.step()
        now = time.perf_counter()
        for delta in deltas:
            if delta.request_id in streams:
                if streams[delta.request_id]:
                    gaps[phase].append((now - streams[delta.request_id]) * 1e3)
                streams[delta.request_id] = now
        if any(delta.request_id == long_prompt for delta in deltas):
            break
        if step == 60:
            long_prompt = engine.submit(engine.tokens(NUM_PREFIX), max_tokens=1)
            phase = "during"
    for request_id in streams:
        engine.core.abort(request_id)
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
    engine = InProcess(core)
    first = time_first_tokens(engine, rounds)
    gap_runs = [time_gaps(engine) for _ in tqdm(range(5), desc="streams")]
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
