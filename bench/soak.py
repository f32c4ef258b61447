"""Chaos over real HTTP, for as long as you like: does anything get lost, mixed up, or left behind?

    python bench/soak.py [--minutes 10] [--streams 200] [--kills 3] [--seed 0]

A server of noise (float32, greedy) with a pool too small for what runs at once, so that
requests are preempted. Clients stream, ask for whole answers, leave, cancel, run out of time; the
engine process is killed (SIGKILL) a few times in the first half. Asserted are

- every answer that a client stayed for is complete and equal, character by character, to the one
  that the undisturbed server gave before; what leavers saw is the beginning of theirs,
- the server answers /health with 200 all the time,
- at the end nothing runs or waits, no page is in use (hence none is locked), and the server has no
  more file descriptors, asyncio tasks and socket directories than before,
- memory does not grow: over the second half, with two minutes or more, the server's by no more than
  a twentieth and 8 MiB, the engine's likewise,
- SIGTERM ends it with status 0.

The exit status is 1 if any of it does not hold. Linux only: it looks into /proc.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from soak_parts.http import Http
from soak_parts.server import ServerProcess, rss_bytes, running
from soak_parts.traffic import KINDS, Clients, make_cases

FLAGS = (
    *("--dtype", "float32", "--num-threads", "1", "--page-size", "16", "--max-running", "64"),
    # Nobody is to be refused: what is accepted is looked at here.
    *("--max-queued-requests", "100000", "--max-queue-s", "86400", "--debug-endpoints"),
    *("--log-level", "warning"),
)
NUM_PAGES = 100
"""64 answers of about 150 tokens, prompt included, take 600 if they share nothing."""
MEMORY_MINUTES = 2.0
"""A shorter run says nothing of memory: caches are still filling."""
REST_S = 60.0


@dataclass
class Samples:
    """Taken about once a second."""

    begun_s: float = field(default_factory=time.monotonic)
    server: list[tuple[float, int]] = field(default_factory=list)
    """Seconds since the beginning, bytes."""
    engine: list[tuple[float, int]] = field(default_factory=list)
    ready: list[bool] = field(default_factory=list)

    def take(self, server: ServerProcess, engine_pid: int | None) -> None:
        now_s = time.monotonic() - self.begun_s
        self.server.append((now_s, server.rss_bytes))
        if engine_pid is not None:
            self.engine.append((now_s, rss_bytes(engine_pid)))


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an idle server holds."""

    num_files: int
    num_tasks: int
    num_directories: int


