"""transformers, the way that is fastest for each workload: its continuous batching or plain
``generate``, and OpenMP's spinning by default or as radixserve has it (so there are two processes,
of which one is idle).
"""

from collections.abc import Mapping
from pathlib import Path

from peers_parts.peer import Figure, Measured
from peers_parts.search import Setting, best_settings
from peers_parts.worker_process import WorkerProcess
from peers_parts.workload import Workload

OPTIONS: dict[str, tuple[Setting, ...]] = {
    "default_spin": (True, False),
    "continuous_batching": (True, False),
}


class Transformers:
    """One checkpoint, loaded in both processes."""

    name = "transformers"

    def __init__(self, processes: Mapping[bool, WorkerProcess], checkpoint: Path) -> None:
        """``processes``: by ``default_spin``."""
        self._processes = processes
        for process in processes.values():
            process.ask("load", checkpoint=str(checkpoint))
        self._choice: Mapping[str, Setting] = {name: of[0] for name, of in OPTIONS.items()}
        self.tried: dict[str, float] = {}

    @property
    def settings(self) -> str:
        return _words(self._choice)

    def prepare(self, workload: Workload, figure: Figure) -> None:
        # What is run first is slow: no way must pay for that.
        warm_up = Workload(1, 0, 8, 2)
        for has_default_spin in OPTIONS["default_spin"]:
            for is_batched in OPTIONS["continuous_batching"]:
                choice = {"default_spin": has_default_spin, "continuous_batching": is_batched}
                self._run(warm_up, choice)
        self._choice, tried = best_settings(
            OPTIONS, lambda choice: figure(self._run(workload, choice))
        )
        names = list(OPTIONS)
        self.tried = {
            _words(dict(zip(names, values, strict=True))): rate for values, rate in tried.items()
        }

    def measure(self, workload: Workload) -> Measured:
        return self._run(workload, self._choice)

    def greedy(self, workload: Workload) -> list[list[int]]:
        plain = {"default_spin": True, "continuous_batching": False}
        return [list(answer) for answer in self._run(workload, plain).tokens]

    def _run(self, workload: Workload, choice: Mapping[str, Setting]) -> Measured:
        process = self._processes[bool(choice["default_spin"])]
        prompts, new = workload.prompts(), workload.new
        if choice["continuous_batching"]:
            found = process.ask("batched", prompts=prompts, shared=workload.shared, new=new)
        else:
            found = process.ask("plain", prompts=prompts, new=new)
        measured = Measured(workload.num_new, **found)
        assert sum(len(answer) for answer in measured.tokens) == workload.num_new, workload
        return measured


def _words(choice: Mapping[str, Setting]) -> str:
    way = (
        "continuous batching (page_size=32, as many pages as needed, max_batch_tokens=512)"
        if choice["continuous_batching"]
        else "plain generate, all prompts in one batch"
    )
    return f"{way}, default_spin={choice['default_spin']}"
