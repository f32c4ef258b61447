"""The GPU path on a real device: proven first, then measured. One command, no network.

    python bench/gpu_suite.py

runs every part, in about 27 minutes (``--list`` says which, and what each takes). On a machine that
limits what a command may take, the same in four calls of at most eight minutes:

    python bench/gpu_suite.py --only tests
    python bench/gpu_suite.py --only ceilings,kernels,layers
    python bench/gpu_suite.py --only engine:qwen3-8b,engine:llama-3.1-8b,engine:qwen3-0.6b
    python bench/gpu_suite.py --only engine:llama-3.2-1b,peers

Each part runs in a process of its own and gives its memory back; its report is merged into one JSON
file, so that several calls build one. A part that fails is told and the others go on; the exit
status is 0 only if all parts that ran are green. With ``--dry-run`` every part runs on the CPU, its
kernels interpreted, on tiny shapes: that proves the suite, and its times mean nothing.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gpu import parts, results, targets
from gpu.parts import Part

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_OUT = ROOT / "bench" / "results" / "gpu_suite.json"

GRACE_S = 20.0
"""What a part may take beyond its budget before it is stopped."""


def main() -> int:
    arguments = _arguments()
    if arguments.list:
        _print_list()
        return 0
    if arguments.child is not None:
        return _run_child(arguments)
    try:
        chosen = parts.find(arguments.only)
        earlier = results.load(arguments.out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return _run_all(chosen, earlier, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument(
        "--only", metavar="PART[,PART]", help="run these parts (default: all, in about "
        f"{parts.ALL_MINUTES:g} minutes; --list says how to run them in calls of at most eight)"
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="say which parts there are")
    parser.add_argument(
        "--out", type=Path, default=None, help="JSON file to write, or to add to (default: "
        "bench/results/gpu_suite.json; of a dry run: a temporary file)"
    )  # fmt: skip
    parser.add_argument(
        "--minutes", type=float, default=None, help="budget of the call, divided among its parts "
        f"(default: {parts.ALL_MINUTES:g} for all parts, {parts.CALL_MINUTES:g} with --only; dry "
        "run: 30)"
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true", help="on the CPU, tiny, kernels interpreted"
    )
    parser.add_argument(
        "--fail-gate",
        metavar="PATTERN",
        help="take the gates of this name for red: proves that red gates suppress their figures",
    )
    parser.add_argument("--child", metavar="PART", help=argparse.SUPPRESS)
    parser.add_argument("--budget-s", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.minutes is None:
        budget = parts.ALL_MINUTES if arguments.only is None else parts.CALL_MINUTES
        arguments.minutes = 30.0 if arguments.dry_run else budget
    if arguments.out is None:
        # Times that mean nothing do not belong beside measured ones.
        dry = Path(tempfile.gettempdir()) / "radixserve-gpu-suite-dry-run.json"
        arguments.out = dry if arguments.dry_run else DEFAULT_OUT
    return arguments


def _print_list() -> None:
    print("| part | minutes, about | what it does |\n|---|---|---|")
    for part in parts.PARTS:
        print(f"| {part.name} | {part.minutes:g} | {part.says} |")
    print(f"\nAll of them, in about {parts.ALL_MINUTES:g} minutes:\n    python bench/gpu_suite.py")
    print("\nThe same in calls of at most eight minutes:")
    for names in parts.CALLS:
        print(f"    python bench/gpu_suite.py --only {','.join(names)}")


def _run_all(
    chosen: list[Part], earlier: dict[str, Any] | None, arguments: argparse.Namespace
) -> int:
    """Run the parts, one process after the other; merge, print, and say whether all are green."""
    deadline_s = time.perf_counter() + 60 * arguments.minutes
    if arguments.dry_run:
        print("DRY RUN: on the CPU, kernels interpreted; its times mean nothing", flush=True)
    print(f"{len(chosen)} parts in at most about {arguments.minutes:g} minutes", flush=True)
    document = earlier or {"bench": "gpu_suite", "parts": {}}
    for number, part in enumerate(tqdm(chosen, desc="parts")):
        left_s = max(1.0, deadline_s - time.perf_counter())
        # What earlier parts did not use is shared by those to come.
        budget_s = parts.budgets(chosen[number:], left_s)[part.name]
        print(f"\n== {part.name} ({budget_s:.0f} s)", flush=True)
        report = _run_part(part, budget_s, arguments)
        document = results.merge(document, part.name, report)
        document["targets"] = targets.table(document["parts"])
        results.save(arguments.out, document)
        print(f"== {part.name}: {report['status']} after {report['elapsed_s']} s", flush=True)
        if report["error"]:
            print(report["error"], flush=True)
    _print_summary(document, [part.name for part in chosen])
    print(json.dumps({**document, "file": str(arguments.out)}))
    ran = [document["parts"][part.name]["status"] for part in chosen]
    return 0 if all(status == results.GREEN for status in ran) else 1


def _run_part(part: Part, budget_s: float, arguments: argparse.Namespace) -> results.Report:
    """One part in a process of its own; its report, whatever becomes of the process."""
    begun_s = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "report.json"
        command = [
            sys.executable, str(Path(__file__).resolve()), "--child", part.name, "--out",
            str(path), "--budget-s", str(budget_s),
        ]  # fmt: skip
        if arguments.dry_run:
            command.append("--dry-run")
        if arguments.fail_gate:
            command += ["--fail-gate", arguments.fail_gate]
        # A session of its own, so that what a part has started ends with it.
        process = subprocess.Popen(
            command, env=_environment(dry_run=arguments.dry_run), start_new_session=True
        )
        try:
            code = process.wait(timeout=budget_s + GRACE_S)
            error = None if code == 0 else f"the part's process ended with status {code}"
        except subprocess.TimeoutExpired:
            error = f"stopped after {budget_s + GRACE_S:.0f} s, its budget and then some"
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        try:
            report = json.loads(path.read_text())
        except (OSError, ValueError):
            report = results.new_report({}, dry_run=arguments.dry_run)
            error = error or "the part left no report"
    return results.close_report(
        report, error=report["error"] or error, elapsed_s=time.perf_counter() - begun_s
    )


def _environment(*, dry_run: bool) -> dict[str, str]:
    """The part's: the repository importable, kernels compiled, or interpreted in a dry run."""
    variables = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    if dry_run:
        variables["TRITON_INTERPRET"] = "1"
        # Also where there is a GPU: a dry run is the CPU's.
        variables["CUDA_VISIBLE_DEVICES"] = ""
    rooms = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "frontend")]
    before = variables.get("PYTHONPATH")
    variables["PYTHONPATH"] = os.pathsep.join([*rooms, before] if before else rooms)
    variables["PYTHONUNBUFFERED"] = "1"
    return variables


