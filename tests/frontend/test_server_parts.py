"""What the server sets up around itself: signals, limits of the system, traces."""

import asyncio
import os
import resource
import signal
from pathlib import Path

import pytest

from radixserve_frontend import server
from radixserve_frontend.key_store import KeyStore
from radixserve_frontend.tracing import RequestTracer
from tests.frontend.http_fixtures import TIMEOUT_S, config_of

OLD, NEW = "0123456789-old-key", "0123456789-new-key"


def keys_in(path: Path, key: str) -> None:
    path.write_text(f'[tenants.acme]\nkeys = ["{key}"]')
    path.chmod(0o600)


@pytest.fixture
def keys(tmp_path: Path) -> KeyStore:
    path = tmp_path / "keys.toml"
    keys_in(path, OLD)
    # A clock that stands still: the file is not looked at unless somebody says so.
    return KeyStore(path, None, clock=lambda: 0.0)


async def test_sighup_reads_the_keys_again(keys: KeyStore, tmp_path: Path) -> None:
    with server._reloaded_by_sighup(keys):
        keys_in(tmp_path / "keys.toml", NEW)
        assert keys.caller_of(NEW.encode()) is None
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(TIMEOUT_S):
            while keys.caller_of(NEW.encode()) is None:
                await asyncio.sleep(0)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


async def test_where_signals_cannot_be_handled_it_serves_all_the_same(
    keys: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", cannot)
    with server._reloaded_by_sighup(keys):
        assert keys.caller_of(OLD.encode()) is not None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1024, 4096), (1256, 4096)),
        ((1024, 1100), (1100, 1100)),
        ((1024, resource.RLIM_INFINITY), (1256, resource.RLIM_INFINITY)),
        ((2000, 4096), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_as_many_files_as_connections_need(
    limits: tuple[int, int], expected: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: given.append(wanted))
    server._raise_file_limit(1256)
    assert given == ([] if expected is None else [expected])


def test_a_tracer_lives_as_long_as_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with server._tracing(config_of()) as none:
        assert none is None
    with server._tracing(config_of(otel=True)) as tracer:
        assert tracer is not None
        closed: list[RequestTracer] = []
        close = tracer.close

        def noting() -> None:
            closed.append(tracer)
            close()

        monkeypatch.setattr(tracer, "close", noting)
    assert closed == [tracer]
