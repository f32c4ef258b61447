"""Damage and sudden death: does the disk tier ever give anybody a wrong page?

    python bench/tier_chaos.py [--rounds 1000] [--seed 0]

Each round does one thing to a cache directory that is in use, drawn at random:

    corruption   bits flipped, parts overwritten, sectors lost or mixed up, lengths made up, another
                 page's file in its place; in use, or between two runs
    truncation   cut, emptied, torn, beheaded, stretched; likewise
    replacement  a folder, a pipe, a link, or nothing where the file was
    kill         a process that only stores and loads (there is no torch in it) is killed by SIGKILL
                 at a random moment, often while files are damaged under it; then everything is read

Every page's bytes are known, and begin with its tokens. Asserted are

- what is read is the page asked for, byte by byte: no wrong token, ever,
- what was damaged is rejected, and stored anew it is read again,
- nothing crashes: neither who reads, nor the process before it is killed,
- after a kill the directory is free, within its limit, and without leftovers; and if nothing was
  damaged meanwhile, every file is sound.

The exit status is 1 if any of it does not hold. Linux only.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import contextlib
import json
import logging
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from radixserve.errors import ConfigError
from radixserve.tiers.disk_tier import DiskTier
from radixserve.tiers.moves import SlotId
from radixserve.tiers.page_directory import PageDirectory
from tier_chaos_parts import worker
from tier_chaos_parts.damage import CORRUPTIONS, TRUNCATIONS, change, replace
from tier_chaos_parts.universe import PAGE_BYTES, Universe, open_directory, path_of

KINDS = {"corruption": 0.40, "truncation": 0.27, "replacement": 0.03, "kill": 0.30}
"""How a round's kind is drawn."""
LONGEST_LIFE_S = 0.08
"""Of a worker, from when it has loaded its modules."""
WAIT_S = 60.0
MAX_SHOWN = 20


@dataclass
class Tally:
    """What has happened."""

    done: Counter[str] = field(default_factory=Counter)
    """Rounds, by kind."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Files that were there and were not used."""
    read: Counter[str] = field(default_factory=Counter)
    """Pages that were read, and right."""
    wrong: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    num_half_done: int = 0
    """Kills that left a file half written, or a clear half done."""
    violations: list[str] = field(default_factory=list)
    """Of the other promises."""

    @property
    def is_clean(self) -> bool:
        """Whether every promise was kept."""
        return not self.wrong.total() and not self.crashes.total() and not self.violations


