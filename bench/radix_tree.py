"""What the radix tree costs: matching a long prompt, and working in trees of up to a million nodes.

    python bench/radix_tree.py                  everything (about a minute, 1 GB)
    python bench/radix_tree.py --sizes 1000 10000 --rounds 20

1. A prompt of 100,000 tokens, cached in 1, 10 and 50 nodes, is matched. Limit: 2 ms.
2. Trees of 1,000 ... 1,000,000 nodes, all three edges deep, one page an edge. In each: match a
   cached path; insert a new leaf (acquire, reserve, commit, release: everything a request does);
   evict one page. The trees take turns round by round, so that whatever else the machine does
   falls on all of them alike. Limit: 3 times the smallest tree's median.

3. What a decode step inside its last page asks of the cache: ``reserve`` and ``commit``.

4. What an eviction policy adds, by page size: microseconds of Python time for each page that a
   request touches, and for each page evicted, on conversations that grow turn by turn in a cache
   that holds half of them: short ones (about 12 pages of 16) and long ones (about 700). Limit of
   the issue: 1 µs a touched page. It is printed, not enforced: a request costs 15 to 40 µs whatever
   its length, so short prompts in long pages exceed it.

Long-lived nodes make Python's cyclic collector walk the whole tree now and then; a server should
call ``gc.freeze()`` or raise the thresholds. The collector is off while this measures, and what one
full collection costs is printed.

Last line: one JSON object.
"""

import argparse
import gc
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from tqdm import tqdm

from radixserve.cache.eviction import EvictionPolicy
from radixserve.cache.node import Node
from radixserve.cache.policies import POLICIES, make_policy
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import DEFAULT_NAMESPACE, TokenArray
from support.machine import print_machine

PAGE_SIZE = 16
EDGE_TOKENS = 16
GROUP_NODES = 10
"""One node with three children with two leaves each."""
MATCH_LIMIT_MS = 2.0
RATIO_LIMIT = 3.0
LONG_PROMPT_TOKENS = 100_000


@dataclass
class Timings:
    """Seconds per operation, one figure a round."""

    match: list[float] = field(default_factory=list)
    insert: list[float] = field(default_factory=list)
    evict: list[float] = field(default_factory=list)


def run_request(cache: PrefixCache, tokens: TokenArray) -> None:
    """What one request does to the cache, all of its tokens computed at once."""
    lease = cache.acquire(DEFAULT_NAMESPACE, tokens)
    cache.reserve(lease, len(tokens))
    if lease.pending_copy is not None:
        cache.finish_copy(lease)
    cache.commit(lease, tokens)
    cache.release(lease, tokens)


