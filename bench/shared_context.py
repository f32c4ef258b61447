"""How a decode step grows with the context that requests share, read once or by each of them.

    python bench/shared_context.py [--rounds 5]        (about two minutes, 4 GB)

Two engines of the same checkpoint, one with ``cascade`` and one without, take turns: 16 requests
behind 512 shared tokens, then behind 4,096, each with 32 tokens of its own. A step is a whole one:
planning, model, sampling, taking in. Wanted: with the cascade the step grows by at most 70%, and by
at most a fifth of what it grows without.

Last line: one JSON object.
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
from radixserve.engine.build import build_core
from support.checkpoint import bench_checkpoint
from support.in_process import InProcess

NUM_REQUESTS = 16
OWN_TOKENS = 32
SHARED_TOKENS = (512, 4096)
NUM_STEPS = 30
WANTED_GROWTH = 0.7
WANTED_SHARE = 0.2


def decode_step_ms(engine: InProcess, num_shared: int) -> float:
    """The median of a decode step of all requests, behind so many tokens that nobody has seen."""
    core = engine.core
    core.clear_cache()
    shared = engine.tokens(num_shared)
    for _ in range(NUM_REQUESTS):
        engine.submit(shared + engine.tokens(OWN_TOKENS), max_tokens=NUM_STEPS + 8)
    times = []
    while core.has_work:
        begun_s = time.perf_counter()
        deltas = core.step()
        took_ms = (time.perf_counter() - begun_s) * 1e3
        # Every request had one token: no prompt was part of the step, nor has any ended.
        if len(deltas) == NUM_REQUESTS and not any(delta.finish_reason for delta in deltas):
            times.append(took_ms)
    # The first of them came with the end of the last prompts.
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    rounds = parser.parse_args().rounds
    facts = print_machine()
    engines = {
        is_on: InProcess(
            build_core(
                EngineConfig(
                    model=str(bench_checkpoint()), dtype="bfloat16", kv_cache_gib=1, cascade=is_on
                ),
                progress=False,
            )
        )
        for is_on in (True, False)
    }
    times: dict[tuple[bool, int], list[float]] = {
        (is_on, shared): [] for is_on in engines for shared in SHARED_TOKENS
    }
    for _ in tqdm(range(rounds), desc="rounds"):
        for (is_on, shared), found in times.items():
            found.append(decode_step_ms(engines[is_on], shared))
    short, long = SHARED_TOKENS
    medians = {key: statistics.median(found) for key, found in times.items()}
    grown = {is_on: medians[is_on, long] - medians[is_on, short] for is_on in engines}
    growth, share = grown[True] / medians[True, short], grown[True] / grown[False]
    print(f"\n| decode step of {NUM_REQUESTS} requests behind | {short:,} | {long:,} | grows by |")
    print("|---|---|---|---|")
    for is_on, name in ((True, "read once"), (False, "read by each")):
        print(
            f"| {name} | {medians[is_on, short]:.1f} ms | {medians[is_on, long]:.1f} ms "
            f"| {grown[is_on]:.1f} ms |"
        )
    print(
        f"\nread once, the step grows by {growth:.0%} (wanted: {WANTED_GROWTH:.0%} at most), and "
        f"by {share:.2f} of what it grows by otherwise (wanted: {WANTED_SHARE} at most)"
    )
    results = {
        "steps_ms": {f"{'once' if on else 'each'} {n}": medians[on, n] for on, n in medians},
        "growth": growth,
        "share": share,
    }
    print(json.dumps({"bench": "shared_context", "machine": facts, "results": results}))


if __name__ == "__main__":
    main()
