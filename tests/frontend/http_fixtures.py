"""How tests reach an app: over a real socket, or by calling it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette

from radixserve.engine.interface import Engine
from radixserve_frontend.app import create_app
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.key_store import open_key_store
from radixserve_frontend.server import DrainingServer, uvicorn_config
from radixserve_frontend.trace_recorder import TraceRecorder

MODEL = "fake"
TIMEOUT_S = 20.0
"""Nothing here takes as long; a test that hangs fails instead."""


def config_of(**changes: object) -> ServerConfig:
    """A server's config for the fake model."""
    return ServerConfig(**{"model": MODEL, "port": 0, **changes})  # type: ignore[arg-type]


@asynccontextmanager
async def calling(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the app without a socket. It sees a stream only as a whole."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", timeout=TIMEOUT_S
    ) as client:
        yield client


class RunningServer:
    """A server in the test's own loop, on a port of its own."""

    def __init__(self, server: DrainingServer, url: str, running: asyncio.Task[None]) -> None:
        self.server = server
        self.url = url
        self._running = running

    async def stopped(self) -> None:
        """Wait until it has come to its end by itself."""
        await asyncio.shield(self._running)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S)


@asynccontextmanager
async def serving(
    engine: Engine, config: ServerConfig | None = None, recorder: TraceRecorder | None = None
) -> AsyncIterator[RunningServer]:
    """Serve ``engine`` on a free port until the block is left."""
    config = config or config_of()
    app = create_app(engine, config, recorder, keys=open_key_store(config))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    has_started = asyncio.Event()
    server = DrainingServer(
        uvicorn_config(app, config),
        app.state.lifecycle,
        shutdown_timeout_s=config.shutdown_timeout_s,
        on_started=has_started.set,
    )
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await has_started.wait()
        yield RunningServer(server, f"http://127.0.0.1:{listener.getsockname()[1]}", running)
    finally:
        server.should_exit = True
        server.force_exit = True
        await running
        listener.close()
