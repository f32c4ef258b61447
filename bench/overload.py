"""Five times as many requests as the server can do: what the accepted ones see, and the others.

    python bench/overload.py [--rounds 3] [--window-s 40] [--queue-s 2]

A real server (88M parameters, bfloat16) in a process of its own, over HTTP, streaming. Prompts of
64 to 256 tokens that nobody has seen before, answers of 8 to 48. In each round a closed loop, more
clients than the server runs at once, finds its capacity: the tokens that it generates per second,
in requests of the mean length. In each, because the machine may not be the same from one minute to
the next. Then arrivals are random (Poisson) and wait for
nobody: at that rate and at five times that rate, each coming first in turns. Nobody tries again
after a 429. Each part begins with an empty server.

Then two tenants: a heavy one floods, five times the capacity; a light one sends one request after
the other and sees how long its first tokens take: without the flood, beside it with a key of its
own, and beside it as a part of the heavy tenant, as it would be if nothing were fair.

The load generator, the HTTP side and the model share this machine.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import asyncio
import json
import os
import re
import statistics
import time
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from support.checkpoint import VOCAB_SIZE, bench_checkpoint
from support.served import Outcome, complete, served

OVERLOAD = 5
PROMPT_TOKENS = (64, 256)
ANSWER_TOKENS = (8, 48)
MAX_RUNNING = 16
CAPACITY_S = 20.0
HEAVY_KEY = "heavy-tenants-key-of-the-bench"
LIGHT_KEY = "light-tenants-key-of-the-bench"
TIMEOUT_S = 300.0


class Load:
    """A client of one server, and requests that nobody has seen before."""

    def __init__(self, url: str, seed: int) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        self._client = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits)
        self._rng = np.random.default_rng(seed)

    async def __aenter__(self) -> "Load":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, key: str = HEAVY_KEY) -> Outcome:
        """One request, to its end."""
        rng = self._rng
        prompt = rng.integers(300, VOCAB_SIZE, rng.integers(*PROMPT_TOKENS, endpoint=True))
        return await complete(
            self._client,
            prompt.tolist(),
            int(rng.integers(*ANSWER_TOKENS, endpoint=True)),
            headers={"Authorization": f"Bearer {key}"},
        )

    async def capacity(self) -> float:
        """Requests per second when there are always more; how it begins is not counted."""
        is_over = False

        async def client() -> None:
            while not is_over:
                outcome = await self.send()
                if outcome.status != 200:
                    await asyncio.sleep(0.2)

        clients = [asyncio.create_task(client()) for _ in range(2 * MAX_RUNNING)]
        await asyncio.sleep(CAPACITY_S / 2)
        begun_s, begun_tokens = time.perf_counter(), await self._generated_tokens()
        await asyncio.sleep(CAPACITY_S)
        num_tokens = await self._generated_tokens() - begun_tokens
        rate = num_tokens / (time.perf_counter() - begun_s)
        is_over = True
        await asyncio.gather(*clients)
        return rate / (sum(ANSWER_TOKENS) / 2)

    async def _generated_tokens(self) -> float:
        text = (await self._client.get("/metrics")).text
        found = re.search(r"^radixserve_generation_tokens_total (\S+)$", text, re.MULTILINE)
        assert found is not None, "the server does not count what it generates"
        return float(found.group(1))

    async def open_loop(self, rate: float, window_s: float) -> list[Outcome]:
        """Poisson arrivals for so long; every outcome, once the last has come."""
        rng = np.random.default_rng(self._rng.integers(2**32))
        begun_s = time.perf_counter()
        at_s, tasks = 0.0, []
        while (at_s := at_s + rng.exponential(1 / rate)) < window_s:
            await asyncio.sleep(max(0.0, begun_s + at_s - time.perf_counter()))
            tasks.append(asyncio.create_task(self.send()))
        return await asyncio.gather(*tasks)

    async def one_by_one(self, key: str, window_s: float) -> list[Outcome]:
        """One request after the other, with half a second in between."""
        begun_s = time.perf_counter()
        outcomes = []
        while time.perf_counter() - begun_s < window_s:
            outcomes.append(await self.send(key))
            await asyncio.sleep(0.5)
        return outcomes


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    return float(np.percentile(seconds, percent)) * 1e3 if seconds else float("nan")


def summary(outcomes: Sequence[Outcome], window_s: float) -> dict[str, Any]:
    accepted = [one for one in outcomes if one.status == 200]
    end_s = window_s + (outcomes[0].sent_s if outcomes else 0.0)
    refused = [one for one in outcomes if one.status == 429]
    firsts = [one.first_s for one in accepted]
    refusals = [one.first_s for one in refused]
    return {
        "requests": len(outcomes),
        "accepted": len(accepted),
        "failed": len(outcomes) - len(accepted) - len(refused),
        "failed_as": sorted({one.status for one in outcomes} - {200, 429}),
        "refused_share": len(refused) / max(1, len(outcomes)),
        "ttft_p50_ms": percentile_ms(firsts, 50),
        "ttft_p99_ms": percentile_ms(firsts, 99),
        "refusal_p50_ms": percentile_ms(refusals, 50),
        "refusal_p99_ms": percentile_ms(refusals, 99),
        "refusal_max_ms": percentile_ms(refusals, 100),
        "goodput_tok_s": sum(one.num_tokens_before(end_s) for one in accepted) / window_s,
    }


async def overload(load: Load, rounds: int, window_s: float) -> dict[str, Any]:
    """1x and 5x in turns, and what they make of the p99 of the first tokens."""
    found: dict[int, list[Outcome]] = {1: [], OVERLOAD: []}
    goodputs: dict[int, list[float]] = {1: [], OVERLOAD: []}
    ratios, capacities = [], []
    for number in range(rounds):
        p99 = {}
        capacity = await load.capacity()
        print(f"round {number + 1}, capacity: {capacity:.2f} requests/s", flush=True)
        capacities.append(capacity)
        for times in (1, OVERLOAD) if number % 2 == 0 else (OVERLOAD, 1):
            outcomes = await load.open_loop(times * capacity, window_s)
            figures = summary(outcomes, window_s)
            print(f"round {number + 1}, {times}x: {json.dumps(figures)}", flush=True)
            found[times] += outcomes
            goodputs[times].append(figures["goodput_tok_s"])
            p99[times] = figures["ttft_p99_ms"]
        ratios.append(p99[OVERLOAD] / p99[1])
    result: dict[str, Any] = {
        f"{times}x": summary(outcomes, window_s)
        | {"goodput_tok_s": statistics.median(goodputs[times])}
        for times, outcomes in found.items()
    }
    result["capacities_requests_s"] = capacities
    result["capacity_requests_s"] = statistics.median(capacities)
    result["p99_ratios"] = ratios
    result["p99_ratio"] = result[f"{OVERLOAD}x"]["ttft_p99_ms"] / result["1x"]["ttft_p99_ms"]
    return result


async def fairness(load: Load, capacity: float, window_s: float) -> dict[str, Any]:
    """The light tenant's first tokens: alone, beside a flood, and as a part of the flood."""
    result: dict[str, Any] = {
        "alone": summary(await load.one_by_one(LIGHT_KEY, window_s / 2), window_s / 2)
    }
    for name, key in (("own_key", LIGHT_KEY), ("same_key", HEAVY_KEY)):
        flood = asyncio.create_task(load.open_loop(OVERLOAD * capacity, 1.5 * window_s))
        # Until the heavy tenant's queue is full.
        await asyncio.sleep(window_s / 2)
        result[name] = summary(await load.one_by_one(key, window_s), window_s)
        await flood
        print(f"fairness, {name}: {json.dumps(result[name])}", flush=True)
    return result


