"""One HTTP request's work in the engine: a stream per prompt, seen as one, ended as one.

    prompts [A, B], n = 2          engine request 0: A/0, A/1 ─┐
                                   engine request 1: B/0, B/1 ─┴▶ deltas labelled with their prompt

All or nothing: if one part cannot start, or fails on the way, every other part is aborted.
``aclose`` is idempotent, works at any moment, and finishes even while its caller is being
cancelled, because pages depend on it. Knows neither HTTP nor OpenAI.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

import anyio

from radixserve.engine.interface import Engine, TextDelta, TextStream
from radixserve.errors import EngineDeadError, ShuttingDownError
from radixserve.ids import Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.text.token_memory import Tail, TokenMemory
from radixserve.types import CacheHints, CacheReport
from radixserve_frontend.answer_tokens import AnswerTokens
from radixserve_frontend.http_errors import GenerationError
from radixserve_frontend.record import RequestRecord
from radixserve_frontend.trace_recorder import RecordedPrompt, TraceRecorder

logger = logging.getLogger(__name__)

# Deltas between the pumps and the reader of a request with several prompts. The streams behind
# buffer as well; this only has to be more than one.
_MERGE_QUEUE_SIZE = 64

_DEAD = "the engine process ended in the middle of the answer"


class PromptDelta(NamedTuple):
    """A delta and the number of the prompt it belongs to."""

    prompt: int
    delta: TextDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything the engine needs for one HTTP request."""

    prompts: Sequence[Sequence[int]]
    params: SamplingParams
    namespace: Namespace
    hints: CacheHints
    continues_prompt: bool
    """Whether answers go on from the prompt's text, or are texts of their own."""
    tenant: str = ""
    priority: int = 0
    deadline_s: float | None = None
    """Seconds from its start."""
    visible_ids: frozenset[int] = frozenset()
    """Special tokens that are part of the answers' text."""
    tail: Tail | None = None
    """Of the only prompt, if its answers are to be learnt."""

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(prompt) for prompt in self.prompts)