def resident_bytes() -> int:
    """Memory of this process, where the system tells; else 0."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


# 1. A long prompt


def long_prompt_cache(num_nodes: int) -> tuple[PrefixCache, TokenArray]:
    """A cache in which one prompt of 100,000 tokens lies in ``num_nodes`` nodes in a row."""
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 150_000, LONG_PROMPT_TOKENS, dtype=np.int32)
    cache = PrefixCache(2 * LONG_PROMPT_TOKENS // PAGE_SIZE + 4 * num_nodes, PAGE_SIZE)
    run_request(cache, prompt)
    # A request that turns away where a node shall end splits it there, and keeps it split.
    for index in range(1, num_nodes):
        end = index * LONG_PROMPT_TOKENS // num_nodes
        run_request(cache, np.append(prompt[:end], np.int32(-1)).astype(np.int32))
    path = cache.tree.match(DEFAULT_NAMESPACE, prompt)
    depth, node = 0, path.node
    while node is not None and node.parent is not None:
        depth, node = depth + 1, node.parent
    assert (path.num_tokens, depth) == (LONG_PROMPT_TOKENS, num_nodes), (path, depth)
    return cache, prompt


def measure_long_prompts(rounds: int) -> dict[str, float]:
    """Median µs of matching the prompt, by number of nodes."""
    medians = {}
    for num_nodes in (1, 10, 50):
        cache, prompt = long_prompt_cache(num_nodes)
        times = []
        for _ in range(10 * rounds):
            start = time.perf_counter()
            num_tokens = cache.match(DEFAULT_NAMESPACE, prompt)
            times.append(time.perf_counter() - start)
            assert num_tokens == len(prompt)
        medians[str(num_nodes)] = median = statistics.median(times) * 1e6
        print(
            f"match {LONG_PROMPT_TOKENS:,} tokens in {num_nodes:2d} nodes: {median:7.1f} µs "
            f"(p90 {1e6 * statistics.quantiles(times, n=10)[-1]:.1f}, limit 2000)"
        )
    return medians


# 2. Large trees


def path_tokens(group: int, middle: int, leaf: int) -> TokenArray:
    """The tokens of one path: three edges of one page each."""
    tokens = np.full(3 * EDGE_TOKENS, group, dtype=np.int32)
    tokens[EDGE_TOKENS] = middle
    tokens[2 * EDGE_TOKENS] = leaf
    return tokens


def all_paths(num_groups: int) -> Iterator[TokenArray]:
    """Every path of a tree, in an order that leaves neighbours apart in memory."""
    order = np.random.default_rng(1).permutation(num_groups).tolist()
    for middle in range(3):
        for leaf in range(2):
            for group in order:
                yield path_tokens(group, middle, leaf)


def build(num_nodes: int) -> PrefixCache:
    """A tree of ``num_nodes`` nodes, built by requests."""
    num_groups = num_nodes // GROUP_NODES
    cache = PrefixCache(num_nodes + 10_000, PAGE_SIZE)
    before = resident_bytes()
    start = time.perf_counter()
    for tokens in tqdm(
        all_paths(num_groups),
        total=6 * num_groups,
        desc=f"building {num_nodes:,} nodes",
        disable=None,
        leave=False,
    ):
        run_request(cache, tokens)
    seconds = time.perf_counter() - start
    found = sum(1 for _ in cache.tree.nodes()) - 1
    assert found == num_groups * GROUP_NODES, f"{found} nodes"
    print(
        f"built {found:>9,} nodes in {seconds:6.2f} s, "
        f"{(resident_bytes() - before) / found:6.0f} bytes a node (pool included)"
    )
    return cache


def timed(calls: list[Callable[[], object]]) -> float:
    """Mean seconds a call."""
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) / len(calls)


def measure_round(
    cache: PrefixCache, num_groups: int, ops: int, round_index: int, timings: Timings
) -> None:
    """Match, insert and evict ``ops`` times each; the tree ends as large as it began."""
    rng = np.random.default_rng([2, round_index])
    groups, middles, leaves = (rng.integers(0, high, ops) for high in (num_groups, 3, 2))
    paths = [
        path_tokens(group, middle, leaf)
        for group, middle, leaf in zip(
            groups.tolist(), middles.tolist(), leaves.tolist(), strict=True
        )
    ]
    timings.match.append(timed([partial(cache.match, DEFAULT_NAMESPACE, path) for path in paths]))
    for index, path in enumerate(paths):
        path[2 * EDGE_TOKENS] = 1000 + round_index * ops + index
    timings.insert.append(timed([partial(run_request, cache, path) for path in paths]))
    timings.evict.append(timed([partial(cache.evict, 1)] * ops))


def measure_trees(sizes: list[int], rounds: int, ops: int) -> dict[str, dict[str, float]]:
    """Median µs of each operation, by number of nodes."""
    caches = {size: build(size) for size in sizes}
    start = time.perf_counter()
    gc.collect()
    print(
        f"one full garbage collection with all of them alive: {time.perf_counter() - start:.2f} s"
    )
    timings = {size: Timings() for size in sizes}
    for round_index in tqdm(range(rounds), desc="measuring", disable=None, leave=False):
        for size in sizes:
            measure_round(caches[size], size // GROUP_NODES, ops, round_index, timings[size])
    medians: dict[str, dict[str, float]] = {}
    print("µs an operation: median of the rounds (10th to 90th percentile), and times the first")
    for size in sizes:
        row = medians[str(size)] = {}
        first = medians[str(sizes[0])]
        cells = []
        for name in ("match", "insert", "evict"):
            times = [1e6 * seconds for seconds in getattr(timings[size], name)]
            row[name] = statistics.median(times)
            low, *_, high = statistics.quantiles(times, n=10)
            cells.append(
                f"{name} {row[name]:6.2f} ({low:.1f} to {high:.1f}) {row[name] / first[name]:4.2f}x"
            )
        print(f"{size:>9,} nodes: {'   '.join(cells)}")
    return medians


# 3. A decode step


def measure_decode_step(rounds: int) -> float:
    """Median µs of ``reserve`` and ``commit`` when neither has anything to do."""
    cache = PrefixCache(64, PAGE_SIZE)
    tokens = np.arange(20 * PAGE_SIZE + 3, dtype=np.int32)
    lease = cache.acquire(DEFAULT_NAMESPACE, tokens)
    cache.reserve(lease, len(tokens))
    cache.commit(lease, tokens)

    def step() -> None:
        cache.reserve(lease, len(tokens) + 1)
        cache.commit(lease, tokens)

    median = statistics.median(timed([step] * 1000) for _ in range(rounds)) * 1e6
    print(f"reserve + commit of a decode step inside its last page: {median:.2f} µs")
    return median


# 4. Eviction policies


class TimedPolicy:
    """A policy, and the processor seconds in each of its methods, reading the clock included."""

    def __init__(self, policy: EvictionPolicy) -> None:
        self.policy = policy
        self.seconds: dict[str, float] = {}

    def __getattr__(self, name: str) -> object:
        member = getattr(self.policy, name)
        if not callable(member):
            return member

        def call(*arguments: object) -> object:
            begun_s = time.thread_time()
            result = member(*arguments)
            spent_s = time.thread_time() - begun_s
            self.seconds[name] = self.seconds.get(name, 0.0) + spent_s
            return result

        self.__dict__[name] = call
        return call

    def __contains__(self, node: Node) -> bool:
        return node in self.policy

    def __len__(self) -> int:
        return len(self.policy)


def conversations(num: int, turns: int, first: int, more: int) -> Iterator[TokenArray]:
    """Prompts of ``num`` conversations: ``first`` tokens, then ``more`` a turn, in random order."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 150_000, first + turns * more, dtype=np.int32) for _ in range(num)]
    for turn in range(turns):
        for index in rng.permutation(num).tolist():
            yield texts[index][: first + turn * more]


