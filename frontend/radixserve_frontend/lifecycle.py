"""Whether the server takes requests, and how it stops.

    serving ──drain()──▶ draining (new requests: 503) ──answers ended, or time is up──▶ closed

One object per app. Knows no HTTP and no signals; ``server.py`` calls ``drain`` on SIGTERM.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from radixserve.engine.interface import Engine
from radixserve.errors import EngineDeadError, ShuttingDownError

logger = logging.getLogger(__name__)


class Lifecycle:
    """Counts the answers in flight and knows whether new ones may begin."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._num_in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_draining = False
        self._receiving: set[anyio.CancelScope] = set()

    @property
    def is_alive(self) -> bool:
        """Whether there is an engine, or would be one again if it died."""
        return not self._engine.health.has_given_up

    @property
    def status(self) -> str:
        """In a word or two, what happens to a request that is sent now: "ready" if it is served
        at once."""
        if self._is_draining:
            return "draining"
        if not self._engine.is_alive:
            return "engine dead"
        health = self._engine.health
        if not health.is_up:
            return "engine restarting"
        return "ready" if health.is_ready else "engine silent"

    def check_accepting(self) -> None:
        """*Raises* ``ShuttingDownError`` or ``EngineDeadError`` unless a request may begin."""
        if self._is_draining:
            raise ShuttingDownError("the server is shutting down and takes no more requests")
        if not self._engine.is_alive:
            raise EngineDeadError("the engine has died and does not come back")

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """End the body of this ``with``, which reads a request, when a drain begins: a client that
        sends slowly, or never ends, must not hold a shutdown up.

        *Raises* ``ShuttingDownError`` then; and what ``check_accepting`` raises.
        """
        self.check_accepting()
        with anyio.CancelScope() as scope:
            self._receiving.add(scope)
            try:
                yield
            finally:
                self._receiving.remove(scope)
        if scope.cancelled_caught:
            self.check_accepting()

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Make ``drain`` wait for the body of this ``with``."""
        self._num_in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._num_in_flight -= 1
            if self._num_in_flight == 0:
                self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Refuse what is new, wait for what runs, then close the engine, which aborts the rest."""
        self._is_draining = True
        for scope in self._receiving:
            scope.cancel()
        logger.info(
            "draining: %d answers in flight, at most %.1f s", self._num_in_flight, timeout_s
        )
        try:
            async with asyncio.timeout(timeout_s):
                # The engine's side first: it must refuse requests that HTTP let in just before.
                await self._engine.drain(timeout_s)
                # Its last tokens may still be on their way to the clients.
                await self._idle.wait()
        except TimeoutError:
            logger.warning("aborting %d answers: the time is up", self._num_in_flight)
        finally:
            await self._engine.aclose()
