"""The server's engine: prompts in, streams of text out, over an engine process.

Implements ``interface.Engine``. Everything runs on one event loop. The process is the supervisor's
(``supervisor.py``): if it dies, streams pause and go on in the next one. Only when it is given up,
or at a shutdown, do they end, each with a last delta that says why; none hangs.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from radixserve.config import NO_QUEUE_LIMITS, EngineConfig, QueueLimits
from radixserve.engine.asking import OpenQuestions
from radixserve.engine.cache_watch import CacheWatch, CacheWatchers
from radixserve.engine.gate import Gate
from radixserve.engine.grammar_turns import GrammarTurns
from radixserve.engine.intake import Intake
from radixserve.engine.interface import EngineHealth, TreeViewer
from radixserve.engine.messages import (
    Answer,
    CacheEvents,
    CacheStatsRead,
    ClearCache,
    Cleared,
    Explain,
    Explained,
    PrefillAhead,
    ReadCacheStats,
    SetPublic,
    Step,
    TreeChanged,
    WatchCache,
    WatchFailed,
)
from radixserve.engine.request_stream import RequestStream
from radixserve.engine.supervisor import GIVEN_UP, Supervisor
from radixserve.engine.tree_watch import TreeWatch, TreeWatchers
from radixserve.errors import (
    DeadlineError,
    EngineDeadError,
    InvalidRequestError,
    ShuttingDownError,
)
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import (
    MAX_DEADLINE_S,
    NO_HINTS,
    CacheExplanation,
    CacheHints,
    CacheStats,
    EngineInfo,
    EngineStats,
    TokenDelta,
)

logger = logging.getLogger(__name__)

SERVING_ITL_STRETCH = 2.0
"""How much longer a step may take because of somebody else's prompt, unless configured."""


