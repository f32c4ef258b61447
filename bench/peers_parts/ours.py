"""radixserve: an engine core in this process, token ids in and out."""

import time
from pathlib import Path
from typing import Any

from peers_parts.peer import Figure, Measured
from peers_parts.workload import Workload
from radixserve.config import EngineConfig
from radixserve.engine.build import build_core
from support.in_process import InProcess


class RadixServe:
    """One core, its settings the defaults but for the size of its cache."""

    name = "radixserve"

    def __init__(self, checkpoint: Path, **settings: Any) -> None:
        self._changed = {"dtype": "bfloat16", "kv_cache_gib": 2.0, **settings}
        config = EngineConfig(model=str(checkpoint), **self._changed)
        self._engine = InProcess(build_core(config, progress=False))

    @property
    def settings(self) -> str:
        changed = ", ".join(f"{name}={value}" for name, value in self._changed.items())
        return f"{changed}, otherwise the defaults"

    @property
    def tried(self) -> dict[str, float]:
        return {}

    def prepare(self, workload: Workload, _figure: Figure) -> None:
        self.measure(workload)

    def measure(self, workload: Workload) -> Measured:
        core = self._engine.core
        core.clear_cache()
        prompts = workload.prompts()
        step_ms: list[float] = []
        prefilled = 0.0
        begun = before = time.perf_counter()
        tokens: dict[str, list[int]] = {
            self._engine.submit(prompt, max_tokens=workload.new): [] for prompt in prompts
        }
        while core.has_work:
            is_decoding = prefilled > 0
            deltas = core.step()
            now = time.perf_counter()
            for delta in deltas:
                assert delta.error is None, delta.error
                tokens[delta.request_id] += delta.token_ids
            # A step counts where every prompt decodes, and nothing else.
            if is_decoding and len(deltas) == len(prompts):
                step_ms.append((now - before) * 1e3)
            if not is_decoding and all(tokens.values()):
                prefilled = now
            before = now
        answers = list(tokens.values())
        assert all(len(answer) == workload.new for answer in answers)
        return Measured(workload.num_new, before - begun, prefilled - begun, step_ms, answers)

    def greedy(self, workload: Workload) -> list[list[int]]:
        return [list(answer) for answer in self.measure(workload).tokens]
