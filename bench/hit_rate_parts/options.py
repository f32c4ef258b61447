"""The command line of ``bench/hit_rate.py``: what may be asked for, and what is refused."""

import argparse
from collections.abc import Callable
from pathlib import Path

from hit_rate_parts.policies import COMPARED, OURS, SIMULATORS
from hit_rate_parts.simulation import Server, StepTime
from hit_rate_parts.trace import MOONCAKE_BLOCK_TOKENS
from hit_rate_parts.workloads import COLD_SUFFIX, WORKLOADS

CAPACITIES = [1000, 2000, 4000, 8000, 16000]
SHORT_CAPACITIES = [250, 500, 1000, 2000]
SERVING_CAPACITIES = [4000]


def parse(arguments: list[str] | None, description: str | None) -> argparse.Namespace:
    """The options, checked; ``policy`` and ``workload`` are lists, filled in if nothing was said.

    ``capacity_blocks`` stays None then: what suits depends on the workload.
    """
    server = Server()
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--mode", choices=("trace", "serving"), default="trace", help="see above (default: trace)"
    )
    parser.add_argument("--trace", type=Path, metavar="FILE[.gz]", help="a recorded trace")
    parser.add_argument(
        "--workload",
        type=_names(WORKLOADS),
        metavar="NAME[,NAME...]",
        help="generated: " + ", ".join(name for name in WORKLOADS if "+" not in name) + "; with "
        "+scan behind it, as many tokens again that never come back; with +cold, one short request "
        "in ten that shares nothing (default: all without +cold, if no trace is given)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of generated traffic (default: 0)")
    parser.add_argument(
        "--requests", type=int, metavar="N", help="serving: only the first N (default: all)"
    )
    parser.add_argument(
        "--block-tokens",
        type=int,
        default=MOONCAKE_BLOCK_TOKENS,
        help="tokens a block of the trace has, and the unit of capacity (default: 512, as in "
        "Mooncake's)",
    )
    parser.add_argument(
        "--policy",
        type=_names(tuple(SIMULATORS)),
        metavar="NAME[,NAME...]",
        help=f"of {', '.join(SIMULATORS)} (default: {','.join(COMPARED)}; serving knows only the "
        "project's, and runs lru,default)",
    )
    parser.add_argument(
        "--capacity-blocks",
        type=_capacities,
        metavar="N[,N...]",
        help="(default: 1000,2000,4000,8000,16000; short-chat: 250,500,1000,2000; serving: 4000)",
    )
    parser.add_argument(
        "--page-size",
        type=int,
        default=server.page_size,
        help="tokens a page has, in serving and of short-chat (default: 16)",
    )
    parser.add_argument(
        "--load",
        type=float,
        metavar="SHARE",
        help="serving: speed the traffic up or slow it down until that share of the requests that "
        "the server can do in a second, measured under the first policy with the queue never "
        "empty, come in a second; 0.95 is a busy server, above 1 queues grow (default: the times "
        "that the traffic states)",
    )
    parser.add_argument(
        "--step-seconds",
        type=_step_time,
        default=server.step_time,
        metavar="A,B,C",
        help="serving: a step takes A + B * tokens computed + C * requests running (default: "
        "0.02,0.0001,0.0005: round numbers, measured nowhere)",
    )
    parser.add_argument(
        "--max-running",
        type=int,
        default=server.max_running,
        help="serving: most requests that run together (default: 64)",
    )
    parser.add_argument(
        "--max-batch-tokens",
        type=int,
        default=server.max_batch_tokens,
        help="serving: most tokens a step computes (default: 2048)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it (matplotlib)")
    parser.add_argument("--json", action="store_true", help="print all figures as the last line")
    parsed = parser.parse_args(arguments)
    for option in ("block_tokens", "page_size", "max_running", "requests"):
        value = getattr(parsed, option)
        if value is not None and value < 1:
            parser.error(f"--{option.replace('_', '-')} is {value}; expected at least 1")
    if parsed.load is not None and not parsed.load > 0:
        parser.error(f"--load is {parsed.load}; expected a share above 0, as 0.95")
    if parsed.max_batch_tokens < parsed.max_running:
        parser.error(
            f"--max-batch-tokens is {parsed.max_batch_tokens}; expected one for each of the "
            f"{parsed.max_running} that --max-running lets run"
        )
    if parsed.mode == "serving":
        parsed.policy = parsed.policy or ["lru", "default"]
        for name in parsed.policy:
            if name not in OURS:
                parser.error(
                    f"--policy {name} cannot serve: serving runs the project's own scheduler and "
                    f"cache; choose of {', '.join(OURS)}, or --mode trace"
                )
    elif parsed.load is not None:
        parser.error("--load is of --mode serving; in trace mode requests come one by one")
    parsed.policy = list(dict.fromkeys(parsed.policy or COMPARED))
    if parsed.workload is None:
        parsed.workload = []
        if parsed.trace is None:
            parsed.workload = [name for name in WORKLOADS if not name.endswith(COLD_SUFFIX)]
    return parsed


def _names(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    """An argument that is a comma-separated list of known names."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return parse


def _capacities(text: str) -> list[int]:
    """An argument that is a comma-separated list of positive numbers."""
    try:
        chosen = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}; expected 1000 or 1000,2000") from error
    if min(chosen) < 1:
        raise argparse.ArgumentTypeError(f"{min(chosen)} blocks; expected at least one")
    return chosen


def _step_time(text: str) -> StepTime:
    """An argument that is three numbers of seconds."""
    try:
        step_s, token_s, running_s = (float(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}; expected three, as 0.02,1e-4,5e-4") from error
    if not (step_s > 0 and token_s >= 0 and running_s >= 0):
        raise argparse.ArgumentTypeError(f"{text!r}; a step must take time, and nothing gives any")
    return StepTime(step_s, token_s, running_s)
