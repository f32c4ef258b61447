"""The server's engine: prompts in, streams of text out, over an engine process.

Implements ``interface.Engine``. Everything runs on one event loop: each token delta is turned into
text (``text/stream.py``) as it arrives, so a stop string is noticed, and the rest of the choice
aborted, whether or not anybody reads the stream just then. If the engine process dies, every stream
in flight ends with an error; none hangs.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Self

from radixserve.config import EngineConfig
from radixserve.engine.asking import OpenQuestions
from radixserve.engine.cache_watch import CacheWatch, CacheWatchers
from radixserve.engine.client import EngineClient
from radixserve.engine.intake import Intake
from radixserve.engine.interface import TextDelta
from radixserve.engine.messages import (
    Abort,
    CacheEvents,
    CacheStatsRead,
    ClearCache,
    Cleared,
    Explain,
    Explained,
    ReadCacheStats,
    Step,
    Submit,
    ToEngine,
    WatchCache,
)
from radixserve.errors import EngineDeadError, ShuttingDownError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.text.stream import ChoiceText
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import (
    NO_HINTS,
    CacheExplanation,
    CacheHints,
    CacheInfo,
    CacheStats,
    EngineInfo,
    EngineRequest,
    EngineStats,
    TokenDelta,
)

logger = logging.getLogger(__name__)

SERVING_ITL_STRETCH = 2.0
"""How much longer a step may take because of somebody else's prompt, unless configured."""


class RequestStream:
    """Implements ``interface.TextStream``. Made by ``AsyncEngine.submit``, fed by its engine."""

    def __init__(
        self,
        engine: "AsyncEngine",
        request: EngineRequest,
        *,
        continues_prompt: bool,
        visible_ids: frozenset[int],
    ) -> None:
        self.request_id = request.request_id
        self._engine = engine
        self._choices = {
            index: ChoiceText(
                engine.tokenizer,
                request.params,
                continues_prompt=continues_prompt,
                visible_ids=visible_ids,
            )
            for index in range(request.params.n)
        }
        """The choices that have not ended."""
        self._deltas: deque[TextDelta] = deque()
        self._arrived = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        while not self._deltas:
            if self.is_finished:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._deltas.popleft()

    async def aclose(self) -> None:
        """Abort what has not ended; iteration ends. Idempotent."""
        if not self.is_finished:
            self._choices.clear()
            self._arrived.set()
            self._engine.abort(self.request_id)

    @property
    def is_finished(self) -> bool:
        return not self._choices

    def feed(self, delta: TokenDelta) -> None:
        """Take what the engine made of one choice. What comes after its end is ignored."""
        choice = self._choices.get(delta.index)
        if choice is None:
            return
        step = choice.feed(delta)
        if step.abort:
            self._engine.abort(self.request_id, delta.index)
        if choice.is_finished:
            del self._choices[delta.index]
        self._deltas.append(
            TextDelta(
                index=delta.index,
                text=step.text,
                token_ids=step.token_ids,
                logprobs=step.logprobs,
                finish_reason=step.finish_reason,
                stop_reason=step.stop_reason,
                num_cached_tokens=delta.num_cached_tokens,
                cache_report=delta.cache_report,
                prompt_logprobs=delta.prompt_logprobs,
                error=delta.error,
            )
        )
        self._arrived.set()

    def fail(self, error: str) -> None:
        """End every choice that has not ended with an error."""
        for index in tuple(self._choices):
            self.feed(
                TokenDelta(
                    request_id=self.request_id,
                    index=index,
                    token_ids=[],
                    finish_reason="error",
                    error=error,
                )
            )


