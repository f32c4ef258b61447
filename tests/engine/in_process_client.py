"""A stand-in for ``EngineClient``: the same messages, as bytes, to a core in this very process.

One step per turn of the event loop, so a test decides what happens between two steps, and
afterwards it can ask the core itself whether anything has leaked.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self

from radixserve.config import EngineConfig
from radixserve.engine.build import build_core
from radixserve.engine.core import EngineCore
from radixserve.engine.messages import (
    Abort,
    Answer,
    Ask,
    CacheEvents,
    Step,
    Submit,
    ToEngine,
    WatchCache,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from radixserve.engine.questions import reply_to
from radixserve.errors import EngineDeadError
from radixserve.types import CacheEvent, EngineInfo, TokenDelta


class InProcessClient:
    """Has what ``AsyncEngine`` uses of ``EngineClient``."""

    def __init__(
        self,
        core: EngineCore,
        on_step: Callable[[Step], None],
        on_cache_events: Callable[[CacheEvents], None],
        on_answer: Callable[[Answer], None],
        on_exit: Callable[[], None],
    ) -> None:
        self.core = core
        self.is_alive = True
        self._on_step = on_step
        self._on_cache_events = on_cache_events
        self._on_answer = on_answer
        self._on_exit = on_exit
        self._inbox: deque[bytes] = deque()
        self._called = asyncio.Event()
        self._task = asyncio.create_task(self._serve())

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        *,
        on_step: Callable[[Step], None],
        on_cache_events: Callable[[CacheEvents], None],
        on_answer: Callable[[Answer], None],
        on_exit: Callable[[], None],
    ) -> tuple[Self, EngineInfo]:
        core = build_core(config, progress=False)
        return cls(core, on_step, on_cache_events, on_answer, on_exit), core.info

    async def send(self, message: ToEngine) -> None:
        # Where a caller can be cancelled: before the message has left, or just after.
        await asyncio.sleep(0)
        if not self.is_alive:
            raise EngineDeadError("the stand-in has ended")
        self._inbox.append(encode(message))
        self._called.set()
        await asyncio.sleep(0)

    async def aclose(self) -> None:
        self.is_alive = False
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def die(self) -> None:
        """As if the process had been killed."""
        await self.aclose()
        self._on_exit()

    async def _serve(self) -> None:
        while True:
            await asyncio.sleep(0)
            if not self._inbox and not self.core.has_work:
                self._called.clear()
                await self._called.wait()
            deltas: list[TokenDelta] = []
            while self._inbox:
                match decode_to_engine(self._inbox.popleft()):
                    case Submit(request):
                        self.core.add(request)
                    case Abort(request_id, index):
                        deltas += self.core.abort(request_id, index)
                    case WatchCache(snapshot=None):
                        self.core.unwatch_cache()
                    case WatchCache(number):
                        self._tell(self.core.take_cache_events())
                        self._tell(self.core.watch_cache(), number)
                    case Ask(number, question):
                        answer = Answer(number, reply_to(self.core, question))
                        decoded = decode_from_engine(encode(answer))
                        assert isinstance(decoded, Answer)
                        self._on_answer(decoded)
            deltas += self.core.step()
            if deltas:
                step = decode_from_engine(encode(Step(deltas, self.core.stats())))
                assert isinstance(step, Step)
                self._on_step(step)
            self._tell(self.core.take_cache_events())

    def _tell(self, events: list[CacheEvent], snapshot: int | None = None) -> None:
        if events:
            message = decode_from_engine(encode(CacheEvents(events, snapshot)))
            assert isinstance(message, CacheEvents)
            self._on_cache_events(message)
