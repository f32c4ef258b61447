"""The client's end of one engine process: starts it, talks to it, notices when it dies.

One life of the engine is one ``EngineClient`` with a socket of its own: nothing that an engine said
can be taken for the words of the next. Messages only: they are handed to a callback as they come.
Who lives on after a death is ``supervisor.py``'s to know; requests, streams and text are
``async_engine.py``'s.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields

import msgspec
import zmq
import zmq.asyncio

from radixserve import errors
from radixserve.config import EngineConfig
from radixserve.engine.messages import (
    Answer,
    CacheEvents,
    Failed,
    FromEngine,
    Pong,
    Ready,
    Step,
    ToEngine,
    TreeChanged,
    WatchFailed,
    decode_from_engine,
    encode,
)
from radixserve.engine.socket_dir import SocketDirectory
from radixserve.errors import ConfigError, EngineDeadError, RadixServeError
from radixserve.threads import spin_briefly
from radixserve.types import EngineInfo

logger = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 10.0
"""How long the process may take to end by itself before it is killed: more than it may spend on
keeping pages on disk (``core.CLOSE_S``) and on its last messages."""

KILL_TIMEOUT_S = 5.0
"""How long a killed process is waited for. One that the system cannot end now, since a disk or a
device does not answer it, must not keep the server from ending."""

ENGINE_MODULE = "radixserve.engine.process"
"""What the process runs."""

Told = Step | CacheEvents | TreeChanged | WatchFailed | Answer | Pong
"""What an engine says once it is ready."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended."""

    status: int
    """Its exit status; minus the number of the signal that ended it, if one did."""
    killed_because: str | None
    """Why this side killed it, if it did."""


class EngineClient:
    """One engine process. Made by ``start``; ``aclose`` ends it.

    ``on_message`` is called, on the event loop, with each message that comes after the first.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        context: zmq.asyncio.Context,
        socket: zmq.asyncio.Socket,
        directory: SocketDirectory,
    ) -> None:
        self._process = process
        self._context = context
        self._socket = socket
        self._directory = directory
        self._receiving: asyncio.Task[None] | None = None
        self._killed_because: str | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def start(
        cls, config: EngineConfig, *, on_message: Callable[[Told], None]
    ) -> tuple["EngineClient", EngineInfo]:
        """Start the process and wait until it has loaded the model.

        *Raises* the engine's own ``ConfigError`` or ``ModelError`` if it cannot start, and
        ``EngineDeadError`` if it dies while starting.
        """
        directory = SocketDirectory()
        path = directory.socket_path
        if len(os.fsencode(path)) > zmq.IPC_PATH_MAX_LEN:
            directory.remove()
            raise ConfigError(
                f"the temporary directory's name is too long for a socket in it: {path!r} has more "
                f"than {zmq.IPC_PATH_MAX_LEN} bytes; set TMPDIR to a shorter one"
            )
        endpoint = f"ipc://{path}"
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.PAIR)
        try:
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.bind(endpoint)
            process = await _start_process(endpoint)
        except BaseException:
            socket.close()
            context.term()
            directory.remove()
            raise
        client = cls(process, context, socket, directory)
        try:
            assert process.stdin is not None
            process.stdin.write(_settings(config) + b"\n")
            # If it has ended already, waiting for its first words finds out.
            with contextlib.suppress(ConnectionError):
                await process.stdin.drain()
            info = await client._wait_until_ready()
        except BaseException:
            # Nothing is running in it yet: there is nothing to wait for.
            client.kill("it is not needed any more")
            await client.aclose()
            raise
        client._receiving = asyncio.create_task(client._receive(on_message))
        return client, info

    async def send(self, message: ToEngine) -> None:
        """Raises ``EngineDeadError`` if the process has ended."""
        if not self.is_alive:
            raise EngineDeadError(f"the engine process has ended (exit status {self.exit_status})")
        await self._socket.send(encode(message))

    @property
    def is_alive(self) -> bool:
        return self._closing is None and self._process.returncode is None

    @property
    def exit_status(self) -> int | None:
        return self._process.returncode

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ended(self) -> Exit:
        """Wait until the process has ended, for whatever reason."""
        return Exit(await self._process.wait(), self._killed_because)

    def kill(self, reason: str) -> None:
        """End the process at once. ``ended`` tells that it was us."""
        if self._process.returncode is None:
            self._killed_because = reason
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def aclose(self) -> None:
        """End the process: closing its standard input tells it to, a kill makes it. What it has
        said and was not handed on is dropped. Idempotent; whoever calls it again waits, too."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            if self._receiving is not None:
                self._receiving.cancel()
                await asyncio.gather(self._receiving, return_exceptions=True)
            if self._process.stdin is not None:
                self._process.stdin.close()
            await asyncio.wait_for(self._process.wait(), EXIT_TIMEOUT_S)
        except TimeoutError:
            logger.warning("the engine process did not end in %.0f s: killed", EXIT_TIMEOUT_S)
            self.kill("it did not end")
            try:
                await asyncio.wait_for(self._process.wait(), KILL_TIMEOUT_S)
            except TimeoutError:
                logger.error("the engine process %d cannot be ended: left behind", self.pid)
        finally:
            # Also if nobody has the time to wait: a process that hangs must not be left behind.
            self.kill("nobody waits for its end")
            self._socket.close()
            self._context.term()
            self._directory.remove()

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

    async def _receive(self, on_message: Callable[[Told], None]) -> None:
        """Hand on what comes. If that fails the process is ended: what it goes on to say would
        reach nobody, and whoever waits for it would wait forever."""
        while True:
            data = await self._socket.recv()
            try:
                message: FromEngine = decode_from_engine(data)
                assert isinstance(message, Told), f"unexpected {type(message).__name__}"
                on_message(message)
            except Exception:
                logger.exception("the engine's message was not understood; the engine is ended")
                self.kill("its message was not understood")
                return


def _settings(config: EngineConfig) -> bytes:
    """The engine's part of the settings; a front end's own stay here."""
    return msgspec.json.encode({f.name: getattr(config, f.name) for f in fields(EngineConfig)})


def _error_class(kind: str) -> type[RadixServeError]:
    found = getattr(errors, kind, EngineDeadError)
    return found if issubclass(found, RadixServeError) else EngineDeadError


async def _start_process(endpoint: str) -> asyncio.subprocess.Process:
    environ = os.environ | {"PYTHONUNBUFFERED": "1"}
    spin_briefly(environ)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        # No modules of the working directory: what lies there is no part of the engine.
        "-P",
        "-m",
        ENGINE_MODULE,
        endpoint,
        str(logger.getEffectiveLevel()),
        stdin=asyncio.subprocess.PIPE,
        env=environ,
        # A group of its own: what a terminal, or `kill`, sends to the client's whole group is the
        # client's to answer.
        process_group=0,
    )
