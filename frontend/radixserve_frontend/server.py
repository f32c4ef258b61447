"""Running the server: bind, start the engine, serve, drain, stop.

    bind ─▶ start engine ─▶ listen ─▶ SIGTERM or Ctrl-C ─▶ drain (new: 503) ─▶ close engine ─▶ end
                                             └─ a second one ─▶ end at once

The port is bound before the model is loaded, so that a port in use is known at once, and listened
on afterwards, so that nobody waits for an answer before there can be one.
"""

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final, cast

import uvicorn
from starlette.types import ASGIApp

from radixserve.config import DEMO_MODEL
from radixserve.demo import DEMO_NOTE
from radixserve.engine.async_engine import AsyncEngine
from radixserve.errors import ConfigError
from radixserve.text.template_lint import Finding, cost_every_conversation, describe, lint
from radixserve.text.tokenizer import Tokenizer
from radixserve_frontend.app import create_app
from radixserve_frontend.banner import banner
from radixserve_frontend.config import ServerConfig, engine_config
from radixserve_frontend.connection import ConnectionLimits, GuardedProtocol
from radixserve_frontend.key_store import KeyStore, open_key_store
from radixserve_frontend.lifecycle import Lifecycle
from radixserve_frontend.public_prompts import read_prompts, share_prompts
from radixserve_frontend.trace_recorder import TraceRecorder
from radixserve_frontend.tracing import RequestTracer, open_tracer

logger = logging.getLogger(__name__)

# Once the engine is closed every response ends by itself; this bounds clients that do not read.
_CONNECTIONS_CLOSE_S: Final = 5
_ENGINE_CLOSE_S: Final = 5.0
_OTHERS: Final = "Another model: radixserve serve <directory or Hugging Face id>"
# Longer than the idle time after which clients' connection pools give up theirs, so that no client
# sends on a connection which we are just closing.
_KEEP_ALIVE_S: Final = 75
# Besides connections: sockets to the engine, logs, the trace.
_OTHER_FILES: Final = 256


class DrainingServer(uvicorn.Server):
    """A uvicorn server that goes on answering, with 503 where need be, while it drains.

    uvicorn itself would close its listener first; sse-starlette would cut every stream as soon as
    it sees ``should_exit``. Both are told only when the drain is over.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        *,
        shutdown_timeout_s: float,
        on_started: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._lifecycle = lifecycle
        self._shutdown_timeout_s = shutdown_timeout_s
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then tell."""
        await super().startup(sockets=sockets)
        self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # uvicorn's
        """A signal arrived. Runs between any two bytecodes: only schedules."""
        self._loop.call_soon_threadsafe(self.request_stop, signal.Signals(sig).name)

    def request_stop(self, reason: str) -> None:
        """Begin to drain; asked a second time, stop at once."""
        if self._draining is None:
            logger.info("%s: shutting down (Ctrl-C again: at once)", reason)
            self._draining = self._loop.create_task(self._drain())
        else:
            logger.warning("%s again: stopping at once", reason)
            self._draining.cancel()
            self.force_exit = True
            self.should_exit = True

    async def _drain(self) -> None:
        try:
            await self._lifecycle.drain(self._shutdown_timeout_s)
        finally:
            self.should_exit = True


def run_server(config: ServerConfig) -> int:
    """Serve until a signal says stop; return the exit status.

    *Raises* ``ConfigError``, ``ModelError`` or ``EngineDeadError`` if it cannot start,
    ``KeyboardInterrupt`` on Ctrl-C while it starts.
    """
    _raise_file_limit(config.max_connections + _OTHER_FILES)
    keys = open_key_store(config)
    with (
        _bind(config.host, config.port) as listener,
        _recording(config) as recorder,
        _tracing(config) as tracer,
    ):
        try:
            return asyncio.run(serve(config, listener, recorder, keys=keys, tracer=tracer))
        except asyncio.CancelledError:
            logger.info("SIGTERM: stopped while starting")
            return 128 + signal.SIGTERM