class AsyncEngine:
    """An engine process and the streams of all requests in it. Made by ``start``."""

    info: EngineInfo
    tokenizer: Tokenizer
    _client: EngineClient
    _intake: Intake

    def __init__(self) -> None:
        self._streams: dict[RequestId, RequestStream] = {}
        self._stats: EngineStats | None = None
        self._accepting = True
        self._idle = asyncio.Event()
        self._idle.set()
        self._sends: set[asyncio.Task[None]] = set()
        self._questions = OpenQuestions(lambda message: self._client.send(message))  # noqa: PLW0108  # bound later
        self._watchers = CacheWatchers(lambda snapshot: self._post(WatchCache(snapshot)))

    @classmethod
    async def start(cls, config: EngineConfig) -> Self:
        """Start the engine process, and load the tokenizer once the model is there.

        *Raises* ``ConfigError``, ``ModelError`` or ``EngineDeadError`` if either cannot be had.
        """
        if config.max_itl_stretch is None:
            config = replace(config, max_itl_stretch=SERVING_ITL_STRETCH)
        engine = cls()
        engine._client, engine.info = await EngineClient.start(
            config,
            on_step=engine._on_step,
            on_cache_events=engine._on_cache_events,
            on_answer=engine._questions.feed,
            on_exit=engine._on_exit,
        )
        try:
            engine.tokenizer = await asyncio.to_thread(
                Tokenizer.from_dir, engine.info.model_dir, chat_template=config.chat_template
            )
        except BaseException:
            await engine.aclose()
            raise
        engine._intake = Intake(engine.info, engine.tokenizer)
        return engine

    @property
    def stats(self) -> EngineStats:
        """The figures after the engine's last step."""
        if self._stats is not None:
            return self._stats
        pages = self.info.num_pages
        return EngineStats(
            num_waiting=0,
            num_running=0,
            cache=CacheInfo(
                free_pages=pages,
                cached_pages=0,
                in_use_pages=0,
                total_pages=pages,
                page_size=self.info.page_size,
            ),
        )

    @property
    def is_alive(self) -> bool:
        return self._client.is_alive

    async def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        hints: CacheHints = NO_HINTS,
        tenant: str = "",
        priority: int = 0,
        deadline_s: float | None = None,
        continues_prompt: bool = False,
        visible_ids: frozenset[int] = frozenset(),
    ) -> RequestStream:
        """See ``interface.Engine.submit``."""
        self._check_accepting()
        request = self._intake.admit(
            RequestId(uuid.uuid4().hex),
            prompt_ids,
            params,
            namespace=namespace,
            hints=hints,
            tenant=tenant,
            priority=priority,
        )
        stream = RequestStream(
            self, request, continues_prompt=continues_prompt, visible_ids=visible_ids
        )
        self._streams[request.request_id] = stream
        self._idle.clear()
        try:
            await self._client.send(Submit(request))
        except BaseException:
            # Also when the caller was cancelled: the message may or may not have left.
            self.abort(request.request_id)
            raise
        return stream

    def abort(self, request_id: RequestId, index: int | None = None) -> None:
        """End a request, or one of its choices, in the engine. Never waits, never raises: a client
        that goes away must not depend on anything."""
        if index is None:
            self._forget(request_id)
        self._post(Abort(request_id, index))

    async def explain(
        self, prompt_ids: Sequence[int], *, namespace: Namespace = DEFAULT_NAMESPACE
    ) -> CacheExplanation:
        """See ``interface.Engine.explain``."""
        checked = self._intake.check_prompt(prompt_ids)
        reply = await self._questions.ask(Explain(checked, namespace))
        assert isinstance(reply, Explained), reply
        return reply.explanation

    async def clear_cache(self, namespace: Namespace | None = None) -> int:
        """See ``interface.Engine.clear_cache``."""
        reply = await self._questions.ask(ClearCache(namespace))
        assert isinstance(reply, Cleared), reply
        return reply.num_freed_pages

    async def cache_stats(self) -> CacheStats:
        """See ``interface.Engine.cache_stats``."""
        reply = await self._questions.ask(ReadCacheStats())
        assert isinstance(reply, CacheStatsRead), reply
        self._stats = reply.stats.engine
        return reply.stats

    def watch_cache(self) -> CacheWatch:
        """See ``interface.Engine.watch_cache``."""
        self._check_accepting()
        return self._watchers.open(self.info.num_pages)

    async def drain(self, timeout_s: float) -> None:
        """See ``interface.Engine.drain``."""
        self._accepting = False
        self._watchers.end()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            logger.warning(
                "%d requests were still running after %.0f s", len(self._streams), timeout_s
            )

    async def aclose(self) -> None:
        """See ``interface.Engine.aclose``. Idempotent."""
        self._accepting = False
        self._watchers.end()
        await self._client.aclose()
        self._fail_all("the server is shutting down")
        self._questions.fail("the server is shutting down")

    def _on_step(self, step: Step) -> None:
        self._stats = step.stats
        for delta in step.deltas:
            stream = self._streams.get(delta.request_id)
            if stream is not None:
                stream.feed(delta)
                if stream.is_finished:
                    self._forget(delta.request_id)

    def _on_cache_events(self, message: CacheEvents) -> None:
        self._watchers.feed(message.events, message.snapshot)

    def _on_exit(self) -> None:
        self._watchers.end()
        self._fail_all("the engine process has ended; this answer is lost, please ask again")
        self._questions.fail("the engine process has ended")

    def _fail_all(self, error: str) -> None:
        for request_id, stream in tuple(self._streams.items()):
            stream.fail(error)
            self._forget(request_id)

    def _forget(self, request_id: RequestId) -> None:
        self._streams.pop(request_id, None)
        if not self._streams:
            self._idle.set()

    def _check_accepting(self) -> None:
        if not self._accepting:
            raise ShuttingDownError("the server is shutting down and takes no more requests")
        if not self.is_alive:
            raise EngineDeadError("the engine process has ended; restart the server")

    def _post(self, message: ToEngine) -> None:
        """Send without waiting; to an engine that is gone, nothing is sent."""
        if self.is_alive:
            task = asyncio.ensure_future(self._client.send(message))
            self._sends.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sends.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("a message did not reach the engine: %s", task.exception())
