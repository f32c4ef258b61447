"""One figure of the benchmark, and all of them as a table."""

from collections.abc import Sequence
from dataclasses import dataclass

from hit_rate_parts.tally import Tally
from hit_rate_parts.trace import Trace


@dataclass(frozen=True, slots=True)
class Result:
    """How one policy fared on one workload at one capacity."""

    workload: str
    policy: str
    capacity_blocks: int
    block_tokens: int
    token_hit_rate: float
    block_hit_rate: float
    num_requests: int
    num_tokens: int
    num_hit_tokens: int
    num_refused: int
    run_s: float

    @classmethod
    def of(
        cls, trace: Trace, policy: str, capacity_blocks: int, tally: Tally, run_s: float
    ) -> "Result":
        """The figures of one run."""
        return cls(
            workload=trace.name,
            policy=policy,
            capacity_blocks=capacity_blocks,
            block_tokens=trace.block_tokens,
            token_hit_rate=tally.token_hit_rate,
            block_hit_rate=tally.block_hit_rate,
            num_requests=tally.num_requests,
            num_tokens=tally.num_tokens,
            num_hit_tokens=tally.num_hit_tokens,
            num_refused=tally.num_refused,
            run_s=round(run_s, 3),
        )


def table(results: Sequence[Result]) -> str:
    """One workload's token hit rates in per cent: a row a policy, a column a capacity."""
    capacities = sorted({result.capacity_blocks for result in results})
    rates = {(result.policy, result.capacity_blocks): result.token_hit_rate for result in results}
    policies = list(dict.fromkeys(result.policy for result in results))
    width = max(len("blocks"), *map(len, policies))
    lines = [f"{'blocks':<{width}}" + "".join(f"{capacity:>9,}" for capacity in capacities)]
    lines += [
        f"{policy:<{width}}"
        + "".join(f"{100 * rates[policy, capacity]:9.1f}" for capacity in capacities)
        for policy in policies
    ]
    refused = max(result.num_refused for result in results)
    if refused:
        lines.append(f"(up to {refused} requests fitted into no cache of that size: all missed)")
    return "\n".join(lines)
