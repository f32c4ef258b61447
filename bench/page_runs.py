"""How long the runs of neighbouring pages are in the page tables of requests that are served.

    python bench/page_runs.py [--requests 600]

Attention reads pages that lie side by side as one run. Requests come, 16 or 64 of them running at a
time: half of a prompt, on average, is one of 8 long ones (up to 1,024 tokens), the rest is their
own (20 to 400 tokens); then each grows a token a step (50 to 400), and ends. In the *roomy* pool
nothing is ever evicted; the *full* one is full of what has ended, and every page is somebody's
before. No model: real leases in a real cache.

Printed for the pool and, to compare, for one that is a plain stack of free pages, the last freed on
top: the mean run, in pages, over the page tables of all that run; microseconds to allocate, without
evicting; and to free a request's pages. The last line is JSON.
"""

import argparse
import json
import statistics
import time

import numpy as np
from tqdm import tqdm

from radixserve.cache.lease import Lease
from radixserve.cache.page_pool import PagePool
from radixserve.cache.prefix_cache import PrefixCache
from radixserve.ids import Namespace, PageArray, TokenArray
from support.machine import print_machine

PAGE_SIZE = 16
NAMESPACE = Namespace("")
POOLS = {"roomy": 100_000, "full": 6_000}


class Timed(PagePool):
    """Adds up what allocating and freeing take."""

    def __init__(self, num_pages: int) -> None:
        super().__init__(num_pages)
        self.allocate_s: list[float] = []
        self.free_s: list[float] = []

    def allocate(self, num_pages: int, after: int | None = None) -> PageArray:
        begun = time.perf_counter()
        pages = super().allocate(num_pages, after)
        self.allocate_s.append(time.perf_counter() - begun)
        return pages

    def _push(self, pages: PageArray) -> None:
        begun = time.perf_counter()
        super()._push(pages)
        self.free_s.append(time.perf_counter() - begun)


class Stack(Timed):
    """The last pages freed come out first, whoever asks."""

    def __init__(self, num_pages: int) -> None:
        super().__init__(num_pages)
        self._stack = np.arange(num_pages - 1, -1, -1, dtype=np.int32)

    def allocate(self, num_pages: int, after: int | None = None) -> PageArray:
        del after
        begun = time.perf_counter()
        assert num_pages <= self.free_pages
        end = self.free_pages - num_pages
        pages = self._stack[end : self.free_pages][::-1].copy()
        self.free_pages = end
        self._use_count[pages] = 1
        self.allocate_s.append(time.perf_counter() - begun)
        return pages

    def _push(self, pages: PageArray) -> None:
        begun = time.perf_counter()
        end = self.free_pages + len(pages)
        self._stack[self.free_pages : end] = pages[::-1]
        self.free_pages = end
        self.free_s.append(time.perf_counter() - begun)


class Served:
    """One request: its tokens, those of the answer included, and how many are computed."""

    def __init__(self, cache: PrefixCache, stems: list[TokenArray], rng: np.random.Generator):
        stem = stems[int(rng.integers(len(stems)))][: int(rng.integers(1024))]
        prompt = np.concatenate([stem, _draw(rng, int(rng.integers(20, 400)))])
        self.tokens = np.concatenate([prompt, _draw(rng, int(rng.integers(50, 400)))])
        self.num_tokens = len(prompt)
        self.lease: Lease = cache.acquire(NAMESPACE, prompt[:-1])
        if self.lease.pending_copy is not None:
            cache.finish_copy(self.lease)

    def step(self, cache: PrefixCache) -> bool:
        """Compute what is known, and have another token. Returns whether that was the last."""
        cache.reserve(self.lease, self.num_tokens)
        cache.commit(self.lease, self.tokens[: self.num_tokens])
        self.num_tokens += 1
        return self.num_tokens == len(self.tokens)


def _draw(rng: np.random.Generator, length: int) -> TokenArray:
    return rng.integers(0, 150_000, length, dtype=np.int32)


def mean_run(requests: list[Served]) -> float:
    tables = [request.lease.page_table for request in requests if request.lease.num_pages]
    num_runs = sum(1 + int(np.count_nonzero(np.diff(table) != 1)) for table in tables)
    return sum(map(len, tables)) / num_runs


def serve(pool: Timed, num_running: int, num_requests: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    cache = PrefixCache(pool.num_pages, PAGE_SIZE, pool=pool)
    stems = [_draw(rng, 1024) for _ in range(8)]
    running: list[Served] = []
    runs: list[float] = []
    num_ended = num_steps = 0
    while num_ended < num_requests:
        if len(running) < num_running:
            running.append(Served(cache, stems, rng))
        for request in tuple(running):
            if request.step(cache):
                cache.release(request.lease, request.tokens[: request.num_tokens - 1])
                running.remove(request)
                num_ended += 1
        num_steps += 1
        # Not before the pool has been filled once.
        if num_ended > num_requests // 2 and num_steps % 20 == 0:
            runs.append(mean_run(running))
    return {
        "mean_run_pages": round(statistics.mean(runs), 2),
        "allocate_us": round(statistics.median(pool.allocate_s) * 1e6, 2),
        "free_us": round(statistics.median(pool.free_s) * 1e6, 2),
        "evicted_pages": cache.evicted_pages,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--requests", type=int, default=600, help="to serve (default: 600)")
    arguments = parser.parse_args()
    facts = print_machine()
    cases = [
        (name, num_running, kind)
        for name in POOLS
        for num_running in (16, 64)
        for kind in (Stack, Timed)
    ]
    results = {}
    for name, num_running, kind in tqdm(cases, unit="case", leave=False):
        label = f"{name}, {num_running} running, {'stack' if kind is Stack else 'pool'}"
        results[label] = serve(kind(POOLS[name]), num_running, arguments.requests)
    for label, row in results.items():
        print(
            f"  {label:<26} runs of {row['mean_run_pages']:5.2f} pages   "
            f"allocate {row['allocate_us']:.2f} µs   free {row['free_us']:.2f} µs   "
            f"{row['evicted_pages']:.0f} evicted"
        )
    print(json.dumps({"bench": "page_runs", "machine": facts, "results": results}))


if __name__ == "__main__":
    main()
