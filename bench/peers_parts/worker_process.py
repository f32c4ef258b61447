"""A worker's other end: a process that answers JSON lines (``serving.py`` is its own)."""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

BENCH = Path(__file__).resolve().parents[1]
OPENMP = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
STOP_S = 10.0


class WorkerError(RuntimeError):
    """The worker answered with an error, or ended."""


def worker_environment(*, has_default_spin: bool) -> dict[str, str]:
    """This process's; if told so, without what radixserve sets for OpenMP. By default its threads
    spin for milliseconds wherever they wait, which is fastest as long as they have the cores to
    themselves, and slowest if not."""
    dropped = OPENMP if has_default_spin else ()
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": str(BENCH)}


class WorkerProcess:
    """A worker; ends with the ``with`` block."""

    def __init__(self, command: Sequence[str], *, has_default_spin: bool = True) -> None:
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=worker_environment(has_default_spin=has_default_spin),
        )

    @classmethod
    def of(cls, python: Path, module: str, *, has_default_spin: bool) -> Self:
        """That of a module of this package, in this Python."""
        command = [str(python), "-m", f"peers_parts.{module}"]
        return cls(command, has_default_spin=has_default_spin)

    def ask(self, op: str, **arguments: Any) -> Any:
        """The answer to one request. *Raises* ``WorkerError``, with the worker's own words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._said.seek(0)
            status = self._process.wait(STOP_S)
            said = self._said.read()[-2000:]
            raise WorkerError(f"the worker ended with {status} in {op}: {said}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{op}: {answer['error']}")
        return answer["ok"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(STOP_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._said.close()
