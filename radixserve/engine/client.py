"""The client's end of the engine process: starts it, talks to it, notices when it dies.

Messages only: deltas are handed to a callback as they come. Requests, streams and text are
``async_engine.py``'s. The socket lives in a directory that only this user can enter.
"""

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields

import msgspec
import zmq
import zmq.asyncio

from radixserve import errors
from radixserve.config import EngineConfig
from radixserve.engine.messages import (
    Answer,
    CacheEvents,
    Failed,
    Ready,
    Step,
    ToEngine,
    decode_from_engine,
    encode,
)
from radixserve.errors import ConfigError, EngineDeadError, RadixServeError
from radixserve.threads import spin_briefly
from radixserve.types import EngineInfo

logger = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 5.0
"""How long the process may take to end by itself before it is killed."""


class EngineClient:
    """One engine process. Made by ``start``; ``aclose`` ends it.

    ``on_step`` is called, on the event loop, with each ``Step``, ``on_cache_events`` with each
    ``CacheEvents``, ``on_answer`` with each ``Answer``; ``on_exit`` once, when
    the process has ended for whatever reason.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        context: zmq.asyncio.Context,
        socket: zmq.asyncio.Socket,
        directory: tempfile.TemporaryDirectory[str],
    ) -> None:
        self._process = process
        self._context = context
        self._socket = socket
        self._directory = directory
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        *,
        on_step: Callable[[Step], None],
        on_cache_events: Callable[[CacheEvents], None],
        on_answer: Callable[[Answer], None],
        on_exit: Callable[[], None],
    ) -> tuple["EngineClient", EngineInfo]:
        """Start the process and wait until it has loaded the model.

        *Raises* the engine's own ``ConfigError`` or ``ModelError`` if it cannot start, and
        ``EngineDeadError`` if it dies while starting.
        """
        directory = tempfile.TemporaryDirectory(prefix="radixserve-")
        path = os.path.join(directory.name, "engine")
        if len(os.fsencode(path)) > zmq.IPC_PATH_MAX_LEN:
            directory.cleanup()
            raise ConfigError(
                f"the temporary directory's name is too long for a socket in it: {path!r} has more "
                f"than {zmq.IPC_PATH_MAX_LEN} bytes; set TMPDIR to a shorter one"
            )
        endpoint = f"ipc://{path}"
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.PAIR)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.bind(endpoint)
        environ = os.environ | {"PYTHONUNBUFFERED": "1"}
        spin_briefly(environ)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            # No modules of the working directory: what lies there is no part of the engine.
            "-P",
            "-m",
            "radixserve.engine.process",
            endpoint,
            str(logger.getEffectiveLevel()),
            stdin=asyncio.subprocess.PIPE,
            env=environ,
            # A group of its own: what a terminal, or `kill`, sends to the client's whole group is
            # the client's to answer.
            process_group=0,
        )
        client = cls(process, context, socket, directory)
        try:
            assert process.stdin is not None
            process.stdin.write(_settings(config) + b"\n")
            # If it has ended already, waiting for its first words finds out.
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            info = await client._wait_until_ready()
        except BaseException:
            await client.aclose()
            raise
        client._tasks = [
            asyncio.create_task(client._receive(on_step, on_cache_events, on_answer)),
            asyncio.create_task(client._watch(on_exit)),
        ]
        return client, info

    async def send(self, message: ToEngine) -> None:
        """Raises ``EngineDeadError`` if the process has ended."""
        if not self.is_alive:
            raise EngineDeadError(f"the engine process has ended (exit status {self.exit_status})")
        await self._socket.send(encode(message))

    @property
    def is_alive(self) -> bool:
        return not self._closed and self._process.returncode is None

    @property
    def exit_status(self) -> int | None:
        return self._process.returncode

    @property
    def pid(self) -> int:
        return self._process.pid

    async def aclose(self) -> None:
        """End the process: closing its standard input tells it to, a kill makes it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), EXIT_TIMEOUT_S)
        except TimeoutError:
            logger.warning("the engine process did not end in %.0f s: killed", EXIT_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._socket.close()
        self._context.term()
        self._directory.cleanup()

    async def _wait_until_ready(self) -> EngineInfo:
        received = asyncio.ensure_future(self._socket.recv())
        exited = asyncio.ensure_future(self._process.wait())
        await asyncio.wait((received, exited), return_when=asyncio.FIRST_COMPLETED)
        if not received.done():
            # Its last words may still be on their way.
            await asyncio.wait((received,), timeout=1.0)
        exited.cancel()
        if not received.done():
            received.cancel()
            raise EngineDeadError(
                f"the engine process ended while starting (exit status {self.exit_status}); "
                "its last lines above say why"
            )
        match decode_from_engine(received.result()):
            case Ready(info):
                return info
            case Failed(kind, message):
                raise _error_class(kind)(message)
            case other:
                raise EngineDeadError(f"the engine process began with {type(other).__name__}")

    async def _receive(
        self,
        on_step: Callable[[Step], None],
        on_cache_events: Callable[[CacheEvents], None],
        on_answer: Callable[[Answer], None],
    ) -> None:
        """Hand on what comes. If that fails the process is ended: what it goes on to say would
        reach nobody, and whoever waits for it would wait forever."""
        while True:
            data = await self._socket.recv()
            try:
                message = decode_from_engine(data)
                match message:
                    case Step():
                        on_step(message)
                    case CacheEvents():
                        on_cache_events(message)
                    case Answer():
                        on_answer(message)
                    case _:
                        raise AssertionError(f"unexpected {type(message).__name__}")
            except Exception:
                logger.exception("the engine's message was not understood; the engine is ended")
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                return

    async def _watch(self, on_exit: Callable[[], None]) -> None:
        status = await self._process.wait()
        logger.error("the engine process has ended with exit status %d", status)
        on_exit()


def _settings(config: EngineConfig) -> bytes:
    """The engine's part of the settings; a front end's own stay here."""
    return msgspec.json.encode({f.name: getattr(config, f.name) for f in fields(EngineConfig)})


def _error_class(kind: str) -> type[RadixServeError]:
    found = getattr(errors, kind, EngineDeadError)
    return found if issubclass(found, RadixServeError) else EngineDeadError
