"""What the front end adds to a token: latency, and work on its one core.

    python bench/frontend_overhead.py [--streams 128] [--rate 50] [--seconds 20]

The server is the real one, pinned to one core; in its engine process's place runs a stub that
speaks the real protocol and emits a token for every stream, all in one step, ``--rate`` times a
second (``overhead/stub_engine.py``). On another core the stub and the client share, the client
notes when each token arrives. A token's added latency is from the moment before the stub packs it
until the client has it in its hands: packing, the pipe, unpacking, detokenizing, JSON, HTTP, TCP,
and the wait for the tokens of the same step that go first.

The target: with 128 streams at 50 tokens a second the server keeps up, and the 99th percentile of
the added latency is below 10 ms.

On a machine that is not ours alone ``--realtime`` keeps others from the two cores; the server's
time per token is the figure to compare.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from overhead import MODEL
from overhead.load import Stream, stream_all
from support.machine import print_machine

_HERE = Path(__file__).parent
_WARM_UP_TOKENS = 25
"""Of each stream's first tokens: connections, prompts and first chunks fall among them."""
_TOKENS = {"chat/completions": b'"content":"x"', "completions": b'"text":"x"'}
"""What a token's event holds, by endpoint."""
TARGET_P99_S = 0.010
_START_S = 120.0


def main() -> None:
    options = _options()
    facts = print_machine()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the server, one for the client and the stub")
    os.sched_setaffinity(0, {cores[1]})
    if options.realtime:
        # The server and the stub inherit it.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    with tempfile.TemporaryDirectory() as directory:
        times = Path(directory) / "times"
        said = Path(directory) / "said"
        environ = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(_HERE), os.getenv("PYTHONPATH")))),
            "SERVER_CORE": str(cores[0]),
            "STUB_CORE": str(cores[1]),
            "STUB_RATE": str(options.rate),
            "STUB_TIMES": str(times),
        }
        with said.open("w") as out:
            server = subprocess.Popen(
                [sys.executable, "-m", "overhead.stub_server", "--port", "0", *options.flags],
                stdout=out,
                stderr=out,
                env=environ,
            )
        try:
            url = _url(server, said)
            figures = _measure(options, url, server.pid)
        finally:
            server.terminate()
            server.wait(30)
        streams = figures.pop("streams")
        figures |= _latencies(streams, times)
    _report(options, figures)
    print(json.dumps({"bench": "frontend_overhead", "machine": facts, **figures}))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--rate", type=float, default=50.0, help="tokens a second of each stream")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--endpoint", choices=tuple(_TOKENS), default="chat/completions")
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="ahead of whatever else runs on a shared machine (needs the right to)",
    )
    parser.add_argument("flags", nargs="*", help="further flags for the server, after --")
    return parser.parse_args()


def _url(server: "subprocess.Popen[bytes]", said: Path) -> str:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s and server.poll() is None:
        found = re.search(r"listening +(http://\S+)", said.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{said.read_text()}")


def _measure(options: argparse.Namespace, url: str, pid: int) -> dict[str, Any]:
    num_tokens = round(options.seconds * options.rate)
    bodies = [
        {
            "model": MODEL,
            **_prompt(options.endpoint, f"#{number}# tell me something"),
            "max_tokens": num_tokens,
            "stream": True,
            "ignore_eos": True,
        }
        for number in range(options.streams)
    ]
    cpu_s, own_s, began_s = _cpu_s(pid), _own_cpu_s(), time.monotonic()
    streams = stream_all(
        url,
        bodies,
        path=f"/v1/{options.endpoint}",
        token=_TOKENS[options.endpoint],
        stagger_s=0.004,
    )
    wall_s = time.monotonic() - began_s
    num_missing = sum(num_tokens - len(stream.received_ns) for stream in streams)
    total = options.streams * num_tokens
    return {
        "streams": streams,
        "endpoint": options.endpoint,
        "num_streams": options.streams,
        "rate": options.rate,
        "wall_s": wall_s,
        "tokens_missing": num_missing,
        "server_cpu_share": (_cpu_s(pid) - cpu_s) / wall_s,
        "server_cpu_us_per_token": 1e6 * (_cpu_s(pid) - cpu_s) / total,
        "client_cpu_share": (_own_cpu_s() - own_s) / wall_s,
        "tokens_per_s": total / wall_s,
    }


def _prompt(endpoint: str, text: str) -> dict[str, Any]:
    if endpoint == "completions":
        return {"prompt": text}
    return {"messages": [{"role": "user", "content": text}]}


def _latencies(streams: list[Stream], times: Path) -> dict[str, Any]:
    sent = {}
    for line in times.read_text().splitlines():
        entry = json.loads(line)
        sent[entry["number"]] = entry["sent_ns"]
    latencies = [
        (received - left) / 1e9
        for stream in streams
        for received, left in zip(
            stream.received_ns[_WARM_UP_TOKENS:], sent[stream.number][_WARM_UP_TOKENS:], strict=True
        )
    ]
    steps = [
        (after - before) / 1e9
        for moments in sent.values()
        for before, after in zip(
            moments[_WARM_UP_TOKENS:], moments[_WARM_UP_TOKENS + 1 :], strict=False
        )
    ]
    cuts = statistics.quantiles(latencies, n=1000)
    return {
        "latency_ms_p50": 1e3 * cuts[499],
        "latency_ms_p90": 1e3 * cuts[899],
        "latency_ms_p99": 1e3 * cuts[989],
        "latency_ms_p999": 1e3 * cuts[998],
        "latency_ms_max": 1e3 * max(latencies),
        "stub_step_ms_p50": 1e3 * statistics.median(steps),
    }


def _report(options: argparse.Namespace, figures: dict[str, Any]) -> None:
    print(
        f"{options.endpoint}, {options.streams} streams at {options.rate:g} tokens/s: "
        f"{figures['tokens_per_s']:,.0f} tokens/s delivered, {figures['tokens_missing']} missing; "
        f"a step every {figures['stub_step_ms_p50']:.1f} ms"
    )
    print(
        "added latency per token, ms: "
        + ", ".join(
            f"{name} {figures[f'latency_ms_{name}']:.2f}"
            for name in ("p50", "p90", "p99", "p999", "max")
        )
    )
    print(
        f"server: {100 * figures['server_cpu_share']:.0f}% of its core, "
        f"{figures['server_cpu_us_per_token']:.0f} us a token; "
        f"client: {100 * figures['client_cpu_share']:.0f}% of its"
    )
    is_met = not figures["tokens_missing"] and figures["latency_ms_p99"] < 1e3 * TARGET_P99_S
    print(f"target (all delivered, p99 < 10 ms): {'met' if is_met else 'MISSED'}")


def _cpu_s(pid: int) -> float:
    """Processor time of one process, without its children. Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _own_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