def measure_policies() -> dict[str, dict[str, float]]:
    """µs a touched page and an evicted one, by policy, length of the prompts and page size."""
    rows: dict[str, dict[str, float]] = {}
    shapes = {"short": (600, 6, 100, 35), "long": (60, 10, 10_000, 260)}
    for length, shape in shapes.items():
        for page_size in (16, 512):
            num, turns, first, more = shape
            num_pages = num * -(-(first + turns * more) // page_size) // 2
            for name in POLICIES:
                # A conversation speaks again after some minutes, whatever their number.
                now_s = itertools.count(0.0, 200.0 / num)
                policy = TimedPolicy(make_policy(name, now_s.__next__, num_pages, page_size))
                cache = PrefixCache(num_pages, page_size, cast(EvictionPolicy, policy))
                num_requests = num_touched = 0
                for prompt in conversations(*shape):
                    run_request(cache, prompt)
                    num_requests += 1
                    num_touched += -(-len(prompt) // page_size)
                evict_s = sum(policy.seconds.get(verb, 0.0) for verb in ("victim", "floor", "trim"))
                touch_s = sum(policy.seconds.values()) - evict_s
                row = rows[f"{length} prompts, pages of {page_size}, {name}"] = {
                    "touched_page_us": 1e6 * touch_s / num_touched,
                    "request_us": 1e6 * touch_s / num_requests,
                    "evicted_page_us": 1e6 * evict_s / max(cache.evicted_pages, 1),
                }
                print(
                    f"{length:5} prompts, pages of {page_size:3}, {name:11}: "
                    f"{row['touched_page_us']:7.3f} µs a touched page "
                    f"({row['request_us']:6.1f} a request), "
                    f"{row['evicted_page_us']:6.2f} an evicted page"
                )
    return rows


def main() -> int:
    """Measure, print, and fail if a limit is broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=60, help="Rounds of alternating trees.")
    parser.add_argument("--ops", type=int, default=200, help="Operations of each kind a round.")
    arguments = parser.parse_args()

    machine = print_machine()
    gc.disable()
    long_prompts = measure_long_prompts(arguments.rounds)
    decode_step = measure_decode_step(arguments.rounds)
    policies = measure_policies()
    trees = measure_trees(sorted(arguments.sizes), arguments.rounds, arguments.ops)
    first = next(iter(trees.values()))
    worst = max(row[name] / first[name] for row in trees.values() for name in row)
    passed = max(long_prompts.values()) < MATCH_LIMIT_MS * 1e3 and worst <= RATIO_LIMIT
    result = {
        "bench": "radix_tree",
        "machine": machine,
        "match_100k_tokens_us": long_prompts,
        "decode_step_us": decode_step,
        "policies": policies,
        "per_op_us": trees,
        "worst_ratio": worst,
        "passed": passed,
    }
    print(json.dumps(result))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
