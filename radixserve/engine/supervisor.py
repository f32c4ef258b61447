"""Keeps an engine process running, and the requests in it going on, however it dies.

    submit ─▶ registry ─▶ trials ─▶ engine process ─▶ tokens ─▶ registry ─▶ listener
                             ▲             │
              who may be in  │             ▼ dies, or hangs and is killed
                             └── restart ◀─┘   and all that were in it are sent again

Four parts with a noun each: ``resumption.py`` knows what every request has been given and what to
send a new engine; ``trials.py`` who may be in it together; ``blame.py`` whether a death is held
against anybody; ``watchdog.py`` whether it hangs. Here they meet the processes: one
``EngineClient`` a life, of which nothing is taken any more once it has died.

While there is no engine, requests wait. When it is given up (``restarts.py``), they end with an
error, and every later one is refused. Knows no text. Everything runs on one event loop, and nothing
that a caller calls waits for anything.
"""

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import Protocol, Self

from radixserve.config import EngineConfig
from radixserve.engine.blame import Blame
from radixserve.engine.client import EngineClient, Exit, Told
from radixserve.engine.figures import Figures
from radixserve.engine.messages import (
    Abort,
    Answer,
    CacheEvents,
    Ping,
    Pong,
    SetPublic,
    Step,
    Submit,
    ToEngine,
    TreeChanged,
    WatchFailed,
)
from radixserve.engine.quarantine import Quarantine
from radixserve.engine.restarts import RestartPolicy
from radixserve.engine.resumption import LiveRequest, Registry
from radixserve.engine.socket_dir import remove_stale
from radixserve.engine.trials import Trials
from radixserve.engine.watchdog import READY_S, Watchdog
from radixserve.errors import EngineDeadError
from radixserve.ids import RequestId
from radixserve.types import EngineInfo, EngineRequest, EngineStats, TokenDelta

logger = logging.getLogger(__name__)

MIN_START_LIMIT_S = 120.0
"""A process that takes longer to load, and ten times as long as the first one, hangs."""
GIVEN_UP = "the engine has died and does not come back; restart the server"
BROKEN_STREAM = "internal error: the answer could not be put together; the log has the details"
CONDEMNED = (
    "the engine process died of this request each time that it ran alone; it has been given up"
)


class Listener(Protocol):
    """Who is told what comes. Called on the event loop."""

    def on_step(self, step: Step) -> None:
        """A step of the process that lives has ended. Its figures are of this process alone."""
        ...

    def on_delta(self, delta: TokenDelta) -> None:
        """Something new about a choice that has not ended."""
        ...

    def on_watched(self, message: CacheEvents | TreeChanged | WatchFailed) -> None: ...

    def on_answer(self, answer: Answer) -> None: ...

    def on_down(self) -> None:
        """The engine process has died; what it had been asked it will not answer."""
        ...

    def on_up(self) -> None:
        """Another one has started. Its cache is empty."""
        ...

    def on_given_up(self) -> None:
        """There will be none any more. Every request is ended after this."""
        ...


