"""The suite's JSON file: what one call measured, merged with what earlier calls did.

    {"bench": "gpu_suite", "parts": {NAME: REPORT, ...}, "targets": [...]}

A report holds the machine it was made on, so a file may hold parts of several machines, and the
table of targets says so. A part that is run again replaces its report.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Report = dict[str, Any]
"""{"status", "machine", "gates", "skipped", "results", "error", "elapsed_s", "dry_run"}"""

GREEN, RED, ERROR, RUNNING = "green", "red", "error", "running"


def new_report(machine: Mapping[str, str], *, dry_run: bool) -> Report:
    """A report in which nothing has happened yet."""
    return {
        "status": RUNNING,
        "dry_run": dry_run,
        "machine": dict(machine),
        "gates": [],
        "skipped": [],
        "results": {},
        "error": None,
        "elapsed_s": 0.0,
    }


def close_report(report: Report, *, error: str | None, elapsed_s: float) -> Report:
    """The report with its verdict: an error, else red if any gate is or there was none, else green.

    A part without a gate has proven nothing, unless it only describes the machine and says so by a
    gate of its own.
    """
    gates = report["gates"]
    if error is not None:
        status = ERROR
    else:
        status = GREEN if gates and all(gate["green"] for gate in gates) else RED
    return {**report, "status": status, "error": error, "elapsed_s": round(elapsed_s, 1)}


def merge(document: Mapping[str, Any] | None, name: str, report: Report) -> dict[str, Any]:
    """The document with this part's report in place of any earlier one."""
    parts = dict((document or {}).get("parts", {}))
    parts[name] = report
    return {"bench": "gpu_suite", "parts": parts}


def load(path: Path) -> dict[str, Any] | None:
    """The document, or None if there is none. *Raises* ``ValueError`` if it is another kind."""
    if not path.exists():
        return None
    document = json.loads(path.read_text())
    if not isinstance(document, dict) or document.get("bench") != "gpu_suite":
        raise ValueError(f"{path} is not a file of this suite; choose another one with --out")
    return document


def save(path: Path, document: Mapping[str, Any]) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(draft, path)