class Soak:
    """One run."""

    def __init__(self, server: ServerProcess, options: argparse.Namespace) -> None:
        self._server = server
        self._http = Http(server.url)
        self._options = options
        self._duration_s = options.minutes * 60.0
        self._rng = random.Random(options.seed)
        self.samples = Samples()
        self.violations: list[str] = []
        self.figures: dict[str, Any] = {}

    async def run(self) -> None:
        """All of it. Fills ``violations`` and ``figures``."""
        options = self._options
        cases = await make_cases(self._http, options.prompts, options.seed, options.tokens)
        # The first stream starts what lasts as long as the server.
        await self._http.stream(cases[0].body)
        await self._come_to_rest()
        before = await self._footprint()
        clients = Clients(self._http, cases, options.seed)
        self.samples = Samples()
        running_clients = asyncio.create_task(clients.run(options.streams))
        others = [asyncio.create_task(self._kill()), asyncio.create_task(self._watch(clients))]
        await asyncio.sleep(self._duration_s)
        clients.stop()
        # Everybody has a stream to end, behind all the others.
        try:
            await asyncio.wait_for(running_clients, 120 + 2 * options.streams)
        except TimeoutError:
            self.violations.append("some streams do not end")
        for other in others:
            other.cancel()
        for result in await asyncio.gather(*others, return_exceptions=True):
            if isinstance(result, Exception):
                self.violations.append(f"the soak itself failed: {result!r}")
        self.violations += clients.violations
        await self._judge_end(before)
        self._judge_memory()
        self.figures |= {
            "done": dict(clients.done),
            "requests": sum(clients.done[kind] for kind in KINDS),
            "ready_share": round(statistics.fmean(self.samples.ready), 3),
        }

    async def _kill(self) -> None:
        """Kill the engine at random moments of the first half."""
        kills = self._options.kills
        span_s = self._duration_s / 2 / max(kills, 1)
        for number in range(kills):
            due_s = self.samples.begun_s + (number + self._rng.uniform(0.2, 1.0)) * span_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            # One that is still starting has nobody in it.
            while not (await self._metrics())["radixserve_engine_up"]:
                await asyncio.sleep(0.05)
            pid = self._server.engine_pid
            assert pid is not None, "an engine that is up has a process"
            os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.1)

    async def _watch(self, clients: Clients) -> None:
        """Look at the server once a second, and show it."""
        total = round(self._duration_s)
        with tqdm(total=total, unit="s", desc="soak") as bar:
            while True:
                await asyncio.sleep(1.0)
                status, body = await self._http.get("/health")
                if status != 200:
                    self.violations.append(f"/health: {status} {body}")
                self.samples.ready.append((await self._http.get("/ready"))[0] == 200)
                self.samples.take(self._server, self._server.engine_pid)
                bar.update(min(1, total - round(bar.n)))
                bar.set_postfix(
                    requests=clients.done.total(),
                    wrong=len(clients.violations),
                    MiB=self._server.rss_bytes >> 20,
                )

    async def _metrics(self) -> dict[str, float]:
        _, text = await self._http.get("/metrics")
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if not sample.labels
        }

    async def _come_to_rest(self) -> bool:
        """Wait until nothing runs or waits; False if that does not come."""
        end_s = time.monotonic() + REST_S
        while time.monotonic() < end_s:
            with contextlib.suppress(RuntimeError):
                pages = (await self._http.get_json("/cache/stats"))["pages"]
                metrics = await self._metrics()
                busy = (
                    metrics["radixserve_num_requests_running"]
                    + metrics["radixserve_num_requests_waiting"]
                )
                if not pages["in_use"] and not busy:
                    return True
            await asyncio.sleep(0.2)
        return False

    async def _footprint(self) -> Footprint:
        """The least of several looks: connections that were just closed take a moment, and the
        engine is asked every few seconds whether it is there. What has leaked stays."""
        looks = []
        for _ in range(8):
            tasks = (await self._http.get_json("/debug/tasks"))["tasks"]
            looks.append((self._server.num_files, len(tasks), self._server.num_directories))
            await asyncio.sleep(0.25)
        return Footprint(*map(min, zip(*looks, strict=True)))

    async def _judge_end(self, before: Footprint) -> None:
        if not await self._come_to_rest():
            stats = await self._http.get_json("/cache/stats")
            self.violations.append(f"the server does not come to rest: {stats}")
        after = await self._footprint()
        for name in ("num_files", "num_tasks", "num_directories"):
            if getattr(after, name) > getattr(before, name):
                self.violations.append(
                    f"{name}: {getattr(after, name)} at the end, {getattr(before, name)} before"
                )
        metrics = await self._metrics()
        counts = {
            name: round(metrics[f"radixserve_{name}_total"])
            for name in ("engine_restarts", "resumed_requests", "num_preemptions", "evicted_pages")
        }
        if counts["engine_restarts"] != self._options.kills:
            self.violations.append(f"{counts['engine_restarts']} restarts, not one a kill")
        for name, is_due in (
            ("resumed_requests", self._options.kills > 0),
            ("num_preemptions", True),
            ("evicted_pages", True),
        ):
            if is_due and not counts[name]:
                self.violations.append(f"{name} is 0: this run has not tested what it should")
        self.figures |= counts | {
            "generation_tokens": round(metrics["radixserve_generation_tokens_total"]),
            "files": [before.num_files, after.num_files],
            "tasks": [before.num_tasks, after.num_tasks],
        }
        status = await asyncio.to_thread(self._server.stop)
        if status != 0:
            self.violations.append(f"SIGTERM ended the server with status {status}")
        if self._server.num_directories:
            self.violations.append("it left a socket's directory behind")

    def _judge_memory(self) -> None:
        for name, samples in (("server", self.samples.server), ("engine", self.samples.engine)):
            # Behind the last kill: each engine's memory starts anew.
            early = [size for at_s, size in samples if 0.6 <= at_s / self._duration_s <= 0.7]
            late = [size for at_s, size in samples if 0.9 <= at_s / self._duration_s <= 1.0]
            is_judged = self._options.minutes >= MEMORY_MINUTES
            if not early or not late:
                if is_judged:
                    self.violations.append(f"too few samples of the {name}'s memory")
                continue
            begin, end = statistics.median(early), statistics.median(late)
            self.figures[f"{name}_mib"] = [round(begin / 2**20, 1), round(end / 2**20, 1)]
            if is_judged and end > begin * 1.05 + 8 * 2**20:
                self.violations.append(
                    f"the {name}'s memory grew from {begin / 2**20:.1f} to {end / 2**20:.1f} MiB"
                )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--streams", type=int, default=200, help="clients at once")
    parser.add_argument("--kills", type=int, default=3, help="of the engine process")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", type=int, default=64, help="different ones")
    parser.add_argument("--tokens", type=int, default=120, help="longest answer")
    parser.add_argument("--num-pages", type=int, default=NUM_PAGES)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it and report; the exit status."""
    options = parse(arguments)
    facts = print_machine()
    with tempfile.TemporaryDirectory() as directory:
        with running(Path(directory), *FLAGS, "--num-pages", str(options.num_pages)) as server:
            soak = Soak(server, options)
            asyncio.run(soak.run())
        log = (Path(directory) / "log").read_text()
    violations = soak.violations
    if "Traceback" in log:
        violations.append(
            f"a traceback in the server's log:\n{log[log.index('Traceback') :][:3000]}"
        )
    for violation in violations[:20]:
        print(f"VIOLATION {violation}")
    print(f"{len(violations)} violations in {options.minutes:g} min, {options.streams} clients")
    for name, value in soak.figures.items():
        print(f"  {name:<18} {value}")
    print(json.dumps({**soak.figures, "violations": len(violations), "machine": facts}))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
