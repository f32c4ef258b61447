"""Requests made from the API's own description, right ones and wrong ones, thrown at a server.

    python bench/fuzz_api.py [--cases 5000] [--seed 0]

schemathesis reads /openapi.json from a server of noise and makes cases of every operation:
half of them as described, half of them not. Asserted are, of every case,

- the answer's status is below 500 (or 504, where the case sets a ``timeout``), and an answer comes
  at all, within half a minute,

and at the end

- the server is ready, nothing runs or waits, and no page is in use.

The exit status is 1 if any of it does not hold.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from tqdm import tqdm

from soak_parts.server import running

FLAGS: Final = (
    *("--dtype", "float32", "--num-threads", "1", "--page-size", "16", "--num-pages", "256"),
    # Short answers: it is the requests that are looked at here.
    *("--max-model-len", "192", "--log-level", "warning"),
)
TIMEOUT_S: Final = 30.0
REST_S: Final = 30.0
MAX_SHOWN: Final = 5
FEW: Final = 20


@dataclass(slots=True)
class Report:
    """What came of it."""

    statuses: Counter[int] = field(default_factory=Counter)
    by_operation: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


def fuzz(url: str, *, num_cases: int, seed_: int, progress: bool) -> Report:
    """Throw ``num_cases`` cases, or a few more, at the server: as many at every operation with a
    body, a few at the others."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    # A stream of events that never ends is no case to wait for the end of.
    operations: list[Any] = []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        if found.ok().path != "/cache/events":
            operations.append(found.ok())
    report = Report()
    num_bodies = sum(bool(operation.body) for operation in operations)
    with requests.Session() as session, tqdm(total=num_cases, disable=not progress) as bar:
        for operation in operations:
            count = -(-num_cases // num_bodies) if operation.body else FEW
            for number, mode in enumerate((GenerationMode.POSITIVE, GenerationMode.NEGATIVE)):
                try:
                    strategy = operation.as_strategy(generation_mode=mode)
                    _throw(strategy, session, report, -(-count // 2), seed_ + number, bar)
                except schemathesis.errors.InvalidSchema as error:
                    report.failures.append(f"{operation.label}: {error}")
                except Exception as error:
                    # What takes nothing can be given nothing wrong.
                    if "negative" not in str(error).lower() and "Unsatisfiable" not in repr(error):
                        raise
    return report


def _throw(
    strategy: Any, session: requests.Session, report: Report, count: int, seed_: int, bar: Any
) -> None:
    @seed(seed_)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def throw(case: Any) -> None:
        bar.update()
        label = case.operation.label
        report.by_operation[label] += 1
        begun_s = time.monotonic()
        try:
            answer = case.call(session=session, timeout=TIMEOUT_S)
        except requests.RequestException as error:
            report.failures.append(f"{label}: {type(error).__name__}: {error}: {_shown(case)}")
            return
        report.slowest_s = max(report.slowest_s, time.monotonic() - begun_s)
        report.statuses[answer.status_code] += 1
        if answer.status_code >= 500 and not _ran_out_of_time(case, answer.status_code):
            report.failures.append(
                f"{label}: {answer.status_code}: {answer.text[:300]}: {_shown(case)}"
            )

    throw()


def _ran_out_of_time(case: Any, status: int) -> bool:
    """Whether it is what the case itself asked for."""
    return status == 504 and isinstance(case.body, dict) and case.body.get("timeout") is not None


def _shown(case: Any) -> str:
    return f"{case.method} {case.formatted_path} {str(case.body)[:600]}"


def check_rest(url: str) -> list[str]:
    """Wait until nothing runs; what is wrong then."""
    end_s = time.monotonic() + REST_S
    with httpx.Client(base_url=url, timeout=TIMEOUT_S) as client:
        while True:
            stats = client.get("/cache/stats").json()
            metrics = client.get("/metrics").text
            busy = [
                line
                for line in metrics.splitlines()
                if line.startswith(("radixserve_num_requests_", "radixserve_requests_"))
                and line.split()[0].rpartition("_")[2] in ("running", "waiting")
                and float(line.split()[1]) > 0
            ]
            if stats["pages"]["in_use"] == 0 and not busy:
                break
            if time.monotonic() > end_s:
                return [f"pages still in use: {stats['pages']}; {busy}"]
            time.sleep(0.2)
        ready = client.get("/ready")
    return [] if ready.status_code == 200 else [f"not ready: {ready.text}"]


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    print_machine()
    with (
        tempfile.TemporaryDirectory() as directory,
        running(Path(directory), *FLAGS) as server,
    ):
        begun_s = time.monotonic()
        report = fuzz(
            server.url, num_cases=options.cases, seed_=options.seed, progress=sys.stderr.isatty()
        )
        failures = report.failures + check_rest(server.url)
        took_s = time.monotonic() - begun_s
        if server.stop() != 0:
            failures.append("the server did not end with status 0")
    for label, count in sorted(report.by_operation.items()):
        print(f"{count:6d}  {label}")
    shown = ", ".join(f"{status}: {count}" for status, count in sorted(report.statuses.items()))
    print(f"{sum(report.statuses.values())} answers in {took_s:.0f} s: {shown}")
    print(f"slowest answer: {report.slowest_s:.2f} s")
    for failure in failures[:MAX_SHOWN]:
        print(f"FAILED {failure}")
    print(f"{len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
