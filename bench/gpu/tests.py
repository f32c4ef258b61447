"""The tests that have a device form, run on the device: the suite's first gate.

Each file is a pytest process of its own, a few at a time: compiling takes processors, and the
machines that have GPUs have those. The suite has unset ``TRITON_INTERPRET``, so kernels compile and
run on the GPU (in a dry run they are interpreted). What pytest lacks on the machine (a plugin that
the repository's settings name) is left out of its settings; a test file that cannot be imported is
red.
"""

import importlib.util
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tqdm import tqdm

from gpu.bench import Bench

ROOT = Path(__file__).resolve().parents[2]

ROOMS = ("kernels", "attention", "sampling", "runner", "model")
"""Rooms of ``tests/`` whose tests run wherever the kernels do."""

ENGINE_FILES = (
    "test_golden_tokens.py",
    "test_warm_equals_cold.py",
    "test_exact_hits.py",
    "test_pipeline.py",
    "test_triton_engine.py",
)
"""Of ``tests/engine``, those that run a whole model; one that is not there is left out."""

AT_A_TIME = 4
"""Files that share the device. Their engines say how many pages they want: an engine that takes
what is free would leave the others nothing, and its file would have to run alone."""


def run(bench: Bench) -> None:
    """Run every file, at most ``AT_A_TIME`` at once; a failing one is told by its name."""
    missing = [name for name in ("pytest", "hypothesis") if not importlib.util.find_spec(name)]
    if missing:
        bench.gate("tests", False, f"not installed: {', '.join(missing)}; nothing was run")
        return
    files = test_files()
    if bench.dry_run:
        files = [path for path in files if path.name == "test_rope.py"]
    deadline_s = time.perf_counter() + max(1.0, bench.left_s - 5.0)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(AT_A_TIME) as pool:
        runs = [pool.submit(_run_file, path, Path(scratch), deadline_s) for path in files]
        for done in tqdm(as_completed(runs), total=len(runs), desc="test files"):
            row = done.result()
            rows.append(row)
            bench.results["files"] = rows
            bench.save()
            if row["output"]:
                print(f"\n{row['file']}\n{row['output']}", flush=True)
    rows.sort(key=lambda row: str(row["file"]))
    for row in rows:
        if row["verdict"] == "not run":
            bench.skip(row["file"], "the budget is spent")
    counted = ("passed", "failed", "errors", "skipped")
    total = {name: sum(row[name] for row in rows) for name in counted}
    bench.results["total"] = total
    bench.table("Tests on the device", rows, ("file", "verdict", *counted, "seconds"))
    bad = [row["file"] for row in rows if row["verdict"] != "green"]
    detail = ", ".join(f"{count} {name}" for name, count in total.items())
    bench.gate("tests", not bad and total["passed"] > 0, f"{detail}; not green: {bad or 'none'}")


def test_files() -> list[Path]:
    """Every file to be run. Those that take longest, the kernels', come first."""
    found = [path for room in ROOMS for path in sorted((ROOT / "tests" / room).glob("test_*.py"))]
    engine = [ROOT / "tests" / "engine" / name for name in ENGINE_FILES]
    return found + [path for path in engine if path.exists()]


def _run_file(path: Path, scratch: Path, deadline_s: float) -> dict[str, Any]:
    name = str(path.relative_to(ROOT))
    row: dict[str, Any] = {
        "file": name, "verdict": "not run", "passed": 0, "failed": 0, "errors": 0, "skipped": 0,
        "seconds": 0.0, "output": "",
    }  # fmt: skip
    left_s = deadline_s - time.perf_counter()
    if left_s < 5:
        return row
    report = scratch / (name.replace("/", "-") + ".xml")
    command = [
        sys.executable, "-m", "pytest", name, "-q", "--tb=short", "-p", "no:cacheprovider",
        f"--junitxml={report}", *_settings(),
    ]  # fmt: skip
    begun_s = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=left_s,
            check=False,
        )
        code, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        output = said.decode(errors="replace") if isinstance(said, bytes) else said
        code = -1
    row["seconds"] = round(time.perf_counter() - begun_s, 1)
    if report.exists():
        row.update(counts(report))
    row["verdict"] = {0: "green", -1: "timed out", 5: "no tests"}.get(code, "red")
    if code != 0:
        row["output"] = output[-4000:]
    return row


def counts(report: Path) -> dict[str, int]:
    """What a JUnit file says: passed, failed, errors, skipped."""
    found = {"passed": 0, "failed": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        failed, errors = int(suite.get("failures", 0)), int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        found["failed"] += failed
        found["errors"] += errors
        found["skipped"] += skipped
        found["passed"] += int(suite.get("tests", 0)) - failed - errors - skipped
    return found


def _settings() -> list[str]:
    """Overrides for a machine without pytest-asyncio: the repository's settings name its options,
    and pytest refuses, or warns of, what it does not know."""
    if importlib.util.find_spec("pytest_asyncio"):
        return []
    return [
        "-o", "addopts=--import-mode=importlib -ra", "-W", "default::pytest.PytestConfigWarning"
    ]  # fmt: skip
