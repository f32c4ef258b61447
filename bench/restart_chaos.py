"""A server that keeps its cache in a directory is killed again and again: is ever a token wrong?

    python bench/restart_chaos.py [--kills 10] [--streams 16] [--seed 0]

A server of noise (float32, greedy) with a small pool, a small host tier and
``--cache-dir`` answers streams; after a few seconds both of its processes get SIGKILL, wherever
they are. Then some of its files are damaged (bits flipped, cut short, swapped with others), and it
is started again on the same directory. Asserted are

- whatever came of every answer is the beginning of the one that an undisturbed server without tiers
  gave; all of it, where the stream was not broken off by a kill,
- every start succeeds, and after the first one tokens are loaded from files,
- the last server ends on SIGTERM with status 0.

The exit status is 1 if any of it does not hold. Linux only: it looks into /proc.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from soak_parts.http import Http
from soak_parts.server import ServerProcess, running
from soak_parts.traffic import Case, make_cases

FLAGS = (
    *("--dtype", "float32", "--num-threads", "1", "--page-size", "16", "--max-running", "16"),
    *("--max-queued-requests", "100000", "--max-queue-s", "86400", "--log-level", "warning"),
)
NUM_CASES = 48
NUM_TOKENS = 96
SHARE_DAMAGED = 0.05
"""Of the files, between two lives."""


class Chaos:
    """Counts what happened; ``violations`` is what went wrong."""

    def __init__(self, cases: Sequence[Case], seed: int) -> None:
        self._cases = cases
        self._rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.violations: list[str] = []

    async def live(self, server: ServerProcess, num_streams: int, life_s: float) -> None:
        """Stream until both processes of the server are killed after ``life_s`` seconds."""
        clients = [
            asyncio.create_task(self._client(Http(server.url), random.Random(self._rng.random())))
            for _ in range(num_streams)
        ]
        await asyncio.sleep(life_s)
        self.done["tokens loaded from files"] += await _disk_tokens(server)
        engine_pid = server.engine_pid
        assert engine_pid is not None, "there is no engine to kill"
        for pid in (engine_pid, server.pid):
            os.kill(pid, signal.SIGKILL)
        self.done["kills"] += 1
        # What has come of their answers is judged; then there is nobody to ask.
        await asyncio.gather(*clients)

    async def end(self, server: ServerProcess) -> None:
        """Ask everything once more."""
        answers = [await Http(server.url).stream(case.body) for case in self._cases]
        for case, answer in zip(self._cases, answers, strict=True):
            self._judge(case, answer.text, is_whole=True)
        self.done["tokens loaded from files"] += await _disk_tokens(server)

    async def _client(self, http: Http, rng: random.Random) -> None:
        while True:
            case = rng.choice(self._cases)
            try:
                answer = await http.stream(case.body)
            except (OSError, asyncio.IncompleteReadError, json.JSONDecodeError):
                # Nobody answers, or the kill has cut a line in two.
                return
            self._judge(case, answer.text, is_whole=answer.is_complete)

    def _judge(self, case: Case, text: str, *, is_whole: bool) -> None:
        self.done["whole answers" if is_whole else "broken answers"] += 1
        if not (text == case.text if is_whole else case.text.startswith(text)):
            self.violations.append(f"got {text!r}, expected {case.text!r}")

    def damage(self, directory: Path) -> None:
        """Flip, cut or swap some of the files."""
        files = sorted(directory.rglob("*.safetensors"))
        for path in self._rng.sample(files, int(len(files) * SHARE_DAMAGED)):
            data = bytearray(path.read_bytes())
            kind = self._rng.choice(("flipped", "cut", "swapped"))
            if kind == "flipped":
                data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)
            elif kind == "cut":
                del data[self._rng.randrange(len(data)) :]
            else:
                data = bytearray(self._rng.choice(files).read_bytes())
            path.write_bytes(data)
            self.done[f"files {kind}"] += 1


async def _disk_tokens(server: ServerProcess) -> int:
    """Prompt tokens that came from files since the server's start."""
    _, text = await Http(server.url).get("/metrics")
    return sum(
        int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "radixserve_prompt_tokens_by_source_total"
        and sample.labels["source"] == "disk"
    )


async def run(kills: int, num_streams: int, seed: int, folder: Path) -> Chaos:
    """All of it."""

    def life(name: str) -> Path:
        path = folder / name
        path.mkdir()
        return path

    with running(life("undisturbed"), *FLAGS, "--num-pages", "1000") as server:
        cases = await make_cases(Http(server.url), NUM_CASES, seed, NUM_TOKENS)
        server.stop()
    chaos = Chaos(cases, seed)
    kept = folder / "kept"
    tiers = ("--num-pages", "120", "--host-cache-gib", "0.001", "--cache-dir", str(kept))
    rng = random.Random(seed)
    for number in tqdm(range(kills), desc="lives"):
        with running(life(f"life-{number}"), *FLAGS, *tiers) as server:
            await chaos.live(server, num_streams, rng.uniform(1.0, 8.0))
        chaos.damage(kept)
    with running(life("last"), *FLAGS, *tiers) as server:
        await chaos.end(server)
        status = server.stop()
    if status:
        chaos.violations.append(f"the last server ended with status {status}")
    if not chaos.done["tokens loaded from files"]:
        chaos.violations.append("nothing was ever loaded from files")
    return chaos


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=10, help="of the server (default: 10)")
    parser.add_argument("--streams", type=int, default=16, help="at once (default: 16)")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    facts = print_machine()
    with tempfile.TemporaryDirectory(prefix="radixserve-chaos-") as folder:
        chaos = asyncio.run(run(chosen.kills, chosen.streams, chosen.seed, Path(folder)))
    print("\n| what | number |\n|---|---|")
    for name, count in sorted(chaos.done.items()):
        print(f"| {name} | {count:,} |")
    print(f"| violations | {len(chaos.violations)} |")
    for violation in chaos.violations[:10]:
        print(violation)
    print(json.dumps({"bench": "restart_chaos", "machine": facts, "done": dict(chaos.done)}))
    return 1 if chaos.violations else 0


if __name__ == "__main__":
    sys.exit(main())
