"""Questions that wait for the engine process's answer: numbered, and never left waiting.

    ask() ── Ask(7, question) ──▶ engine, between two steps ── Answer(7, reply) ──▶ feed()
                                         gone ──────────────────────────────────▶ fail()

No timeouts: the engine answers between two steps, or it is gone, and then ``fail`` is called. What
was asked of an engine that has died is not asked of the next one: a question may be what it died
of.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from radixserve.engine.messages import Answer, Ask, NotAnswered, Question, Reply
from radixserve.errors import EngineDeadError, RadixServeError


class OpenQuestions:
    """Who waits for what. ``send`` takes a message to the engine; it may raise."""

    def __init__(self, send: Callable[[Ask], Awaitable[None]]) -> None:
        self._send = send
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}

    async def ask(self, question: Question) -> Reply:
        """The engine's reply. *Raises* ``EngineDeadError`` if there will be none, and
        ``RadixServeError`` if the engine could not answer."""
        number = next(self._numbers)
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            await self._send(Ask(number, question))
            return await waiting
        finally:
            # Also if the caller was cancelled: the answer then finds nobody.
            self._waiting.pop(number, None)
            if waiting.done() and not waiting.cancelled():
                # Sending may have raised after ``fail``: then this is the one that nobody awaits.
                waiting.exception()

    def feed(self, answer: Answer) -> None:
        """An answer has come."""
        waiting = self._waiting.get(answer.number)
        if waiting is None or waiting.done():
            return
        if isinstance(answer.reply, NotAnswered):
            waiting.set_exception(
                RadixServeError(f"the engine could not answer: {answer.reply.error}")
            )
        else:
            waiting.set_result(answer.reply)

    def fail(self, error: str) -> None:
        """No answer will come any more: tell all who wait."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(EngineDeadError(error))