async def serve(
    config: ServerConfig,
    listener: socket.socket,
    recorder: TraceRecorder | None = None,
    *,
    keys: KeyStore | None = None,
    tracer: RequestTracer | None = None,
) -> int:
    """Start the engine and serve on ``listener``, a bound socket, until a signal says stop, or the
    engine is given up: then nothing can be served any more. Returns the exit status."""
    prompts = [] if config.public_prompts is None else read_prompts(config.public_prompts)
    with _cancelled_by_sigterm():
        engine = await AsyncEngine.start(engine_config(config), config.queue_limits)
    try:
        if prompts:
            share_prompts(engine, prompts)
        app = create_app(
            engine,
            config,
            recorder,
            keys=keys,
            tracer=tracer,
            findings=lint_template(engine.tokenizer),
        )
        url = url_of(config.host, listener)
        note = f"{DEMO_NOTE} {_OTHERS}" if config.model == DEMO_MODEL else None
        server = DrainingServer(
            uvicorn_config(app, config),
            app.state.lifecycle,
            shutdown_timeout_s=config.shutdown_timeout_s,
            on_started=lambda: print(banner(engine.info, config, url, note), flush=True),
        )
        # What was loaded stays: the collector, which stops every stream while it looks, need not
        # look through it again.
        gc.collect()
        gc.freeze()
        with _reloaded_by_sighup(keys):
            stopping = asyncio.create_task(_stop_if_given_up(engine, server))
            await server.serve(sockets=[listener])
            stopping.cancel()
    finally:
        # Normally long closed by the drain; not after a second Ctrl-C, or an error in uvicorn.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENGINE_CLOSE_S):
                await engine.aclose()
        logger.info("stopped")
    return 1 if engine.health.has_given_up else 0


def lint_template(tokenizer: Tokenizer) -> tuple[Finding, ...]:
    """What the chat template does to the cache: said once, in the log, and returned. A warning,
    unless few conversations feel it."""
    findings = lint(tokenizer)
    if findings:
        is_grave = cost_every_conversation(findings)
        logger.log(logging.WARNING if is_grave else logging.INFO, "%s", describe(findings))
    return findings


async def _stop_if_given_up(engine: AsyncEngine, server: DrainingServer) -> None:
    """Whoever runs us had better start us anew than keep a server that cannot serve."""
    await engine.given_up()
    server.request_stop("the engine does not come back")


def uvicorn_config(app: ASGIApp, config: ServerConfig) -> uvicorn.Config:
    """How uvicorn serves our app: silently, and with the limits of ``connection.py``."""
    return uvicorn.Config(
        app,
        # A callable that makes protocols is all that it needs to be.
        http=cast(Any, functools.partial(GuardedProtocol, ConnectionLimits.of(config))),
        h11_max_incomplete_event_size=config.max_header_bytes,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_CONNECTIONS_CLOSE_S,
    )


def url_of(host: str, listener: socket.socket) -> str:
    """Where a client on this machine reaches the server."""
    port = listener.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host, host)
    if ":" in reachable and not reachable.startswith("["):
        reachable = f"[{reachable}]"
    return f"http://{reachable}:{port}"


def _bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. *Raises* ``ConfigError`` for a taken address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on host {host!r}: {error}") from error
    try:
        # A restarted server must not wait for the kernel to forget the old one's connections.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another with --port, or 0 for any free one"
        ) from error
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def _reloaded_by_sighup(keys: KeyStore | None) -> Iterator[None]:
    """Let SIGHUP read the keys' file again, where there is one."""
    loop = asyncio.get_running_loop()
    try:
        if keys is not None:
            loop.add_signal_handler(signal.SIGHUP, keys.reload)
    except (NotImplementedError, RuntimeError, AttributeError):
        # Not on this platform, or not in the main thread: the file's times tell as well.
        keys = None
    try:
        yield
    finally:
        if keys is not None:
            loop.remove_signal_handler(signal.SIGHUP)


def _raise_file_limit(num_files: int) -> None:
    """Let this process open so many files, as far as the system lets it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415  # Unix only

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < num_files:
            wanted = num_files if hard == resource.RLIM_INFINITY else min(num_files, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _tracing(config: ServerConfig) -> Iterator[RequestTracer | None]:
    """The tracer that ``config`` asks for, while the server runs. *Raises* ``ConfigError``."""
    tracer = open_tracer(config)
    try:
        yield tracer
    finally:
        if tracer is not None:
            tracer.close()


@contextlib.contextmanager
def _recording(config: ServerConfig) -> Iterator[TraceRecorder | None]:
    """The recorder that ``config`` asks for, while the server runs. *Raises* ``ConfigError``."""
    if config.record_trace is None:
        yield None
        return
    recorder = TraceRecorder(Path(config.record_trace))
    try:
        yield recorder
    finally:
        recorder.close()


@contextlib.contextmanager
def _cancelled_by_sigterm() -> Iterator[None]:
    """Let SIGTERM cancel the current task, so that a start which it interrupts cleans up."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    try:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    except (NotImplementedError, RuntimeError):
        # Not on this platform, or not in the main thread: SIGTERM keeps its default there.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