class Chaos:
    """One directory, one tier on it, and what is done to them."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.tally = Tally()
        self.universe = Universe()
        self._rng = np.random.default_rng(seed)
        self._buffer = np.zeros((2, PAGE_BYTES), dtype=np.uint8)
        self._tier = self._open()
        for number in self._rng.permutation(len(self.universe.keys)):
            self._write(int(number))

    def round(self, kind: str) -> None:
        """Do one thing, and judge what comes of it."""
        self.tally.done[kind] += 1
        try:
            if kind == "kill":
                self._kill()
            else:
                self._damage(kind)
        except Exception as error:
            self.tally.crashes[kind] += 1
            self.tally.violations.append(f"{kind}: {error!r}")
            self._tier.close(WAIT_S)
            self._tier = self._open()

    def close(self) -> None:
        """Let go of the directory."""
        self._tier.close(WAIT_S)

    def _open(self) -> DiskTier:
        return DiskTier(open_directory(self.path), self._buffer, num_readers=1)

    def _damage(self, kind: str) -> None:
        number = self._rng.choice(self._held())
        key = self.universe.keys[number]
        file = path_of(self.path, key)
        between_runs = self._rng.random() < 0.5
        if between_runs:
            self._tier.close(WAIT_S)
        if kind == "replacement":
            elsewhere = path_of(self.path, self.universe.keys[self._other(number)])
            replace(file, int(self._rng.integers(4)), elsewhere)
        else:
            how = CORRUPTIONS if kind == "corruption" else TRUNCATIONS
            other = path_of(self.path, self.universe.keys[self._other(number)]).read_bytes()
            while not change(file, how[self._rng.integers(len(how))], self._rng, other):
                pass
        if between_runs:
            self._tier = self._open()
        rejected = self._tier.directory.num_rejected
        if self._read(kind, number):
            self.tally.violations.append(f"{kind}: a damaged {file.name} was used")
        # A vanished file, or a pipe, is nothing that could have been rejected as a page.
        self.tally.rejected[kind] += (
            1 if kind == "replacement" else self._tier.directory.num_rejected - rejected
        )
        if file.is_dir():
            file.rmdir()
        self._write(number)
        if not self._read(kind, number):
            self.tally.violations.append(f"{kind}: {file.name}, stored anew, was not read")

    def _kill(self) -> None:
        self._tier.close(WAIT_S)
        seed = int(self._rng.integers(2**31))
        command = [sys.executable, worker.__file__, str(self.path), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            life_s = float(self._rng.uniform(0.0, LONGEST_LIFE_S))
            is_damaged = self._rng.random() < 0.4
            if is_damaged:
                time.sleep(life_s / 2)
                is_damaged = self._damage_some()
            time.sleep(life_s / 2 if is_damaged else life_s)
            process.send_signal(signal.SIGKILL)
            _, complaint = process.communicate(timeout=WAIT_S)
        if process.returncode == worker.WRONG:
            self.tally.wrong["kill"] += 1
        elif process.returncode != -signal.SIGKILL:
            self.tally.crashes["kill"] += 1
            self.tally.violations.append(f"kill: the worker ended by itself: {complaint.decode()}")
        self.tally.num_half_done += any(
            path.suffix in (".tmp", ".gone") for path in self.path.rglob("*")
        )
        self._tier = self._open()
        self._look_through(self._tier.directory, is_damaged=is_damaged)
        # Room for damage again, if the worker had cleared nearly everything.
        for number in self._rng.permutation(len(self.universe.keys))[:10]:
            self._write(int(number))

    def _damage_some(self) -> bool:
        """Damage a few files under the running worker, which may evict them meanwhile."""
        num_changed = 0
        hows = (*CORRUPTIONS, *TRUNCATIONS)
        for number in self._rng.integers(0, len(self.universe.keys), 6):
            file = path_of(self.path, self.universe.keys[number])
            other = path_of(self.path, self.universe.keys[self._other(int(number))])
            with contextlib.suppress(FileNotFoundError, ValueError):
                how = hows[self._rng.integers(len(hows))]
                num_changed += change(file, how, self._rng, other.read_bytes())
        return num_changed > 0

    def _look_through(self, directory: PageDirectory, *, is_damaged: bool) -> None:
        """Everything after a kill."""
        # What a killed clear has left is deleted bit by bit.
        while directory.sweep():
            directory.check_invariants()
        files = [path for path in self.path.rglob("*") if path.is_file() and path.name != "lock"]
        if sum(path.stat().st_size for path in files) > directory.limit_bytes:
            self.tally.violations.append("kill: the limit was exceeded")
        if leftovers := [path.name for path in files if path.suffix != ".safetensors"]:
            self.tally.violations.append(f"kill: leftovers {leftovers}")
        rejected = directory.num_rejected
        for number in self._held():
            self._read("kill", number)
        rejected = directory.num_rejected - rejected
        self.tally.rejected["kill"] += rejected
        if rejected and not is_damaged:
            self.tally.violations.append(f"kill: {rejected} files were torn by the kill alone")

    def _held(self) -> list[int]:
        return [
            number
            for number, key in enumerate(self.universe.keys)
            if self._tier.contains(key.owner, key.name)
        ]

    def _other(self, number: int) -> int:
        """Another page that has a file, if there is one."""
        others = [
            other
            for other, key in enumerate(self.universe.keys)
            if other != number and path_of(self.path, key).is_file()
        ]
        return int(self._rng.choice(others))

    def _write(self, number: int) -> None:
        self._buffer[0] = self.universe.pages[number]
        self._tier.write(SlotId(0), self.universe.keys[number])
        self._take()

    def _read(self, kind: str, number: int) -> bool:
        self._buffer[1] = 0
        self._tier.read(SlotId(1), self.universe.keys[number])
        if not self._take():
            return False
        if self.universe.is_right(number, self._buffer[1]):
            self.tally.read[kind] += 1
        else:
            self.tally.wrong[kind] += 1
        return True

    def _take(self) -> bool:
        if not self._tier.wait(WAIT_S):
            raise TimeoutError(f"a transfer has not ended within {WAIT_S:.0f} s")
        (done,) = self._tier.take_done()
        return done.ok


def run(path: Path, *, num_rounds: int, seed: int, progress: bool) -> Tally:
    """So many rounds on a new directory at ``path``."""
    rng = np.random.default_rng([seed, 1])
    chaos = Chaos(path, seed)
    kinds = rng.choice(list(KINDS), num_rounds, p=list(KINDS.values()))
    for kind in tqdm(kinds, disable=not progress, unit="round"):
        chaos.round(str(kind))
    chaos.close()
    return chaos.tally


def print_table(tally: Tally) -> None:
    """What happened, a line for each kind."""
    print(f"{'':12} {'done':>6} {'rejected':>9} {'read':>7} {'wrong':>6} {'crashes':>8}")
    columns = (tally.done, tally.rejected, tally.read, tally.wrong, tally.crashes)
    for label, counts in (
        *((kind, [column[kind] for column in columns]) for kind in KINDS),
        ("total", [column.total() for column in columns]),
    ):
        done, rejected, read, wrong, crashes = counts
        print(f"{label:12} {done:6,d} {rejected:9,d} {read:7,d} {wrong:6,d} {crashes:8,d}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    facts = print_machine() | {"xxhash": version("xxhash")}
    # Each rejection is a warning, and they are counted below.
    logging.getLogger("radixserve").setLevel(logging.CRITICAL)
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            tally = run(
                Path(temporary) / "cache",
                num_rounds=options.rounds,
                seed=options.seed,
                progress=sys.stderr.isatty(),
            )
        except ConfigError as error:
            print(f"FAILED the directory cannot be opened any more: {error}")
            return 1
    assert "torch" not in sys.modules
    print_table(tally)
    print(f"{tally.num_half_done} kills left something half done")
    for violation in tally.violations[:MAX_SHOWN]:
        print(f"FAILED {violation}")
    print(f"{len(tally.violations)} violations in {time.monotonic() - begun_s:.0f} s")
    figures = {
        "rounds": dict(tally.done),
        "rejected": dict(tally.rejected),
        "read": dict(tally.read),
        "wrong": tally.wrong.total(),
        "crashes": tally.crashes.total(),
        "half_done": tally.num_half_done,
        "violations": len(tally.violations),
        "machine": facts,
    }
    print(json.dumps(figures))
    return 0 if tally.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