class Supervisor:
    """One engine over all of its processes. Made by ``start``; ``aclose`` ends it."""

    info: EngineInfo
    """Of the first process. The others are made to be like it."""
    _figures: Figures
    _watchdog: Watchdog

    def __init__(self, config: EngineConfig, listener: Listener) -> None:
        self._config = config
        self._listener = listener
        self._client: EngineClient | None = None
        """The process that lives, if it has loaded the model."""
        self._requests = Registry()
        self._trials = Trials()
        self._quarantine = Quarantine()
        self._blame = Blame()
        self._policy = RestartPolicy()
        self._public = SetPublic([])
        """What each process is told before anything else."""
        self._sends: set[asyncio.Task[None]] = set()
        self._supervising: asyncio.Task[None] | None = None
        self._has_progressed = False
        """Whether the process that lives has delivered a token."""
        self._begun_s = 0.0
        self.given_up = asyncio.Event()
        """Set when no process will be started any more, though nobody asked for that."""
        self.num_restarts = 0
        self.num_resumed_requests = 0
        """Requests that were in a process when it died and were sent to another."""

    @classmethod
    async def start(cls, config: EngineConfig, listener: Listener) -> Self:
        """Start the first process. *Raises* as ``EngineClient.start``."""
        for directory in remove_stale():
            logger.info("removed what a server that was killed has left: %s", directory)
        supervisor = cls(config, listener)
        client, info = await supervisor._start_client()
        supervisor.info = info
        supervisor._figures = Figures(info)
        # What was found out once stays: another process must be able to go on with what this one
        # had begun, whatever has become of the machine's memory, or of a repository, since.
        supervisor._config = replace(
            config,
            model=info.model_dir,
            num_pages=info.num_pages,
            max_model_len=info.max_model_len,
        )
        supervisor._begin(client)
        supervisor._supervising = asyncio.create_task(supervisor._supervise(client))
        return supervisor

    # -- for callers --------------------------------------------------------------------------

    @property
    def is_up(self) -> bool:
        """Whether there is a process that has loaded the model."""
        return self._client is not None and self._client.is_alive

    @property
    def is_ready(self) -> bool:
        """Whether there is one that has said something lately."""
        return self.is_up and self._watchdog.quiet_s < READY_S

    @property
    def num_held(self) -> int:
        """Requests that are not in a process: it has to start, or others are on trial."""
        return self._trials.num_held

    @property
    def stats(self) -> EngineStats:
        """The newest figures. Who is held counts as waiting."""
        stats = self._figures.now
        return replace(stats, num_waiting=stats.num_waiting + self.num_held)

    def note_stats(self, stats: EngineStats) -> None:
        """Take in figures that came with an answer."""
        self._figures.update(stats)

    def submit(self, request: EngineRequest) -> None:
        """Let a request run as soon as it can.

        *Raises* ``EngineDeadError`` if the engine has been given up, ``InvalidRequestError`` if the
        request has ended it before.
        """
        if self.given_up.is_set():
            raise EngineDeadError(GIVEN_UP)
        self._quarantine.check(request)
        self._requests.add(request)
        self._let_in(self._trials.arrive(request.request_id))

    def set_public(self, message: SetPublic) -> None:
        """Tell it this process now, and every later one when it starts."""
        self._public = message
        self.post(message)

    def abort(self, request_id: RequestId, index: int | None = None) -> None:
        """End a request, or one of its choices. Ignored if it has ended; never raises."""
        live = self._requests.get(request_id)
        if live is None:
            return
        if self._trials.is_inside(request_id):
            self.post(Abort(request_id, index))
        for one in live.indices if index is None else (index,):
            live.end(one)
        self._after(live)

    async def send(self, message: ToEngine) -> None:
        """*Raises* ``EngineDeadError`` if there is no process just now."""
        if self.given_up.is_set():
            raise EngineDeadError(GIVEN_UP)
        if self._client is None or not self._client.is_alive:
            raise EngineDeadError("the engine is being restarted; ask again in a moment")
        await self._client.send(message)

    def post(self, message: ToEngine) -> None:
        """Send without waiting, in order. If there is no process, nothing is sent."""
        if self._client is not None and self._client.is_alive:
            task = asyncio.ensure_future(self._client.send(message))
            self._sends.add(task)
            task.add_done_callback(self._sent)

    async def aclose(self) -> None:
        """End the process, whatever it does. No request is told. Idempotent."""
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.gather(self._supervising, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    # -- lives and deaths ---------------------------------------------------------------------

    async def _supervise(self, first: EngineClient) -> None:
        client: EngineClient | None = first
        try:
            while client is not None:
                await self._bury(client, await self._watch(client))
                client = await self._restart()
                if client is not None:
                    self.num_restarts += 1
                    self._begin(client)
                    self._listener.on_up()
        except Exception:
            # A fault of ours. Without a supervisor nobody would ever be told of anything.
            logger.exception("the supervisor has failed")
        self._give_up()

    def _begin(self, client: EngineClient) -> None:
        self._client = client
        self._watchdog = Watchdog(self._config.engine_timeout_s)
        self._has_progressed = False
        self._begun_s = time.monotonic()
        if self._public.prefixes:
            self.post(self._public)
        self._let_in(self._trials.begin())

    async def _watch(self, client: EngineClient) -> Exit:
        """Wait for the end of a process, and bring it about if it hangs."""
        ended = asyncio.ensure_future(client.ended())
        try:
            while True:
                done, _ = await asyncio.wait((ended,), timeout=self._watchdog.interval_s)
                if done:
                    return ended.result()
                if self._watchdog.is_hung(has_work=self._trials.num_inside > 0):
                    logger.error(
                        "the engine has made no progress for %.0f s: killed",
                        self._config.engine_timeout_s,
                    )
                    client.kill("it made no progress")
                else:
                    self.post(Ping())
        finally:
            ended.cancel()

    async def _bury(self, client: EngineClient, exit_: Exit) -> None:
        """A process has ended: from here on nothing of it counts."""
        await client.aclose()
        self._client = None
        num_inside = self._trials.num_inside
        counts = self._blame.counts(exit_, has_progressed=self._has_progressed)
        self._policy.died(
            lived_s=time.monotonic() - self._begun_s,
            had_work=num_inside > 0,
            has_progressed=self._has_progressed,
        )
        logger.error(
            "the engine process has ended (exit status %d%s) with %d requests in it%s",
            exit_.status,
            "" if exit_.killed_because is None else f": {exit_.killed_because}",
            num_inside,
            "" if counts or not num_inside else "; a signal from outside, nobody is suspected",
        )
        self._figures.restart()
        self._listener.on_down()
        condemned = self._trials.die(counts=counts)
        if condemned is not None:
            self._condemn(condemned)

    async def _restart(self) -> EngineClient | None:
        """The next process, once there is one that starts; None if there is to be none."""
        limit_s = max(MIN_START_LIMIT_S, 10 * self.info.load_seconds)
        while (delay_s := self._policy.delay_s) is not None:
            if delay_s:
                logger.warning("the engine is started again in %.1f s", delay_s)
            await asyncio.sleep(delay_s)
            try:
                async with asyncio.timeout(limit_s):
                    client, _ = await self._start_client()
            except Exception as error:
                # Also what the system refuses: it may have memory and processes in a moment.
                logger.error("the engine did not start: %s: %s", type(error).__name__, error)
                self._policy.died(lived_s=0.0, had_work=False, has_progressed=False)
            else:
                return client
        return None

    async def _start_client(self) -> tuple[EngineClient, EngineInfo]:
        self._blame.begin()
        return await EngineClient.start(self._config, on_message=self._on_message)

    def _give_up(self) -> None:
        logger.critical("the engine does not come back: given up")
        self.given_up.set()
        self._listener.on_given_up()
        for request_id in self._requests:
            self._fail(request_id, GIVEN_UP)

    def _condemn(self, request_id: RequestId) -> None:
        live = self._requests.get(request_id)
        assert live is not None, "who is on trial has not ended"
        logger.error("request %s ends the engine when it runs alone: given up", request_id)
        self._quarantine.add(live.request)
        self._policy.found()
        self._fail(request_id, CONDEMNED)

    def _fail(self, request_id: RequestId, error: str) -> None:
        """End what has not ended of a request with an error."""
        live = self._requests.get(request_id)
        for index in () if live is None else live.indices:
            self._hear(_error(request_id, index, error))

    # -- messages -----------------------------------------------------------------------------

    def _on_message(self, message: Told) -> None:
        self._watchdog.heard(step=isinstance(message, Step))
        match message:
            case Step(deltas=deltas, stats=stats):
                self._figures.update(stats)
                self._listener.on_step(message)
                for delta in deltas:
                    self._hear(delta)
            case CacheEvents() | TreeChanged() | WatchFailed():
                self._listener.on_watched(message)
            case Answer():
                self._listener.on_answer(message)
            case Pong():
                pass

    def _hear(self, delta: TokenDelta) -> None:
        live = self._requests.get(delta.request_id)
        told = None if live is None else live.take(delta)
        if live is None or told is None:
            return
        self._has_progressed |= bool(delta.token_ids)
        self._after(live)
        try:
            self._listener.on_delta(told)
        except Exception:
            logger.exception("request %s is ended: its stream failed", delta.request_id)
            self._break_off(live, told.index)

    def _break_off(self, live: LiveRequest, index: int) -> None:
        """End a request whose stream could not take what the engine said of choice ``index``: its
        client would go on past a hole."""
        request_id, indices = live.request.request_id, {index, *live.indices}
        self.abort(request_id)
        for one in sorted(indices):
            # If it cannot take this either, there is nothing left to be told.
            with contextlib.suppress(Exception):
                self._listener.on_delta(_error(request_id, one, BROKEN_STREAM))

    def _after(self, live: LiveRequest) -> None:
        """A request has got on, or ended: others may be let in because of it."""
        request_id = live.request.request_id
        if live.is_finished:
            self._requests.pop(request_id)
            self._let_in(self._trials.leave(request_id))
        elif live.has_settled and not self._trials.has_settled(request_id):
            self._let_in(self._trials.settle(request_id))

    def _let_in(self, request_ids: list[RequestId]) -> None:
        """Send requests to the process."""
        for request_id in request_ids:
            live = self._requests.get(request_id)
            assert live is not None, "who waits is registered"
            self.num_resumed_requests += live.was_sent
            self.post(Submit(live.begin()))

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sends.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.debug("a message did not reach the engine: %s", task.exception())


def _error(request_id: RequestId, index: int, error: str) -> TokenDelta:
    """What ends a choice with an error."""
    return TokenDelta(
        request_id=request_id, index=index, token_ids=[], finish_reason="error", error=error
    )
