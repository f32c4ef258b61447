"""llama.cpp's batched decoding, at the settings that are best for each workload.

``default_spin``: how long OpenMP's threads spin where they wait, GNU's default or as radixserve has
it. It is settled when a process starts, so there are two of them; one is idle.
``kv_unified``: one KV cache for all sequences, in which a shared prefix is stored once, and every
query is masked against all of it; or one for each sequence. Which is faster depends on the prompts.
"""

from collections.abc import Mapping
from pathlib import Path

from peers_parts.peer import Figure, Measured
from peers_parts.search import Setting, best_settings
from peers_parts.worker_process import WorkerError, WorkerProcess
from peers_parts.workload import Workload

N_BATCH = 2048
PAD_TOKENS = 256
TRIAL_S = 1.0
"""A trial is repeated until it took so long; its best run counts."""
MAX_RUNS = 3
SWEEPS = 2
OPTIONS: dict[str, tuple[Setting, ...]] = {
    "default_spin": (True, False),
    "kv_unified": (True, False),
    "n_ubatch": (512, 2048),
    "flash_attn": (True, False),
}


def num_cells(workload: Workload, *, is_unified: bool) -> int:
    """Tokens the KV cache has room for: what is shared once, or all of every sequence, rounded up
    as llama.cpp does."""
    if is_unified:
        cells = workload.num_distinct + workload.num_new
        return -(-cells // PAD_TOKENS) * PAD_TOKENS
    return workload.num_prompts * -(-workload.context // PAD_TOKENS) * PAD_TOKENS


class Llama:
    """One GGUF file, loaded anew for each workload that is prepared for."""

    def __init__(
        self, processes: Mapping[bool, WorkerProcess], path: Path, threads: int, name: str
    ) -> None:
        """``processes``: by ``default_spin``."""
        self._processes = processes
        self._process = processes[True]
        self._path = path
        self._threads = threads
        self.name = name
        self.settings = ""
        self.tried: dict[str, float] = {}

    def prepare(self, workload: Workload, figure: Figure) -> None:
        self._load()

        options = OPTIONS if workload.num_prompts > 1 else {**OPTIONS, "kv_unified": (True,)}
        found: dict[str, float] = {}
        settings_of: dict[str, Mapping[str, Setting]] = {}

        def rate(settings: Mapping[str, Setting]) -> float:
            words = self._words(settings)
            settings_of[words] = settings
            found[words] = max(found.get(words, 0.0), self._trial(workload, figure, settings))
            return found[words]

        # More than once, a while apart: what disturbs one trial must not decide.
        for _ in range(SWEEPS):
            best_settings(options, rate)
        self.tried = found
        self.settings = max(found, key=found.__getitem__)
        self._open(workload, settings_of[self.settings])

    def _trial(self, workload: Workload, figure: Figure, settings: Mapping[str, Setting]) -> float:
        self._open(workload, settings)
        # The first run of a context touches its memory.
        self.measure(Workload(workload.num_prompts, 0, 8, 2))
        runs = [self.measure(workload)]
        while len(runs) < MAX_RUNS and sum(run.total_s for run in runs) < TRIAL_S:
            runs.append(self.measure(workload))
        return max(figure(run) for run in runs)

    def measure(self, workload: Workload) -> Measured:
        found = self._process.ask(
            "run", prompts=workload.prompts(), shared=workload.shared, new=workload.new
        )
        return Measured(workload.num_new, **found)

    def greedy(self, workload: Workload) -> list[list[int]]:
        self._load()
        self._open(workload, {name: values[0] for name, values in OPTIONS.items()})
        return [list(answer) for answer in self.measure(workload).tokens]

    @property
    def has_default_spin(self) -> bool:
        """Whether it does for the last workload that was prepared for."""
        return self._process is self._processes[True]

    def _load(self) -> None:
        for process in self._processes.values():
            process.ask("load", path=str(self._path))

    def _open(self, workload: Workload, settings: Mapping[str, Setting]) -> None:
        self._process = self._processes[bool(settings["default_spin"])]
        self._process.ask(
            "open",
            cells=num_cells(workload, is_unified=bool(settings["kv_unified"])),
            sequences=workload.num_prompts,
            threads=self._threads,
            n_batch=N_BATCH,
            n_ubatch=settings["n_ubatch"],
            flash_attn=settings["flash_attn"],
            kv_unified=settings["kv_unified"],
        )

    def _words(self, settings: Mapping[str, Setting]) -> str:
        given = ", ".join(f"{name}={value}" for name, value in settings.items())
        return f"{given}, n_batch={N_BATCH}, n_threads={self._threads}, KV in f16"


def write_models(process: WorkerProcess, checkpoint: Path, threads: int) -> dict[str, Path]:
    """The checkpoint as GGUF files beside it, by precision; made if they are not there yet.

    Without ``q8_0`` if llama.cpp cannot quantize it. *Raises* ``WorkerError`` if even bfloat16
    cannot be written.
    """
    found = {"bf16": checkpoint / "bf16.gguf", "q8_0": checkpoint / "q8_0.gguf"}
    if not found["bf16"].exists():
        process.ask("write_gguf", checkpoint=str(checkpoint), target=str(found["bf16"]))
    if not found["q8_0"].exists():
        try:
            process.ask(
                "quantize", source=str(found["bf16"]), target=str(found["q8_0"]), threads=threads
            )
        except WorkerError as error:
            print(f"no q8_0: {error}")
            del found["q8_0"]
    return found
