"""radixserve beside transformers and llama.cpp: one machine, one checkpoint, one run, taking turns.

    python bench/peers.py [--model 88m|500m] [--only shared,single] [--rounds 3]
                          [--llama-python PATH | --no-llama]

Every engine gets the same token ids, decodes greedily and begins each run with an empty cache. Each
is measured at the settings that are fastest for it here, which are looked for first and listed.
Ratios are medians over rounds in which all engines take turns. Beside each figure stands what the
machine allows, measured in the same rounds: reading the weights and every key and value once per
decode step, and multiplying matrices.

radixserve runs in this process, the others in their own, idle while another is measured, and with
OpenMP's threads spinning as long as suits them. On a machine that others use, too, long spinning is
what makes a peer slow from one round to the next: measure on a quiet one.

llama.cpp runs in a Python of its own. ``--llama-python`` names one that has ``llama-cpp-python``
and ``gguf``; otherwise a virtual environment is made in the system's temporary directory once,
which takes some minutes to build. Where that fails the others are still measured.
"""

# First of all, before anything loads torch: see bench/support/__init__.py.
from support.machine import print_machine

# isort: split

import argparse
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from peers_parts.limits import Limits
from peers_parts.llama_peer import Llama, write_models
from peers_parts.llama_python import NoLlamaError, built_python, checked_python
from peers_parts.llama_server import measure_server
from peers_parts.ours import RadixServe
from peers_parts.peer import Peer
from peers_parts.questions import QUESTIONS, Question
from peers_parts.rounds import Result, Row, Speed, answer, run_rounds
from peers_parts.same_model import check_same_model
from peers_parts.shape import ModelShape
from peers_parts.table import as_json, markdown
from peers_parts.transformers_peer import Transformers
from peers_parts.worker_process import WorkerError, WorkerProcess
from support.checkpoint import SIZES, bench_checkpoint


class Engines:
    """Those that can be measured here, and the machine. Each is loaded once."""

    def __init__(self, checkpoint: Path, llama_python: Path | None, stack: contextlib.ExitStack):
        self.shape = ModelShape.of(checkpoint)
        self._checkpoint = checkpoint
        self._python = llama_python
        self._threads = torch.get_num_threads()
        self._limits = Limits()
        self._ours = RadixServe(checkpoint)
        here = Path(sys.executable)
        self._transformers = Transformers(
            self._start(here, "transformers_worker", stack), checkpoint
        )
        self._processes: dict[bool, WorkerProcess] = {}
        self._models: dict[str, Path] = {}
        if llama_python is not None:
            self._processes = self._start(llama_python, "llama_worker", stack)
            about = self._processes[True].ask("about")
            print(f"llama.cpp: {about['version']}, compiled for {', '.join(about['features'])}")
            self._models = write_models(self._processes[True], checkpoint, self._threads)

    @staticmethod
    def _start(python: Path, module: str, stack: contextlib.ExitStack) -> dict[bool, WorkerProcess]:
        """Two workers, by whether OpenMP spins by default."""
        return {
            spin: stack.enter_context(WorkerProcess.of(python, module, has_default_spin=spin))
            for spin in (True, False)
        }

    def check(self) -> None:
        """See that all compute the same model. *Raises* ``RuntimeError`` if one does not."""
        others: dict[str, Peer] = {"radixserve": self._ours}
        if self._processes:
            others["llama.cpp"] = self._llama()
        print(check_same_model(self._transformers, others))

    def ask(self, question: Question, num_rounds: int) -> Result | None:
        """The answer; None, and a word why, if there is nobody to compare with."""
        if question.is_int8:
            return self._ask_int8(question, num_rounds)
        peers: list[Peer] = [self._ours, self._transformers]
        if self._processes:
            peers.append(self._llama())
        found, speeds = run_rounds(question, peers, self._speed, num_rounds)
        result = answer(question, self.shape, peers, found, speeds)
        last = peers[-1]
        if question.has_server and isinstance(last, Llama):
            result.rows.extend(self._server_row(question, result.rows[0].value, last))
        return result

    def _ask_int8(self, question: Question, num_rounds: int) -> Result | None:
        if self._python is None or "q8_0" not in self._models:
            print(f"{question.key}: not measured, it needs llama.cpp's q8_0")
            return None
        # In processes of their own: q8_0 is known to crash on some processors.
        with contextlib.ExitStack() as stack:
            processes = self._start(self._python, "llama_worker", stack)
            peers: list[Peer] = [
                RadixServe(self._checkpoint, quantization="int8"),
                Llama(processes, self._models["q8_0"], self._threads, "llama.cpp"),
            ]
            try:
                found, speeds = run_rounds(question, peers, self._speed, num_rounds)
            except WorkerError as error:
                print(f"{question.key}: not measured, llama.cpp's q8_0 does not run: {error}")
                return None
        return answer(question, self.shape, peers, found, speeds)

    def _llama(self) -> Llama:
        return Llama(self._processes, self._models["bf16"], self._threads, "llama.cpp")

    def _speed(self) -> Speed:
        return Speed(self._limits.bytes_per_s(), self._limits.operations_per_s())

    def _server_row(self, question: Question, ours: float, batched: Llama) -> list[Row]:
        """llama.cpp's own server, measured once; empty, and a word why, if it cannot be."""
        assert self._python is not None
        model = self._models["bf16"]
        try:
            run = measure_server(
                self._python,
                model,
                question.workload,
                self._threads,
                has_default_spin=batched.has_default_spin,
            )
        except RuntimeError as error:
            print(f"llama.cpp's server was not measured: {error}")
            return []
        value = question.value(run)
        return [
            Row(
                engine="llama.cpp's server",
                settings="llama_cpp.server, n_batch=2048, n_ubatch=512, flash_attn=True: one "
                "request after another, as it serves them; measured once",
                value=value,
                low=value,
                high=value,
                prefill_s=None,
                step_ms=None,
                share=None,
                ratio=ours / value,
                wanted=None,
            )
        ]


