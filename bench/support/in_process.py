"""An engine core in this process, fed with token ids: no HTTP and no other process in the figures.

Imports the engine, so ``support`` itself must come before it.
"""

import time
from collections.abc import Sequence

import numpy as np

from radixserve.engine.core import EngineCore
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.types import EngineRequest, TokenDelta
from support.checkpoint import VOCAB_SIZE


class InProcess:
    """A core and a source of prompts that nobody has seen before."""

    def __init__(self, core: EngineCore, seed: int = 0) -> None:
        self.core = core
        self._rng = np.random.default_rng(seed)
        self._serial = 0

    def tokens(self, count: int) -> list[int]:
        """So many token ids, drawn at random."""
        return [int(token) for token in self._rng.integers(300, VOCAB_SIZE, count)]

    def submit(self, prompt: Sequence[int], max_tokens: int) -> RequestId:
        """Queue a greedy request that ends after ``max_tokens``."""
        self._serial += 1
        request_id = RequestId(str(self._serial))
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        resolved = params.resolve(self.core.info.sampling_defaults, max_tokens=max_tokens, seed=0)
        self.core.add(
            EngineRequest(
                request_id=request_id, prompt_ids=list(prompt), params=resolved, end_token_ids=[]
            )
        )
        return request_id

    def first_token(self, prompt: Sequence[int]) -> tuple[float, TokenDelta]:
        """Milliseconds from submission to the first token, with nothing else running; and what came
        with it."""
        begun = time.perf_counter()
        self.submit(prompt, max_tokens=1)
        while not (deltas := self.core.step()):
            pass
        return (time.perf_counter() - begun) * 1e3, deltas[0]

    def run_chores(self) -> None:
        """Let the engine do what it does while it is idle, until there is nothing left."""
        while self.core.can_step:
            self.core.step()
