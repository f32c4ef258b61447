"""A stand-in for ``EngineClient``: the same messages, as bytes, to a core in this very process.

One step per turn of the event loop, so a test decides what happens between two steps, and
afterwards it can ask the core itself whether anything has leaked.
"""

import asyncio
import signal
from collections import deque
from collections.abc import Callable
from typing import Self

import pytest

from radixserve.config import EngineConfig
from radixserve.engine import supervisor
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.build import build_core
from radixserve.engine.client import Exit, Told
from radixserve.engine.core import EngineCore
from radixserve.engine.messages import (
    Abort,
    Answer,
    Ask,
    CacheEvents,
    FromEngine,
    Ping,
    Pong,
    PrefillAhead,
    SetPublic,
    Step,
    Submit,
    ToEngine,
    TreeChanged,
    WatchCache,
    WatchTree,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from radixserve.engine.questions import reply_to
from radixserve.errors import EngineDeadError
from radixserve.types import CacheEvent, EngineInfo, TokenDelta


class InProcessClient:
    """Has what ``Supervisor`` uses of ``EngineClient``."""

    def __init__(self, core: EngineCore, on_message: Callable[[Told], None]) -> None:
        self.core = core
        self.is_alive = True
        self._on_message = on_message
        self._inbox: deque[bytes] = deque()
        self._called = asyncio.Event()
        self._ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._serve())

    @classmethod
    async def start(
        cls, config: EngineConfig, *, on_message: Callable[[Told], None]
    ) -> tuple[Self, EngineInfo]:
        core = build_core(config, progress=False)
        return cls(core, on_message), core.info

    async def send(self, message: ToEngine) -> None:
        # Where a caller can be cancelled: before the message has left, or just after.
        await asyncio.sleep(0)
        if not self.is_alive:
            raise EngineDeadError("the stand-in has ended")
        self._inbox.append(encode(message))
        self._called.set()
        await asyncio.sleep(0)

    async def ended(self) -> Exit:
        return await asyncio.shield(self._ended)

    def kill(self, reason: str) -> None:
        self._end(Exit(-signal.SIGKILL, reason))

    async def aclose(self) -> None:
        self._end(Exit(0, None))
        await asyncio.gather(self._task, return_exceptions=True)
        self.core.close()

    def die(self, status: int = -signal.SIGKILL) -> None:
        """As if the process had been killed."""
        self._end(Exit(status, None))

    def _end(self, exit_: Exit) -> None:
        self.is_alive = False
        self._task.cancel()
        if not self._ended.done():
            self._ended.set_result(exit_)

    async def _serve(self) -> None:
        while True:
            await asyncio.sleep(0)
            feed = self.core.tree_feed
            is_idle = not self.core.has_work and not self.core.can_step
            if not self._inbox and is_idle and not feed.has_news:
                self._called.clear()
                await self._called.wait()
            deltas: list[TokenDelta] = []
            while self._inbox:
                deltas += self._take_in(decode_to_engine(self._inbox.popleft()))
            had_work = self.core.has_work or self.core.can_step
            deltas += self.core.step()
            if had_work or deltas:
                self._tell(Step(deltas, self.core.stats(), self.core.admitted))
            self._tell_events(self.core.take_cache_events())
            news = feed.take(is_busy=self.core.can_step)
            if news is not None:
                self._tell(TreeChanged(feed.picture, news))

    def _take_in(self, message: ToEngine) -> list[TokenDelta]:
        deltas: list[TokenDelta] = []
        match message:
            case Submit(request):
                self.core.add(request)
            case Abort(request_id, index):
                deltas += self.core.abort(request_id, index)
            case WatchCache(snapshot=None):
                self.core.unwatch_cache()
            case WatchCache(number):
                self._tell_events(self.core.take_cache_events())
                self._tell_events(self.core.watch_cache(), number)
            case WatchTree(None):
                self.core.tree_feed.unwatch()
            case WatchTree(int(picture)):
                self.core.tree_feed.watch(picture)
            case SetPublic(prefixes):
                self.core.set_public_prefixes(prefixes)
            case PrefillAhead(prompt_ids, namespace, tenant):
                self.core.prefill_ahead(prompt_ids, namespace, tenant)
            case Ask(number, question):
                self._tell(Answer(number, reply_to(self.core, question)))
            case Ping():
                self._tell(Pong())
        return deltas

    def _tell_events(self, events: list[CacheEvent], snapshot: int | None = None) -> None:
        if events:
            self._tell(CacheEvents(events, snapshot))

    def _tell(self, message: FromEngine) -> None:
        decoded = decode_from_engine(encode(message))
        assert isinstance(decoded, Told), decoded
        self._on_message(decoded)


def use_in_process_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every supervisor start stand-ins."""
    monkeypatch.setattr(supervisor, "EngineClient", InProcessClient)


def client_of(engine: AsyncEngine) -> InProcessClient:
    """The stand-in that lives."""
    client: object = engine._supervisor._client
    assert isinstance(client, InProcessClient)
    return client


def is_sending(engine: AsyncEngine) -> bool:
    """Whether a message is on its way to the stand-in."""
    return bool(engine._supervisor._sends)
