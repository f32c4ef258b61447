"""How many prompt tokens a prefix cache finds: policies against each other and against the optimum.

    python bench/hit_rate.py --trace conversation.jsonl.gz --capacity-blocks 1000,4000,16000
    python bench/hit_rate.py --workload rag,agents+scan --seed 3 --plot rates.png
    python bench/hit_rate.py --workload short-chat
    python bench/hit_rate.py --mode serving --workload chat+cold --load 0.95 --capacity-blocks 4000

No model runs. Rates are shares of prompt tokens. A recorded trace (hit_rate_parts/trace.py has the
format; radixserve serve --record-trace writes it) or generated traffic (workloads.py) is played in
one of two modes.

trace     prompts only, one after another, at the times they state; a block of the trace is a page.
          What is compared:
              return-time, lru   the project's cache with its policies; "default" is the one it uses
              vllm, sglang       their rules: vllm.py and sglang.py say which and whence
              belady             the bound: whoever knows the future can do no better
          short-chat has a table of its own: prompts and replies, pages of --page-size tokens; what
          rounding matches down to whole pages loses, and what matching them exactly regains.

serving   the real scheduler and cache serve prompts and replies on a simulated clock: requests run
          together, hold their pages, wait, are preempted. Of the project's policies it reports
          hits, times to first token (TTFT), and whether requests that find nothing starve. A
          capacity is that many blocks' worth of tokens, in pages of --page-size.

With --json the last line is one JSON object.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from hit_rate_parts.options import CAPACITIES, SERVING_CAPACITIES, SHORT_CAPACITIES, parse
from hit_rate_parts.plot import Panel, panel, plot
from hit_rate_parts.policies import SIMULATORS, policy_maker
from hit_rate_parts.result import Result, table
from hit_rate_parts.rounding import compare, rounding_table
from hit_rate_parts.served import ServingResult, serving_table
from hit_rate_parts.simulation import Server, Simulation
from hit_rate_parts.trace import Trace, TraceError, read_trace
from hit_rate_parts.traffic import Traffic, middle_rate, traffic_of_prompts, traffic_of_trace
from hit_rate_parts.workloads import generate, generate_prompts
from support.machine import print_machine

ROUNDING_WORKLOAD = "short-chat"


@dataclass(slots=True)
class Report:
    """What has been measured so far. Mutable."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, draw."""
    chosen = parse(arguments, __doc__)
    facts = print_machine()
    report = Report()
    try:
        if chosen.trace is not None:
            trace = read_trace(chosen.trace, block_tokens=chosen.block_tokens)
            if chosen.mode == "serving":
                serve(traffic_of_trace(trace), chosen, report)
            else:
                play(trace, chosen, report)
        for name in chosen.workload:
            if chosen.mode == "serving":
                prompts = generate_prompts(name, chosen.seed)
                serve(traffic_of_prompts(name, prompts, chosen.block_tokens), chosen, report)
            elif name.partition("+")[0] == ROUNDING_WORKLOAD:
                round_down(name, chosen, report)
            else:
                play(generate(name, chosen.seed, block_tokens=chosen.block_tokens), chosen, report)
    except (TraceError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if chosen.plot is not None:
        plot(report.panels, chosen.plot)
        print(f"\ndrawn: {chosen.plot}")
    if chosen.json:
        head = {"bench": "hit_rate", "mode": chosen.mode, "machine": facts, "seed": chosen.seed}
        print(json.dumps({**head, "results": report.rows}))
    return 0


def play(trace: Trace, chosen: argparse.Namespace, report: Report) -> None:
    """Trace mode: every policy at every capacity."""
    num_blocks = len({block for request in trace.requests for block in request.blocks})
    print(
        f"\n{trace.name}: {len(trace.requests):,} requests, {trace.num_tokens:,} prompt tokens, "
        f"{num_blocks:,} distinct blocks of {trace.block_tokens}; token hit rates in %"
    )
    results = []
    for policy in chosen.policy:
        for capacity in sorted(set(chosen.capacity_blocks or CAPACITIES)):
            begun_s = time.perf_counter()
            tally = SIMULATORS[policy](trace, capacity)
            run_s = time.perf_counter() - begun_s
            results.append(Result.of(trace, policy, capacity, tally, run_s))
    print(table(results), flush=True)
    report.rows += map(asdict, results)
    report.panels.append(panel(results, "token hit rate, %", lambda one: 100 * one.token_hit_rate))


def round_down(name: str, chosen: argparse.Namespace, report: Report) -> None:
    """Trace mode of short prompts: whole pages against exact matching."""
    prompts = generate_prompts(name, chosen.seed)
    results = []
    for capacity in sorted(set(chosen.capacity_blocks or SHORT_CAPACITIES)):
        results += compare(
            name,
            prompts,
            chosen.policy,
            capacity,
            block_tokens=chosen.block_tokens,
            page_size=chosen.page_size,
        )
    print(
        f"\n{name}: {len(prompts):,} requests, {results[0].mean_prompt_tokens:.1f} prompt tokens "
        f"on average, pages of {chosen.page_size}; tokens a request that rounding matches down to "
        "whole pages loses, and the share of them regained (wanted: 80%)"
    )
    print(rounding_table(results), flush=True)
    report.rows += map(asdict, results)
    report.panels.append(
        panel(results, "hit tokens a request", lambda one: one.hit_tokens_per_request)
    )


def serve(traffic: Traffic, chosen: argparse.Namespace, report: Report) -> None:
    """Serving mode: every policy at every capacity."""
    traffic = traffic.first(chosen.requests)
    server = Server(
        page_size=chosen.page_size,
        max_running=chosen.max_running,
        max_batch_tokens=chosen.max_batch_tokens,
        step_time=chosen.step_seconds,
    )
    print(
        f"\n{traffic.name}: {len(traffic.calls):,} requests, pages of {chosen.page_size}, up to "
        f"{chosen.max_running} running; a step takes {server.step_time.step_s:g} s "
        f"+ {server.step_time.token_s:g} a token + {server.step_time.running_s:g} a request"
    )
    results = []
    for capacity in sorted(set(chosen.capacity_blocks or SERVING_CAPACITIES)):
        num_pages = max(1, capacity * traffic.block_tokens // chosen.page_size)
        capacity_rate = None
        sent = traffic
        if chosen.load is not None:
            capacity_rate = _capacity_rate(traffic, server, num_pages, chosen.policy[0])
            sent = traffic.at_rate(chosen.load * capacity_rate)
            print(
                f"at {capacity:,} blocks the server can do {capacity_rate:.3g} requests/s with "
                f"{chosen.policy[0]}; {chosen.load * capacity_rate:.3g} are sent"
            )
        for policy in chosen.policy:
            begun_s = time.perf_counter()
            outcome = Simulation(sent, server, num_pages, policy_maker(policy)).run()
            results.append(
                ServingResult.of(
                    sent,
                    policy,
                    capacity,
                    chosen.page_size,
                    outcome,
                    capacity_rate=capacity_rate,
                    run_s=time.perf_counter() - begun_s,
                )
            )
    print(serving_table(results), flush=True)
    report.rows += map(asdict, results)
    report.panels.append(panel(results, "token hit rate, %", lambda one: 100 * one.token_hit_rate))
    report.panels.append(panel(results, "p99 TTFT, s", lambda one: one.all_waits.ttft_s.p99))


def _capacity_rate(traffic: Traffic, server: Server, num_pages: int, policy: str) -> float:
    """Requests a second that end in the middle of a run in which there is always more to do."""
    run = Simulation(traffic, server, num_pages, policy_maker(policy), saturated=True).run()
    return middle_rate([one.end_s for one in run.services if one is not None])


if __name__ == "__main__":
    sys.exit(main())