def _run_child(arguments: argparse.Namespace) -> int:
    """Run one part in this process, and write its report."""
    # Only here, in the part's own environment; support first: see bench/support/__init__.py.
    from support.machine import print_machine  # noqa: PLC0415

    facts = print_machine()
    import torch  # noqa: PLC0415

    from gpu.bench import Bench  # noqa: PLC0415
    from support.gpu import gpu  # noqa: PLC0415

    (part,) = [part for part in parts.PARTS if part.name == arguments.child]
    facts |= gpu()
    print("gpu: " + (", ".join(f"{name} {value}" for name, value in gpu().items()) or "none"))
    report = results.new_report(facts, dry_run=arguments.dry_run)
    if not arguments.dry_run and not torch.cuda.is_available():
        report["error"] = (
            f"torch {torch.__version__} finds no GPU; this suite measures one "
            "(--dry-run proves the suite itself on a CPU)"
        )
        results.save(arguments.out, report)
        return 1
    device = torch.device("cpu" if arguments.dry_run else "cuda:0")
    bench = Bench(
        part.name,
        device,
        report,
        arguments.out,
        budget_s=arguments.budget_s,
        dry_run=arguments.dry_run,
        failing_gate=arguments.fail_gate,
    )
    bench.save()
    try:
        importlib.import_module(f"gpu.{part.module}").run(bench, **dict(part.arguments))
    except Exception:
        # The report must tell, whatever it was.
        report["error"] = traceback.format_exc()
    bench.save()
    return 0 if report["error"] is None else 1


def _print_summary(document: dict[str, Any], ran: list[str]) -> None:
    print("\n| part | status | gates | skipped | seconds |\n|---|---|---|---|---|")
    for name, report in document["parts"].items():
        green = sum(gate["green"] for gate in report["gates"])
        note = "" if name in ran else " (earlier call)"
        print(
            f"| {name}{note} | {report['status']} | {green} of {len(report['gates'])} green "
            f"| {len(report['skipped'])} | {report['elapsed_s']} |"
        )
        for skipped in report["skipped"]:
            print(f"|   skipped: {skipped['what']} | {skipped['why']} | | | |")
    machines = {report["machine"].get("gpu", "no GPU") for report in document["parts"].values()}
    print(f"\nMeasured on: {', '.join(sorted(machines))}\n")
    print(targets.markdown(document["targets"]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
