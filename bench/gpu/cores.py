"""Engine cores over models that are in memory already, and the workloads that are timed on them.

No HTTP, no process, no tokenizer: token ids in, token ids out, ``EngineCore.step`` in a loop. What
the host does in a step is timed by wrapping the four calls that a step is made of.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from radixserve.cache.prefix_cache import PrefixCache
from radixserve.cascade import NO_CASCADE
from radixserve.config import EngineConfig
from radixserve.engine.core import EngineCore
from radixserve.ids import RequestId
from radixserve.model.causal_lm import CausalLM
from radixserve.runner.make import assemble_runner
from radixserve.runner.runner import LaunchedStep, ModelRunner
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.scheduler.pacing import Pacer
from radixserve.scheduler.plan import StepPlan
from radixserve.scheduler.scheduler import Scheduler
from radixserve.types import EngineInfo, EngineRequest, TokenDelta


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one prompt."""

    token_ids: list[int]
    gaps: list[float]
    """The log-probability of each chosen token over the runner-up's; empty unless asked for."""
    num_cached_tokens: int


class Engine:
    """A core with its runner, and prompts that nobody has seen before."""

    def __init__(self, model: CausalLM, config: EngineConfig) -> None:
        begun_s = time.perf_counter()
        self.model = model
        self.runner: ModelRunner = assemble_runner(config, model, progress=False)
        found = self.runner.info
        self.cache = PrefixCache(found.num_pages, found.page_size)
        self.scheduler = Scheduler(
            self.cache,
            max_batch_tokens=found.limits.max_batch_tokens,
            max_running=found.limits.max_running,
            cascade_costs=found.cascade_costs,
        )
        info = EngineInfo(
            model=config.model,
            model_dir="",
            architecture=found.architecture,
            num_parameters=found.num_parameters,
            device=found.device,
            dtype=found.dtype,
            attention=found.attention,
            max_model_len=found.max_model_len,
            vocab_size=found.vocab_size,
            page_size=found.page_size,
            num_pages=found.num_pages,
            kv_cache_bytes=found.kv_cache_bytes,
            eos_token_ids=[],
            sampling_defaults=SamplingDefaults(),
            load_seconds=time.perf_counter() - begun_s,
        )
        self.core = EngineCore(info, self.runner, self.scheduler, self.cache, Pacer(None))
        self._rng = np.random.default_rng(0)
        self._serial = 0
        self.context_tokens = 0
        """Tokens of all contexts of ``decoding``'s requests, as far as they have come."""

    @property
    def info(self) -> EngineInfo:
        return self.core.info

    def tokens(self, count: int) -> list[int]:
        """Random token ids."""
        return [int(token) for token in self._rng.integers(0, self.info.vocab_size, count)]

    def submit(
        self, prompt: Sequence[int], max_tokens: int, *, logprobs: int | None = None
    ) -> RequestId:
        """Queue a greedy request that only its length ends."""
        self._serial += 1
        request_id = RequestId(str(self._serial))
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, logprobs=logprobs)
        resolved = params.resolve(SamplingDefaults(), max_tokens=max_tokens, seed=0)
        self.core.add(
            EngineRequest(
                request_id=request_id, prompt_ids=list(prompt), params=resolved, end_token_ids=[]
            )
        )
        return request_id

    def answer(
        self, prompts: Sequence[Sequence[int]], max_tokens: int, *, with_gaps: bool = False
    ) -> list[Answer]:
        """Run all prompts together to their end. *Raises* ``RuntimeError`` for a failed step."""
        ids = [self.submit(p, max_tokens, logprobs=2 if with_gaps else None) for p in prompts]
        answers = {request_id: Answer([], [], 0) for request_id in ids}
        while self.core.has_work:
            for delta in self.step():
                answer = answers[delta.request_id]
                answer.token_ids.extend(delta.token_ids)
                for logprob in delta.logprobs or ():
                    best, second = (value for _, value in logprob.top[:2])
                    answer.gaps.append(best - second)
                answers[delta.request_id] = Answer(
                    answer.token_ids, answer.gaps, delta.num_cached_tokens
                )
        return [answers[request_id] for request_id in ids]

    def step(self) -> list[TokenDelta]:
        """One step of the core. *Raises* ``RuntimeError`` if it failed."""
        deltas = self.core.step()
        for delta in deltas:
            if delta.error is not None:
                raise RuntimeError(delta.error)
            self.context_tokens += len(delta.token_ids)
        return deltas

    def first_token_s(self, prompt: Sequence[int]) -> tuple[float, int]:
        """Seconds from submission to the first token with nothing else running, and how many of the
        prompt's tokens were cached."""
        begun_s = time.perf_counter()
        self.submit(prompt, max_tokens=1)
        while not (deltas := self.step()):
            pass
        elapsed_s = time.perf_counter() - begun_s
        while self.core.has_work:
            self.step()
        return elapsed_s, deltas[0].num_cached_tokens

    def queued_s(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> float:
        """Seconds from submitting all prompts to the last token of the last answer."""
        begun_s = time.perf_counter()
        answers = self.answer(prompts, max_tokens)
        elapsed_s = time.perf_counter() - begun_s
        short = [len(a.token_ids) for a in answers if len(a.token_ids) != max_tokens]
        if short:
            raise RuntimeError(f"expected {max_tokens} tokens of every answer, got {short}")
        return elapsed_s

    @contextmanager
    def decoding(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Iterator[None]:
        """The prompts are prefilled and every step decodes one token of each; ended afterwards."""
        ids = [self.submit(prompt, max_tokens) for prompt in prompts]
        self.context_tokens = sum(len(prompt) for prompt in prompts)
        try:
            started: set[RequestId] = set()
            while len(started) < len(ids):
                started.update(delta.request_id for delta in self.step())
            yield
        finally:
            for request_id in ids:
                self.core.abort(request_id)
            while self.core.has_work:
                self.core.step()

    def decode_steps(self, num_rows: int, num_steps: int) -> list[float]:
        """Seconds of each of so many steps, every one of ``num_rows`` tokens.

        *Raises* ``RuntimeError`` if a step was another: something else was going on.
        """
        taken: list[float] = []
        last_s = time.perf_counter()
        while len(taken) < num_steps:
            deltas = self.step()
            if not deltas:
                # It only launched: the first of a pipeline.
                continue
            now_s = time.perf_counter()
            if len(deltas) != num_rows:
                raise RuntimeError(f"expected a step of {num_rows} rows, got {len(deltas)}")
            taken.append(now_s - last_s)
            last_s = now_s
        return taken


@dataclass(slots=True)
class HostTimes:
    """Seconds the host spent in each part of its steps, and how many steps."""

    seconds: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, elapsed_s: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + elapsed_s
        self.calls[name] = self.calls.get(name, 0) + 1

    def us_per_step(self, num_steps: int) -> dict[str, float]:
        return {f"{name}_us": s / num_steps * 1e6 for name, s in self.seconds.items()}


@contextmanager
def host_times(engine: Engine) -> Iterator[HostTimes]:
    """Time the core's calls to scheduler and runner. "build" is a part of "launch".

    *Mutates* the engine's objects while it lasts: their methods are shadowed by timed ones.
    """
    times = HostTimes()
    wrapped: list[tuple[Any, str]] = []

    def shadow(owner: Any, method: str, name: str) -> None:
        plain = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            begun_s = time.perf_counter()
            result = plain(*args, **kwargs)
            times.add(name, time.perf_counter() - begun_s)
            if name == "launch":
                shadow(result, "wait", "wait")
                # A launched step lives for one step: nothing to take back.
                wrapped.pop()
            return result

        setattr(owner, method, timed)
        wrapped.append((owner, method))

    try:
        shadow(engine.scheduler, "schedule", "schedule")
        shadow(engine.scheduler, "update", "update")
        shadow(engine.runner, "launch", "launch")
        builder = getattr(engine.runner, "_batches", None)
        if builder is not None:
            shadow(builder, "build", "build")
        yield times
    finally:
        for owner, method in wrapped:
            delattr(owner, method)


@dataclass(slots=True)
class LevelCount:
    """Steps launched, and how many of them had levels."""

    num_steps: int = 0
    num_with_levels: int = 0


@contextmanager
def counting_levels(engine: Engine, *, keep: bool) -> Iterator[LevelCount]:
    """Count the steps whose rows share what is worth reading once; without ``keep``, have every row
    read it by itself.

    *Mutates* the engine's runner while it lasts: ``launch`` is shadowed.
    """
    count, launch = LevelCount(), engine.runner.launch

    def counted(plan: StepPlan) -> LaunchedStep:
        chosen = plan if keep else replace(plan, cascade=NO_CASCADE)
        count.num_steps += 1
        count.num_with_levels += bool(chosen.cascade.levels)
        return launch(chosen)

    setattr(engine.runner, "launch", counted)  # noqa: B010 (mypy knows it for a method)
    try:
        yield count
    finally:
        delattr(engine.runner, "launch")