async def run(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    async with Load(url, seed=0) as load:
        # What is measured first would else be how the server warms up.
        await asyncio.gather(*(load.send() for _ in range(MAX_RUNNING)))
        window_s = arguments.window_s
        result = await overload(load, arguments.rounds, window_s)
        result["fairness"] = await fairness(load, result["capacity_requests_s"], window_s)
        return result


def report(result: dict[str, Any]) -> None:
    print("\n| offered | accepted TTFT p50 | p99 | answered 429 | 429 p99 | output tokens/s |")
    print("|---|---|---|---|---|---|")
    for times in (1, OVERLOAD):
        row = result[f"{times}x"]
        print(
            f"| {times}x capacity ({times * result['capacity_requests_s']:.1f} requests/s) "
            f"| {row['ttft_p50_ms']:.0f} ms | {row['ttft_p99_ms']:.0f} ms "
            f"| {row['refused_share']:.0%} | {row['refusal_p99_ms']:.0f} ms "
            f"| {row['goodput_tok_s']:.0f} |"
        )
    print(
        f"\np99 at {OVERLOAD}x over p99 at 1x: {result['p99_ratio']:.2f} "
        f"(by round: {', '.join(f'{one:.2f}' for one in result['p99_ratios'])}; wanted: at most 2)"
    )
    print("\n| light tenant | TTFT p50 | p99 | answered 429 |")
    print("|---|---|---|---|")
    for name, label in (
        ("alone", "alone"),
        ("own_key", "beside the flood, own key"),
        ("same_key", "beside the flood, the heavy tenant's key"),
    ):
        row = result["fairness"][name]
        print(
            f"| {label} | {row['ttft_p50_ms']:.0f} ms | {row['ttft_p99_ms']:.0f} ms "
            f"| {row['refused_share']:.0%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of 1x and 5x (default: 3)")
    parser.add_argument("--window-s", type=float, default=40.0, help="seconds each (default: 40)")
    parser.add_argument("--queue-s", type=float, help="the server's --max-queue-s")
    arguments = parser.parse_args()
    facts = print_machine()
    # One core for the load and the HTTP side, so that it is the model's share that runs out.
    num_threads = max(1, (os.cpu_count() or 2) - 1)
    with served(
        str(bench_checkpoint()),
        *("--served-model-name", "bench", "--dtype", "bfloat16", "--kv-cache-gib", "2"),
        *("--max-running", str(MAX_RUNNING), "--num-threads", str(num_threads)),
        *(() if arguments.queue_s is None else ("--max-queue-s", str(arguments.queue_s))),
        *("--log-level", "warning", "--public-metrics"),
        RADIXSERVE_API_KEYS=f"heavy:{HEAVY_KEY},light:{LIGHT_KEY}",
    ) as url:
        result = asyncio.run(run(url, arguments))
    report(result)
    print(json.dumps({"bench": "overload", "machine": facts, **result}))


if __name__ == "__main__":
    main()
