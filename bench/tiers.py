"""What host memory and files below the KV cache are worth.

    python bench/tiers.py [restart] [throughput] [streams] [--rounds 5]

One model (88M parameters, bfloat16), in-process, token ids in.

restart     Prefixes of 4,096 tokens are computed by one engine, which ends; another one, started on
            the same directory, is asked for each with 16 new tokens behind it. The files are read
            once from the system's page cache, and once after they were dropped from it. Cold:
            as many tokens that nobody has seen.
throughput  Documents of 1,024 tokens, drawn at random, 4 requests at a time, each with a question
            of 16 tokens and an answer of 16, over a device pool that holds a quarter of the
            documents: with a host tier that holds all, and without, in turn.
streams     4 answers stream, while a request comes whose prefix of 4,096 tokens is in host memory,
            or in files: how much longer its transfer makes the gaps between their tokens.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from radixserve.config import EngineConfig
from radixserve.engine.async_engine import SERVING_ITL_STRETCH
from radixserve.engine.build import build_core
from radixserve.types import TokenDelta
from support.checkpoint import bench_checkpoint
from support.in_process import InProcess

PAGE_SIZE = 16
NUM_PREFIX = 4096
NUM_SUFFIX = 16
NUM_DOCUMENT = 1024
NUM_DOCUMENTS = 32
NUM_ANSWER = 16
NUM_AT_ONCE = 4
NUM_STREAMS = 4


@contextmanager
def engine(seed: int = 0, **settings: Any) -> Iterator[InProcess]:
    """An engine of the bench model, paced as a server is."""
    config = EngineConfig(
        model=str(bench_checkpoint()),
        dtype="bfloat16",
        page_size=PAGE_SIZE,
        max_itl_stretch=SERVING_ITL_STRETCH,
        **settings,
    )
    core = build_core(config, progress=False)
    try:
        yield InProcess(core, seed)
    finally:
        core.close()


# -- restart ----------------------------------------------------------------------------------


def time_restart(rounds: int) -> dict[str, float]:
    """Time to first token behind a prefix that an earlier engine has computed."""
    directory = Path(tempfile.mkdtemp(prefix="radixserve-bench-tiers-"))
    settings: dict[str, Any] = {"cache_dir": str(directory), "kv_cache_gib": 3.0}
    found: dict[str, float] = {}
    try:
        with engine(**settings) as before:
            prefixes = [before.tokens(NUM_PREFIX) for _ in range(rounds)]
            for prefix in tqdm(prefixes, desc="restart: computing"):
                before.first_token([*prefix, 1])
                before.run_chores()
        passes = (("page_cache", _nothing), ("disk", _drop_from_memory))
        for number, (name, prepare) in enumerate(passes, start=1):
            prepare(directory)
            warm, cold = [], []
            begun = time.perf_counter()
            with engine(seed=number, **settings) as after:
                found["start_s"] = time.perf_counter() - begun
                for prefix in tqdm(prefixes, desc=f"restart: {name}"):
                    elapsed_ms, delta = after.first_token(prefix + after.tokens(NUM_SUFFIX))
                    assert delta.cache_report is not None
                    assert delta.cache_report.disk_tokens == NUM_PREFIX, delta.cache_report
                    warm.append(elapsed_ms)
                    elapsed_ms, delta = after.first_token(after.tokens(NUM_PREFIX + NUM_SUFFIX))
                    assert delta.num_cached_tokens == 0, delta
                    cold.append(elapsed_ms)
                device = [
                    after.first_token(prefix + after.tokens(NUM_SUFFIX))[0] for prefix in prefixes
                ]
            found[f"{name}_warm_ms"] = statistics.median(warm)
            found[f"{name}_share"] = statistics.median(
                w / c for w, c in zip(warm, cold, strict=True)
            )
            found["cold_ms"] = statistics.median(cold)
            found["device_ms"] = statistics.median(device)
    finally:
        shutil.rmtree(directory)
    return found


def _nothing(_: Path) -> None:
    pass


def _drop_from_memory(directory: Path) -> None:
    """Make the system read the files from the disk again (Linux)."""
    for path in directory.rglob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# -- throughput -------------------------------------------------------------------------------


def time_throughput(rounds: int) -> dict[str, float]:
    """Requests a second over a working set of four times the device pool."""
    num_pages = NUM_DOCUMENTS * NUM_DOCUMENT // PAGE_SIZE // 4
    page_bytes = 12 * 2 * PAGE_SIZE * 4 * 64 * 2
    # All documents, and what answers leave behind.
    host_gib = 6 * num_pages * page_bytes / 2**30
    rates: dict[str, list[float]] = {"with": [], "without": []}
    hits: dict[str, float] = {}
    with (
        engine(num_pages=num_pages, host_cache_gib=host_gib) as tiered,
        engine(num_pages=num_pages) as plain,
    ):
        documents = [tiered.tokens(NUM_DOCUMENT) for _ in range(NUM_DOCUMENTS)]
        for name, one in (("with", tiered), ("without", plain)):
            for document in tqdm(documents, desc=f"throughput: computing {name}"):
                one.first_token([*document, 1])
        for number in tqdm(range(rounds), desc="throughput"):
            for name, one in (("with", tiered), ("without", plain)):
                rng = random.Random(number)
                drawn = [rng.choice(documents) for _ in range(2 * NUM_DOCUMENTS)]
                before = one.core.stats()
                begun = time.perf_counter()
                _serve(one, drawn)
                rates[name].append(len(drawn) / (time.perf_counter() - begun))
                after = one.core.stats()
                hits[name] = (after.cached_tokens - before.cached_tokens) / (
                    after.prompt_tokens - before.prompt_tokens
                )
    return {
        "with_per_s": statistics.median(rates["with"]),
        "without_per_s": statistics.median(rates["without"]),
        "ratio": statistics.median(
            w / o for w, o in zip(rates["with"], rates["without"], strict=True)
        ),
        "with_hit_rate": hits["with"],
        "without_hit_rate": hits["without"],
        "device_pages": num_pages,
    }


def _serve(one: InProcess, drawn: list[list[int]]) -> None:
    """Answer a question about each of the documents, so many at a time."""
    waiting = iter(drawn)
    num_running = 0
    while True:
        while num_running < NUM_AT_ONCE and (document := next(waiting, None)) is not None:
            one.submit(document + one.tokens(NUM_SUFFIX), NUM_ANSWER)
            num_running += 1
        if not num_running:
            return
        num_running -= sum(delta.finish_reason is not None for delta in one.core.step())


# -- streams ----------------------------------------------------------------------------------


def time_streams(rounds: int, *, on_disk: bool) -> dict[str, float]:
    """Gaps of streams while a request's prefix is being loaded, over those with nobody else.

    The last two gaps before its first token are not counted: they hold its own 16 tokens.
    """
    directory = tempfile.mkdtemp(prefix="radixserve-bench-tiers-")
    where: dict[str, Any] = {"cache_dir": directory} if on_disk else {"host_cache_gib": 0.5}
    medians, means, loading_ms = [], [], []
    try:
        # The pool holds the streams and two of the four prefixes: each is evicted, and by LRU all
        # of it, before it is asked for again. Likewise the few host pages that only files have.
        with engine(num_pages=700, eviction_policy="lru", **where) as one:
            prefixes = [one.tokens(NUM_PREFIX) for _ in range(8 if on_disk else 4)]
            for prefix in tqdm(prefixes, desc="streams: computing"):
                one.first_token([*prefix, 1])
                one.run_chores()
            for number in tqdm(range(2 * rounds), desc="streams"):
                prefix = prefixes[number % len(prefixes)]
                alone, during, report_ms = _gaps_beside(one, prefix)
                medians.append(statistics.median(during) / statistics.median(alone))
                means.append(statistics.fmean(during) / statistics.fmean(alone))
                loading_ms.append(report_ms)
    finally:
        shutil.rmtree(directory)
    return {
        "median_gap": statistics.median(medians),
        "mean_gap": statistics.median(means),
        "first_token_ms": statistics.median(loading_ms),
    }


def _gaps_beside(one: InProcess, prefix: list[int]) -> tuple[list[float], list[float], float]:
    """Milliseconds between steps of the streams: alone, and while the prefix is loaded; and how
    long its request waited for its first token."""
    streams = {one.submit(one.tokens(64), 400) for _ in range(NUM_STREAMS)}

    def gaps_until(is_over: Callable[[list[TokenDelta]], bool]) -> list[float]:
        gaps: list[float] = []
        last = time.perf_counter()
        while True:
            deltas = one.core.step()
            if any(delta.request_id in streams for delta in deltas):
                now = time.perf_counter()
                gaps.append((now - last) * 1e3)
                last = now
            if is_over(deltas):
                return gaps

    count = iter(range(60))
    alone = gaps_until(lambda _: next(count, None) is None)[20:]
    begun = time.perf_counter()
    asked = one.submit(prefix + one.tokens(NUM_SUFFIX), 1)
    reports: list[TokenDelta] = []

    def is_answered(deltas: list[TokenDelta]) -> bool:
        reports.extend(delta for delta in deltas if delta.request_id == asked)
        return bool(reports)

    during = gaps_until(is_answered)
    first_ms = (time.perf_counter() - begun) * 1e3
    report = reports[0].cache_report
    assert report is not None
    assert report.host_tokens + report.disk_tokens == NUM_PREFIX, report
    for request_id in streams:
        one.core.abort(request_id)
    while one.core.has_work:
        one.core.step()
    one.run_chores()
    return alone, during[:-2], first_ms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    names = ("restart", "throughput", "streams")
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(names)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: 5)")
    chosen = parser.parse_args()
    parts = chosen.parts or names
    if unknown := set(parts) - set(names):
        parser.error(f"no such part: {', '.join(unknown)}")
    facts = print_machine()
    rounds = chosen.rounds
    found: dict[str, dict[str, float]] = {}
    rows = []
    if "restart" in parts:
        one = found["restart"] = time_restart(rounds)
        rows += [
            (
                f"first token, {NUM_PREFIX:,} + {NUM_SUFFIX} tokens, cold",
                f"{one['cold_ms']:.0f} ms",
                "",
            ),
            ("... in the device pool", f"{one['device_ms']:.1f} ms", ""),
            (
                "... after a restart, files in the page cache",
                f"{one['page_cache_warm_ms']:.0f} ms, {one['page_cache_share']:.3f} of cold",
                "at most 0.2",
            ),
            (
                "... after a restart, files read from the disk",
                f"{one['disk_warm_ms']:.0f} ms, {one['disk_share']:.3f} of cold",
                "at most 0.2",
            ),
        ]
    if "throughput" in parts:
        one = found["throughput"] = time_throughput(rounds)
        rows += [
            (
                f"working set 4x the device pool of {one['device_pages']:.0f} pages, no host tier",
                f"{one['without_per_s']:.2f} requests/s, {one['without_hit_rate']:.0%} cached",
                "",
            ),
            (
                "... with a host tier",
                f"{one['with_per_s']:.2f} requests/s, {one['with_hit_rate']:.0%} cached, "
                f"{one['ratio']:.1f}x",
                "at least 2x",
            ),
        ]
    if "streams" in parts:
        for on_disk, name in ((False, "host memory"), (True, "files")):
            one = found[f"streams, {name}"] = time_streams(rounds, on_disk=on_disk)
            rows.append(
                (
                    f"gaps of {NUM_STREAMS} streams while {NUM_PREFIX:,} tokens come from {name}",
                    f"median {one['median_gap']:.2f}x, mean {one['mean_gap']:.2f}x of alone; "
                    f"first token after {one['first_token_ms']:.0f} ms",
                    "at most 1.1x",
                )
            )
    print("\n| what | measured | wanted |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print(json.dumps({"bench": "tiers", "machine": facts, **found}))


if __name__ == "__main__":
    main()