def find_llama(given: Path | None, *, is_wanted: bool) -> Path | None:
    """A Python with llama.cpp; None, and a word why, without one."""
    if not is_wanted:
        return None
    try:
        return built_python() if given is None else checked_python(given)
    except NoLlamaError as error:
        print(f"without llama.cpp: {error}", file=sys.stderr)
        return None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    keys = [question.key for question in QUESTIONS]
    parser.add_argument("--model", choices=list(SIZES), default="88m", help="default: 88m")
    parser.add_argument("--only", default=",".join(keys), help=f"some of {','.join(keys)}")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--llama-python", type=Path, help="a Python with llama-cpp-python and gguf")
    parser.add_argument("--no-llama", action="store_true", help="leave llama.cpp out")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := sorted(set(arguments.only) - set(keys)):
        parser.error(f"--only: expected some of {keys}, got {unknown}")
    if arguments.rounds < 1:
        parser.error(f"--rounds: expected at least 1, got {arguments.rounds}")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    # Told to end, it ends what it started: llama.cpp's server would stay.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Nothing is fetched for the checkpoint, which is made here.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    facts = print_machine()
    llama_python = find_llama(arguments.llama_python, is_wanted=not arguments.no_llama)
    results = []
    with contextlib.ExitStack() as stack:
        try:
            engines = Engines(bench_checkpoint(arguments.model), llama_python, stack)
            millions = engines.shape.num_parameters / 1e6
            print(f"model: Qwen3-shaped, {millions:.0f}M parameters, bfloat16")
            engines.check()
            for question in QUESTIONS:
                if question.key not in arguments.only:
                    continue
                result = engines.ask(question, arguments.rounds)
                if result is not None:
                    results.append(as_json(result))
                    print(f"\n{markdown(result)}\n", flush=True)
        except WorkerError as error:
            sys.exit(f"a worker failed (--no-llama measures without llama.cpp): {error}")
    print(
        json.dumps(
            {"bench": "peers", "machine": facts, "model": arguments.model, "results": results}
        )
    )


if __name__ == "__main__":
    main()