class Generation:
    """The running parts of one request. Read ``deltas`` once; then, or instead, ``aclose``."""

    def __init__(
        self,
        engine: Engine,
        streams: Sequence[TextStream],
        job: Job,
        record: RequestRecord,
        recorded: Sequence[RecordedPrompt],
        tokens: AnswerTokens,
    ) -> None:
        self._engine = engine
        self._streams = streams
        self._num_unfinished = len(streams) * job.params.n
        self._cached_tokens = [0] * len(streams)
        self.cache_reports: list[CacheReport | None] = [None] * len(streams)
        """By prompt. Each comes with the prompt's first delta, if it was ever admitted."""
        self._record = record
        self._recorded = recorded
        """By prompt, while the traffic is recorded and this runs; else empty."""
        self._tokens = tokens
        self.job = job

    @classmethod
    async def start(
        cls,
        engine: Engine,
        job: Job,
        record: RequestRecord,
        memory: TokenMemory,
        recorder: TraceRecorder | None = None,
    ) -> "Generation":
        """Submit every prompt; ``memory`` learns the answers. *Raises* what ``Engine.submit``
        raises; then nothing is running, and nothing recorded."""
        record.prompt_tokens = job.num_prompt_tokens
        streams: list[TextStream] = []
        recorded: list[RecordedPrompt] = []
        try:
            for prompt in job.prompts:
                streams.append(  # those begun must be known if a later one fails
                    await engine.submit(
                        prompt,
                        job.params,
                        namespace=job.namespace,
                        hints=job.hints,
                        tenant=job.tenant,
                        priority=job.priority,
                        deadline_s=job.deadline_s,
                        follows=streams[0].request_id if streams else None,
                        visible_ids=job.visible_ids,
                        continues_prompt=job.continues_prompt,
                    )
                )
            if recorder is not None:
                recorded += [recorder.begin(prompt, job.namespace) for prompt in job.prompts]
        except BaseException:
            await _close_all(streams)
            raise
        return cls(engine, streams, job, record, recorded, AnswerTokens(memory, job.tail))

    @property
    def num_cached_tokens(self) -> int:
        """Over all prompts. Final once every prompt has given its first delta."""
        return sum(self._cached_tokens)

    @property
    def num_generated_tokens(self) -> int:
        return self._record.generated_tokens

    async def deltas(self) -> AsyncGenerator[PromptDelta, None]:
        """The deltas of all prompts as they become known. Close it (``contextlib.aclosing``).

        *Raises* ``GenerationError`` for a part that the engine gave up, ``ShuttingDownError`` for
        one that a shutdown ended, ``DeadlineError`` for one whose time was up,
        ``EngineDeadError`` if the engine ended.
        """
        if len(self._streams) == 1:
            async for delta in self._streams[0]:
                self._observe(0, delta)
                yield PromptDelta(0, delta)
        else:
            async with aclosing(_merge(self._streams)) as merged:
                async for labelled in merged:
                    self._observe(labelled.prompt, labelled.delta)
                    yield labelled
        if self._num_unfinished > 0:
            raise EngineDeadError(_DEAD)

    async def aclose(self) -> None:
        """Abort whatever still runs."""
        self._record.queued_s = [
            stream.queued_s for stream in self._streams if stream.queued_s is not None
        ]
        self._tokens.end()
        recorded, self._recorded = self._recorded, ()
        for prompt in recorded:
            prompt.end()
        await _close_all(self._streams)

    def _observe(self, prompt: int, delta: TextDelta) -> None:
        if delta.num_cached_tokens > self._cached_tokens[prompt]:
            self._cached_tokens[prompt] = delta.num_cached_tokens
            self._record.cached_tokens = self.num_cached_tokens
        if delta.cache_report is not None:
            self.cache_reports[prompt] = delta.cache_report
        self._record.observe(prompt, delta)
        self._tokens.add(delta)
        if self._recorded:
            self._recorded[prompt].add(len(delta.token_ids))
        if delta.finish_reason is not None:
            self._num_unfinished -= 1
            if delta.finish_reason == "error":
                if not self._engine.is_alive:
                    raise EngineDeadError(delta.error or _DEAD)
                raise GenerationError(delta.error or "the engine could not finish this answer")
            if delta.finish_reason == "abort":
                raise ShuttingDownError(
                    "the answer was aborted before its end: the server is shutting down"
                )


async def _close_all(streams: Sequence[TextStream]) -> None:
    with anyio.CancelScope(shield=True):
        results = await asyncio.gather(
            *(stream.aclose() for stream in streams), return_exceptions=True
        )
    for result in results:
        if isinstance(result, BaseException):
            # An engine that is gone has nothing to abort; an answer that is complete stays so.
            logger.warning("closing a request failed", exc_info=result)


@dataclass(frozen=True, slots=True)
class _End:
    """One stream is exhausted, or has failed."""

    failure: Exception | None


async def _merge(streams: Sequence[TextStream]) -> AsyncGenerator[PromptDelta, None]:
    """The streams' deltas in order of arrival; the first failure ends all."""
    queue: asyncio.Queue[PromptDelta | _End] = asyncio.Queue(_MERGE_QUEUE_SIZE)

    async def pump(prompt: int, stream: TextStream) -> None:
        failure: Exception | None = None
        try:
            async for delta in stream:
                await queue.put(PromptDelta(prompt, delta))
        except Exception as error:
            failure = error
        # Not in a `finally`: a cancelled pump has no reader any more and must not wait for room.
        await queue.put(_End(failure))

    pumps = [asyncio.create_task(pump(*numbered)) for numbered in enumerate(streams)]
    try:
        num_open = len(pumps)
        while num_open > 0:
            item = await queue.get()
            if isinstance(item, PromptDelta):
                yield item
            elif item.failure is not None:
                raise item.failure
            else:
                num_open -= 1
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