class AsyncEngine:
    """A supervised engine process and the streams of all requests in it. Made by ``start``."""

    info: EngineInfo
    tokenizer: Tokenizer
    _supervisor: Supervisor
    _intake: Intake

    def __init__(self, limits: QueueLimits) -> None:
        self._gate = Gate(limits)
        self._turns = GrammarTurns()
        self._streams: dict[RequestId, RequestStream] = {}
        self._accepting = True
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._questions = OpenQuestions(lambda message: self._supervisor.send(message))  # noqa: PLW0108  # bound later
        self._watchers = CacheWatchers(
            lambda snapshot: self._supervisor.post(WatchCache(snapshot)),
        )
        self._tree_watchers = TreeWatchers(
            lambda message: self._supervisor.post(message),  # noqa: PLW0108  # bound later
            self._questions.ask,
            lambda: self.stats,
        )

    @classmethod
    async def start(cls, config: EngineConfig, limits: QueueLimits = NO_QUEUE_LIMITS) -> Self:
        """Start the engine process, and load the tokenizer once the model is there. ``limits``
        bound what may wait in front of it.

        *Raises* ``ConfigError``, ``ModelError`` or ``EngineDeadError`` if either cannot be had.
        """
        if config.max_itl_stretch is None:
            config = replace(config, max_itl_stretch=SERVING_ITL_STRETCH)
        engine = cls(limits)
        engine._supervisor = await Supervisor.start(config, engine)
        engine.info = engine._supervisor.info
        try:
            engine.tokenizer = await asyncio.to_thread(
                Tokenizer.from_dir,
                engine.info.model_dir,
                chat_template=config.chat_template,
                tool_format=config.tool_format,
                reasoning_format=config.reasoning_format,
            )
        except BaseException:
            await engine.aclose()
            raise
        engine._intake = Intake(engine.info, engine.tokenizer)
        return engine

    @property
    def stats(self) -> EngineStats:
        """The figures after the engine's last step, and those of the queue now."""
        return replace(
            self._supervisor.stats,
            refused=dict(self._gate.refused),
            expected_wait_s=self._gate.expected_wait_s,
        )

    @property
    def is_alive(self) -> bool:
        """Whether there is a process, or will be one again."""
        return not self._closed and not self._supervisor.given_up.is_set()

    @property
    def health(self) -> EngineHealth:
        """See ``interface.Engine.health``."""
        return EngineHealth(
            is_up=self._supervisor.is_up,
            is_ready=self._accepting and self._supervisor.is_ready,
            has_given_up=self._supervisor.given_up.is_set(),
            num_restarts=self._supervisor.num_restarts,
            num_resumed_requests=self._supervisor.num_resumed_requests,
        )

    async def given_up(self) -> None:
        """Wait until the engine has been given up: it died, and does not come back."""
        await self._supervisor.given_up.wait()

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
        follows: RequestId | None = None,
        continues_prompt: bool = False,
        visible_ids: frozenset[int] = frozenset(),
    ) -> RequestStream:
        """See ``interface.Engine.submit``."""
        self._check_accepting()
        if deadline_s is not None and not 0 < deadline_s <= MAX_DEADLINE_S:
            raise InvalidRequestError(
                f"the request is given {deadline_s} s; it must be above 0 and at most "
                f"{MAX_DEADLINE_S}",
                param="timeout",
            )
        if not self._intake.knows_grammar(params):
            deadline_s = await self._check_grammar(params, tenant, deadline_s)
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
            request,
            self.tokenizer,
            self.abort,
            continues_prompt=continues_prompt,
            visible_ids=visible_ids,
        )
        self._gate.enter(
            request.request_id,
            len(request.prompt_ids),
            tenant=tenant,
            priority=priority,
            deadline_s=deadline_s,
            follows=follows,
        )
        try:
            self._supervisor.submit(request)
        except BaseException:
            self._gate.leave(request.request_id)
            raise
        self._streams[request.request_id] = stream
        self._idle.clear()
        if deadline_s is not None:
            stream.expire_in(deadline_s)
        return stream

    async def _check_grammar(
        self, params: SamplingParams, tenant: str, deadline_s: float | None
    ) -> float | None:
        """Have a new grammar tried, when it is the tenant's turn. Returns what is left of the
        request's time. *Raises* ``DeadlineError`` if it is up."""
        begun_s = time.monotonic()
        try:
            async with asyncio.timeout(deadline_s) as limit:
                await self._turns.take(tenant, lambda: self._intake.check_grammar(params))
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineError(
                f"the {deadline_s:g} s that this request was given are up; its grammar was still "
                "to be checked"
            ) from None
        self._check_accepting()
        if deadline_s is None:
            return None
        # What is left may be next to nothing, but is some time.
        return max(deadline_s - (time.monotonic() - begun_s), 1e-3)

    def abort(self, request_id: RequestId, index: int | None = None) -> None:
        """End a request, or one of its choices, in the engine. Never waits, never raises: a client
        that goes away must not depend on anything."""
        if index is None:
            self._forget(request_id)
        self._supervisor.abort(request_id, index)

    def set_public_prefixes(self, prefixes: Sequence[Sequence[int]]) -> None:
        """See ``interface.Engine.set_public_prefixes``."""
        checked = [self._intake.check_prompt(prefix) for prefix in prefixes]
        self._supervisor.set_public(SetPublic(checked))

    def prefill_ahead(
        self,
        prompt_ids: Sequence[int],
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        tenant: str = "",
    ) -> None:
        """See ``interface.Engine.prefill_ahead``."""
        if self._accepting and self._supervisor.is_up:
            checked = self._intake.check_prompt(prompt_ids)
            self._supervisor.post(PrefillAhead(checked, namespace, tenant))

    async def explain(
        self,
        prompt_ids: Sequence[int],
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        looks_elsewhere: bool = False,
    ) -> CacheExplanation:
        """See ``interface.Engine.explain``."""
        checked = self._intake.check_prompt(prompt_ids)
        reply = await self._questions.ask(Explain(checked, namespace, looks_elsewhere))
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
        self._supervisor.note_stats(reply.stats.engine)
        return replace(reply.stats, engine=self.stats)

    def watch_cache(self) -> CacheWatch:
        """See ``interface.Engine.watch_cache``."""
        self._check_accepting()
        return self._watchers.open(self.info.num_pages)

    def watch_tree(self, viewer: TreeViewer) -> TreeWatch:
        """See ``interface.Engine.watch_tree``."""
        self._check_accepting()
        return self._tree_watchers.open(viewer, self.info.page_size)

    async def drain(self, timeout_s: float) -> None:
        """See ``interface.Engine.drain``."""
        self._accepting = False
        self._end_watches()
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            logger.warning(
                "%d requests were still running after %.0f s", len(self._streams), timeout_s
            )

    async def aclose(self) -> None:
        """See ``interface.Engine.aclose``. Idempotent."""
        self._accepting = False
        self._closed = True
        self._end_watches()
        # Before the process: its end may take seconds, in which last words can reach the clients.
        self._end_all("the server is shutting down")
        self._questions.fail("the server is shutting down")
        await self._turns.close()
        await self._supervisor.aclose()

    # -- what the supervisor tells ------------------------------------------------------------

    def on_step(self, step: Step) -> None:
        """See ``supervisor.Listener``."""
        self._gate.observe(step.admitted, step.stats)
        for request_id in step.admitted:
            stream = self._streams.get(request_id)
            if stream is not None:
                stream.admitted()

    def on_delta(self, delta: TokenDelta) -> None:
        """See ``supervisor.Listener``."""
        stream = self._streams.get(delta.request_id)
        if stream is not None:
            stream.feed(delta)
            if stream.is_finished:
                self._forget(delta.request_id)

    def on_watched(self, message: CacheEvents | TreeChanged | WatchFailed) -> None:
        """See ``supervisor.Listener``."""
        match message:
            case TreeChanged():
                self._tree_watchers.feed(message)
            case WatchFailed(is_tree=True):
                self._tree_watchers.end()
            case CacheEvents(events, snapshot):
                self._watchers.feed(events, snapshot)
            case WatchFailed():
                self._watchers.end()

    def on_answer(self, answer: Answer) -> None:
        """See ``supervisor.Listener``."""
        self._questions.feed(answer)

    def on_down(self) -> None:
        """See ``supervisor.Listener``."""
        self._questions.fail("the engine process has ended before it answered; ask again")

    def on_up(self) -> None:
        """See ``supervisor.Listener``."""
        self._watchers.restart()
        self._tree_watchers.restart()

    def on_given_up(self) -> None:
        """See ``supervisor.Listener``."""
        self._end_watches()
        self._questions.fail(GIVEN_UP)

    def _end_watches(self) -> None:
        self._watchers.end()
        self._tree_watchers.end()

    def _end_all(self, error: str) -> None:
        for request_id, stream in tuple(self._streams.items()):
            stream.end("abort", error)
            self._forget(request_id)

    def _forget(self, request_id: RequestId) -> None:
        self._gate.leave(request_id)
        stream = self._streams.pop(request_id, None)
        if stream is not None:
            stream.forgotten()
        if not self._streams:
            self._idle.set()

    def _check_accepting(self) -> None:
        if not self._accepting:
            raise ShuttingDownError("the server is shutting down and takes no more requests")
        if not self.is_alive:
            raise EngineDeadError(GIVEN_UP)
