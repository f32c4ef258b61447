"""What a part is given: the device, a clock, a budget, and a report to fill in.

Three promises are kept here. A gate that is not green takes away the shares and speed-ups that hang
on it (``share``). What is left out for want of time is in the report, never silently
(``has_time``). And the report is on disk after every section, so that a part that dies has told
what it knew (``save``).
"""

import fnmatch
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from gpu import results
from gpu.clock import Clock, make_clock


class Bench:
    """One part's run."""

    def __init__(
        self,
        name: str,
        device: torch.device,
        report: results.Report,
        path: Path,
        *,
        budget_s: float,
        dry_run: bool,
        failing_gate: str | None = None,
    ) -> None:
        self.name = name
        self.device = device
        self.dry_run = dry_run
        self.clock: Clock = make_clock(device)
        self.report = report
        self.results: dict[str, Any] = report["results"]
        self._path = path
        self._begun_s = time.perf_counter()
        self._budget_s = budget_s
        self._failing_gate = failing_gate

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._begun_s

    @property
    def left_s(self) -> float:
        """What is left of the part's budget."""
        return self._budget_s - self.elapsed_s

    def gate(self, name: str, green: bool, detail: str) -> bool:
        """Record a correctness gate, print it, and return whether it is green."""
        if self._failing_gate is not None and fnmatch.fnmatch(name, self._failing_gate):
            green, detail = False, f"made red by --fail-gate; was: {detail}"
        self.report["gates"].append({"name": name, "green": bool(green), "detail": detail})
        print(f"  [{'green' if green else 'RED'}] {name}: {detail}", flush=True)
        return bool(green)

    def share(self, value: float, *, green: bool) -> float | None:
        """A share or speed-up, or None where the gate behind it is red."""
        return value if green else None

    def has_time(self, what: str, needed_s: float) -> bool:
        """Whether ``needed_s`` seconds are left; if not, that is recorded and printed. A dry run
        always has time: it is to go everywhere."""
        if self.dry_run or self.left_s >= needed_s:
            return True
        self.skip(what, f"the budget is spent: {self.left_s:.0f} s left, {needed_s:.0f} s needed")
        return False

    def skip(self, what: str, why: str) -> None:
        """Record something that was left out."""
        self.report["skipped"].append({"what": what, "why": why})
        print(f"  skipped {what}: {why}", flush=True)

    def save(self) -> None:
        """Write the report as it stands."""
        self.report["elapsed_s"] = round(self.elapsed_s, 1)
        results.save(self._path, self.report)

    def each(self, items: Sequence[Any], says: str) -> Iterator[Any]:
        """The items behind a progress bar; the report is saved after each."""
        for item in tqdm(items, desc=says, leave=False):
            yield item
            self.save()

    def table(self, title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
        """Print rows as a markdown table; a figure that is None is left blank."""
        print(f"\n{title}\n| " + " | ".join(columns) + " |")
        print("|" + "---|" * len(columns))
        for row in rows:
            print("| " + " | ".join(_show(row.get(column)) for column in columns) + " |")
        print(flush=True)


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
