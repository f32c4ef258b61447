"""What planning a cascade costs: 256 running rows, behind prefixes of several shapes. No model.

    python bench/cascade_plan.py [--rounds 300] [--level-keys 256] [--token-keys 8]

Rows are real ones: leases in a real cache, each with a page of its own behind what it shares.

    one prefix     all behind 8,192 tokens
    documents      16 groups of 16 behind a document of 4,096 tokens each, all of these behind one
                   system prompt of 512
    caterpillar    each row leaves one long prompt at another depth, 32 tokens after the last
    nothing        prompts that share no token

Two times each, medians: *new*, when who runs has changed, and *known*, when nothing has. Both
include the tuple of rows in tree order. The last line is JSON.
"""

import argparse
import itertools
import json
import random
import statistics
import time

import numpy as np

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cascade import CascadeCosts
from radixserve.ids import Namespace, RequestId
from radixserve.request import Request
from radixserve.sampling.params import SamplingParams
from radixserve.scheduler.cascade_planner import CascadePlanner
from radixserve.scheduler.plan import PlannedRow
from support.machine import print_machine

NUM_ROWS = 256
PAGE_SIZE = 16
WANTED_US = 200.0
NAMESPACE = Namespace("")


def tokens_of(length: int, seed: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(1000, 150_000, length).tolist()
    return tokens


def prompts() -> dict[str, list[list[int]]]:
    """256 prompts of each shape; token ``n`` parts row n from the others."""
    trunk = tokens_of(32 * NUM_ROWS, 0)
    documents = [[*trunk[:512], number, *tokens_of(4095, number)] for number in range(16)]
    return {
        "one prefix": [[*trunk, row] for row in range(NUM_ROWS)],
        "documents": [[*documents[row // 16], row] for row in range(NUM_ROWS)],
        "caterpillar": [[*trunk[: 32 * (row + 1)], row] for row in range(NUM_ROWS)],
        "nothing": [[row] for row in range(NUM_ROWS)],
    }


def planned_rows(shape: list[list[int]]) -> list[PlannedRow]:
    """One decoding row for each prompt, in an order that tells nothing of the tree."""
    cache = PrefixCache(NUM_ROWS * (32 * NUM_ROWS // PAGE_SIZE + 4), PAGE_SIZE)
    rows = []
    for arrival, prompt in enumerate(shape):
        # Each goes on for a page, which enters the tree: its lease has a node of its own.
        tokens = np.asarray(prompt + [arrival] * PAGE_SIZE, dtype=np.int32)
        request = Request(
            RequestId(str(arrival)),
            tokens,
            SamplingParams(),
            namespace=NAMESPACE,
            stop_token_ids=frozenset(),
            arrival=arrival,
        )
        lease = request.lease = cache.acquire(NAMESPACE, tokens[:-1])
        cache.reserve(lease, len(tokens))
        if lease.pending_copy is not None:
            cache.finish_copy(lease)
        cache.commit(lease, tokens[:-1])
        rows.append(PlannedRow(request, len(tokens) - 1, 1, num_samples=1))
    random.Random(0).shuffle(rows)
    return rows


def median_us(times: list[float]) -> float:
    return round(statistics.median(times) * 1e6, 1)


def measure(costs: CascadeCosts, rounds: int) -> dict[str, dict[str, float]]:
    """By shape. The shapes take turns, so that what else the machine does falls on all alike."""
    shapes = {name: planned_rows(shape) for name, shape in prompts().items()}
    new: dict[str, list[float]] = {name: [] for name in shapes}
    known: dict[str, list[float]] = {name: [] for name in shapes}
    levels = {}
    for _, (name, rows) in itertools.product(range(rounds), shapes.items()):
        planner = CascadePlanner(costs, PAGE_SIZE)
        begun = time.perf_counter()
        first = planner.arrange(rows)
        middle = time.perf_counter()
        second = planner.arrange(rows)
        ended = time.perf_counter()
        assert second.cascade is first.cascade
        new[name].append(middle - begun)
        known[name].append(ended - middle)
        levels[name] = len(first.cascade.levels)
    return {
        name: {
            "levels": levels[name],
            "new_us": median_us(new[name]),
            "new_p95_us": round(statistics.quantiles(new[name], n=20)[-1] * 1e6, 1),
            "known_us": median_us(known[name]),
        }
        for name in shapes
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=300, help="of all shapes (default: 300)")
    parser.add_argument("--level-keys", type=float, default=256.0, help="a level's (default: 256)")
    parser.add_argument("--token-keys", type=float, default=8.0, help="a token's (default: 8)")
    arguments = parser.parse_args()
    facts = print_machine()
    costs = CascadeCosts(arguments.level_keys, arguments.token_keys)
    results = measure(costs, arguments.rounds)
    print(f"{NUM_ROWS} rows, {costs}")
    for name, row in results.items():
        print(
            f"  {name:<12} {row['levels']:4} levels   new {row['new_us']:6.1f} µs "
            f"(p95 {row['new_p95_us']:.1f})   known {row['known_us']:5.1f} µs"
        )
    print(f"  wanted: new under {WANTED_US:.0f} µs")
    print(json.dumps({"bench": "cascade_plan", "machine": facts, "results": results}))


if __name__ == "__main__":
    main()
