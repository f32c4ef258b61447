"""What serving mode reports of one run: hits, times to first token, and how long nobody starved."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hit_rate_parts.simulation import Outcome, Service
from hit_rate_parts.traffic import Traffic, middle_rate
from radixserve.scheduler.policy import MAX_OVERTAKES


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, median, 99th percentile and maximum; all 0 of nothing."""

    mean: float
    p50: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Percentiles are values that occur (nearest rank)."""
        if not values:
            return cls(0.0, 0.0, 0.0, 0.0)
        ordered = sorted(values)
        median, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.99))
        return cls(sum(ordered) / len(ordered), median, p99, ordered[-1])


@dataclass(frozen=True, slots=True)
class Waits:
    """How long requests waited for their admission, in seconds and in admissions of others."""

    num_requests: int
    ttft_s: Spread
    wait_s: Spread
    overtakes: Spread
    """Others admitted between arrival and admission."""
    worst_overtakes: int
    """Of the request that came closest to its bound, or went furthest beyond it."""
    worst_bound: int
    """That request's bound: those who were waiting when it came, and ``MAX_OVERTAKES``."""
    num_beyond_bound: int

    @classmethod
    def of(cls, services: Sequence[Service]) -> "Waits":
        """The waits of these requests."""
        worst = max(services, key=lambda one: one.num_overtakes - one.bound, default=None)
        return cls(
            num_requests=len(services),
            ttft_s=Spread.of([one.ttft_s for one in services]),
            wait_s=Spread.of([one.wait_s for one in services]),
            overtakes=Spread.of([one.num_overtakes for one in services]),
            worst_overtakes=worst.num_overtakes if worst else 0,
            worst_bound=worst.bound if worst else 0,
            num_beyond_bound=sum(one.num_overtakes > one.bound for one in services),
        )

    @property
    def is_within_bound(self) -> bool:
        """Whether 99 of 100 were admitted within their own bounds: whether none starves."""
        return self.num_beyond_bound <= self.num_requests // 100


@dataclass(frozen=True, slots=True)
class ServingResult:
    """How one policy fared in serving one workload at one capacity."""

    workload: str
    policy: str
    capacity_blocks: int
    block_tokens: int
    page_size: int
    token_hit_rate: float
    """Share of prompt tokens that the tree held at admission."""
    in_flight_hit_rate: float
    """Share that it held only because the request waited for another that computed them."""
    load: float | None
    """Requests sent a second over those that the server can serve, in the middle of the traffic;
    None if no load was asked for."""
    num_requests: int
    num_refused: int
    num_prompt_tokens: int
    num_cached_tokens: int
    all_waits: Waits
    no_hit_waits: Waits
    """Of requests of which nothing was cached."""
    preemptions: int
    evicted_pages: int
    requests_per_s: float
    generated_tokens_per_s: float
    simulated_s: float
    run_s: float

    @classmethod
    def of(
        cls,
        traffic: Traffic,
        policy: str,
        capacity_blocks: int,
        page_size: int,
        outcome: Outcome,
        *,
        capacity_rate: float | None,
        run_s: float,
    ) -> "ServingResult":
        """The figures of one run. ``capacity_rate``: requests a second that the server can do."""
        served = [one for one in outcome.services if one is not None]
        num_prompt_tokens = sum(call.num_prompt_tokens for call in traffic.calls)
        num_cached_tokens = sum(one.num_cached_tokens for one in served)
        load = None
        if capacity_rate is not None:
            load = middle_rate([one.arrival_s for one in served]) / capacity_rate
        begun_s = min((one.arrival_s for one in served), default=outcome.end_s)
        span_s = max(outcome.end_s - begun_s, 1e-9)
        return cls(
            workload=traffic.name,
            policy=policy,
            capacity_blocks=capacity_blocks,
            block_tokens=traffic.block_tokens,
            page_size=page_size,
            token_hit_rate=num_cached_tokens / num_prompt_tokens,
            in_flight_hit_rate=outcome.stats.in_flight_tokens / num_prompt_tokens,
            load=load,
            num_requests=len(traffic.calls),
            num_refused=len(traffic.calls) - len(served),
            num_prompt_tokens=num_prompt_tokens,
            num_cached_tokens=num_cached_tokens,
            all_waits=Waits.of(served),
            no_hit_waits=Waits.of([one for one in served if not one.num_cached_tokens]),
            preemptions=outcome.stats.preemptions,
            evicted_pages=outcome.stats.evicted_pages,
            requests_per_s=len(served) / span_s,
            generated_tokens_per_s=outcome.stats.generated_tokens / span_s,
            simulated_s=span_s,
            run_s=round(run_s, 3),
        )


_HEAD = (
    "policy        blocks  hits %   TTFT s mean    p50    p99   no hit: mean    p50    p99"
    "   preempted  evicted pages  req/s  tokens/s"
)


def serving_table(results: Sequence[ServingResult]) -> str:
    """A row a policy and capacity, then what is known of starvation."""
    lines = [_HEAD]
    for one in results:
        ttft_s, cold_s = one.all_waits.ttft_s, one.no_hit_waits.ttft_s
        lines.append(
            f"{one.policy:<12}{one.capacity_blocks:>8,}{100 * one.token_hit_rate:>8.1f}"
            f"{ttft_s.mean:>14.2f}{ttft_s.p50:>7.2f}{ttft_s.p99:>7.2f}"
            f"{cold_s.mean:>15.2f}{cold_s.p50:>7.2f}{cold_s.p99:>7.2f}"
            f"{one.preemptions:>12,}{one.evicted_pages:>15,}"
            f"{one.requests_per_s:>7.2f}{one.generated_tokens_per_s:>10,.0f}"
        )
    lines += [_starvation(one) for one in results]
    refused = max(one.num_refused for one in results)
    if refused:
        lines.append(f"(up to {refused} requests fitted into no pool of that size: all missed)")
    return "\n".join(lines)


def _starvation(one: ServingResult) -> str:
    waits = one.no_hit_waits
    verdict = "met" if waits.is_within_bound else "NOT met"
    load = "" if one.load is None else f" at {100 * one.load:.0f}% load"
    return (
        f"{one.policy}, {one.capacity_blocks:,} blocks: {waits.num_requests:,} requests without "
        f"any hit{load} waited for p99 {waits.overtakes.p99:.0f}, max {waits.overtakes.max:.0f} "
        f"admissions (p99 {waits.wait_s.p99:.2f} s, max {waits.wait_s.max:.2f} s); bound, those "
        f"ahead + {MAX_OVERTAKES}: closest {waits.worst_overtakes} of {waits.worst_bound}, beyond "
        f"{waits.num_beyond_bound}: {verdict}"
    )
