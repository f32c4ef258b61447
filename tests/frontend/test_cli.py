"""The command line from the outside, without an engine."""

import asyncio
import logging
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from radixserve.config import EngineConfig, QueueLimits
from radixserve.demo import DEMO_NOTE
from radixserve.errors import CheckpointError, ConfigError
from radixserve_frontend import server, terminal
from radixserve_frontend.banner import banner
from radixserve_frontend.cli import main
from radixserve_frontend.config import ChatConfig, ServerConfig
from radixserve_frontend.server import run_server, url_of
from tests.frontend.fake_engine import FakeEngine


@pytest.fixture(autouse=True)
def _logging_is_put_back() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in (None, "radixserve", "radixserve_frontend")]
    before = [(logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["serve", "--help"]])
def test_answers_at_once_without_heavy_imports(arguments: list[str]) -> None:
    # What takes time is importing; which modules were imported does not depend on the machine.
    heavy = ("torch", "transformers", "numpy", "starlette", "uvicorn", "pydantic", "httpx", "rich")
    code = (
        "import sys\n"
        "from radixserve_frontend.cli import main\n"
        "try:\n"
        f"    status = main({arguments!r})\n"
        "except SystemExit as error:\n"
        "    status = error.code\n"
        f"print([name for name in {heavy!r} if name in sys.modules], status)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[] 0"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    name, version = capsys.readouterr().out.split()
    assert name == "radixserve"
    assert version[0].isdigit()


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "radixserve serve" in capsys.readouterr().out


def test_serve_and_chat_get_their_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[object] = []

    def run(config: object) -> int:
        configs.append(config)
        return 0

    monkeypatch.setattr(server, "run_server", run)
    monkeypatch.setattr(terminal, "run_terminal", run)
    assert main(["serve", "x", "--port", "1"], {"RADIXSERVE_NUM_PAGES": "9"}) == 0
    assert main(["chat", "--url", "http://x"], {}) == 0
    assert configs == [
        ServerConfig(model="x", port=1, num_pages=9),
        ChatConfig(url="http://x"),
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConfigError("bad"), 2), (CheckpointError("bad"), 1), (KeyboardInterrupt(), 130)],
)
def test_failures_are_a_line_and_a_status(
    error: BaseException,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(config: object) -> int:
        raise error

    monkeypatch.setattr(server, "run_server", run)
    assert main(["serve"], {}) == status
    if status != 130:
        assert capsys.readouterr().err == "radixserve: error: bad\n"


def test_a_bad_variable_is_a_line_and_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"], {"RADIXSERVE_PORT": "x"}) == 2
    assert "RADIXSERVE_PORT" in capsys.readouterr().err


def test_a_port_in_use_is_known_before_anything_is_loaded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {port}"):
            run_server(ServerConfig(port=port))


def test_a_host_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="cannot listen on host"):
        run_server(ServerConfig(host="256.256.256.256"))


@pytest.mark.parametrize(
    ("host", "reachable"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("localhost", "localhost")],
)
def test_urls(host: str, reachable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert url_of(host, listener) == f"http://{reachable}:{listener.getsockname()[1]}"


async def test_banner_says_what_is_served_and_what_to_try() -> None:
    text = banner(FakeEngine().info, ServerConfig(model="it's"), "http://h:1", "mind you " * 15)
    assert "it's (FakeForCausalLM, 12.3M parameters)" in text
    assert "cpu, float32" in text
    assert "4,096 tokens" in text
    assert "1,024 pages of 16 = 16,384 tokens (1.00 GiB)" in text
    assert "curl -N http://h:1/v1/chat/completions" in text
    *_, first, second, _ = text.split("\n")
    assert first.startswith("  mind you")
    assert f"{first} {second.strip()}".split() == ["mind", "you"] * 15
    assert len(second) < len(first) <= 88
    curl = next(line for line in text.splitlines() if "curl" in line)
    shown = subprocess.run(
        ["bash", "-c", curl.replace("curl", "printf '%s\\n'")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # The shell gives the body back whole, quotes in the name included.
    assert '"model": "it\'s"' in shown.stdout


async def test_banner_tells_of_quantised_weights() -> None:
    info = FakeEngine().info
    config = ServerConfig(model="m")
    assert "cpu, float32, torch attention" in banner(info, config, "http://h:1", None)
    text = banner(replace(info, quantization="int8"), config, "http://h:1", None)
    assert "cpu, float32 with int8 weights, torch attention" in text


async def test_banner_tells_of_tiers() -> None:
    info = replace(FakeEngine().info, num_host_pages=2048, cache_dir="/kept/here")
    assert info.kv_cache_bytes == 2**30
    config = ServerConfig(model="m", host_cache_gib=2.0, cache_dir="/kept", cache_dir_gib=1.5)
    text = banner(info, config, "http://h:1", None)
    assert "host cache  2,048 pages = 32,768 tokens (2.00 GiB)" in text
    assert "kept in     /kept/here (at most 1.5 GiB)" in text
    staged = banner(info, replace(config, host_cache_gib=None), "http://h:1", None)
    assert "host cache" not in staged
    assert "kept in" in staged
    plain = banner(FakeEngine().info, ServerConfig(model="m"), "http://h:1", None)
    assert "kept in" not in plain


def test_logging_goes_to_our_own_loggers_only() -> None:
    # In a process of its own: logging is global.
    code = (
        "import logging\n"
        "from radixserve_frontend.logs import configure_logging\n"
        "configure_logging('debug')\n"
        "for name in ('radixserve.x', 'radixserve_frontend.x', 'uvicorn', 'httpx'):\n"
        "    print(logging.getLogger(name).isEnabledFor(logging.DEBUG))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True", "False", "False"]


def test_python_m(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["radixserve", "--version"])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_module("radixserve_frontend", run_name="__main__")
    assert exit_.value.code == 0
    assert capsys.readouterr().out.startswith("radixserve ")


async def test_banner_without_warning() -> None:
    info = replace(FakeEngine().info, num_parameters=12)
    text = banner(info, ServerConfig(model="m"), "http://h:1", None)
    assert "!!" not in text
    assert "12 parameters" in text


class FakeStart:
    """Stands for ``AsyncEngine``: starts a fake, or does something worse."""

    def __init__(self, on_start: Callable[[], None] | None = None) -> None:
        self._on_start = on_start
        self.engine: FakeEngine | None = None

    async def start(self, config: EngineConfig, limits: QueueLimits) -> FakeEngine:
        assert type(config) is EngineConfig
        assert limits == QueueLimits()
        if self._on_start is not None:
            self._on_start()
            await asyncio.Event().wait()
        self.engine = FakeEngine()
        return self.engine


@pytest.mark.parametrize(("name", "is_demo"), [("demo", True), ("other", False)])
def test_serving_from_banner_to_end(
    name: str, is_demo: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = FakeStart()
    monkeypatch.setattr(server, "AsyncEngine", start)
    notes = []

    def announced(info: object, config: ServerConfig, url: str, note: str | None) -> str:
        notes.append(note)
        # The socket listens when the banner comes.
        host, port = url.removeprefix("http://").split(":")
        socket.create_connection((host, int(port))).close()
        signal.raise_signal(signal.SIGTERM)
        return f"at {url}"

    monkeypatch.setattr(server, "banner", announced)
    assert main(["serve", name, "--port", "0"], {}) == 0
    assert "at http://127.0.0.1:" in capsys.readouterr().out
    assert [bool(note) for note in notes] == [is_demo]
    assert not is_demo or DEMO_NOTE in str(notes[0])
    assert start.engine is not None
    assert start.engine.is_closed


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_engine_starts(
    sent: signal.Signals, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "AsyncEngine", FakeStart(lambda: signal.raise_signal(sent)))
    assert main(["serve", "--port", "0"], {}) == status


async def test_serving_outside_the_main_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: object) -> None:
        raise RuntimeError("set_wakeup_fd only works in main thread")

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", cannot)
    monkeypatch.setattr(server, "AsyncEngine", FakeStart())

    def announced(*_: object) -> str:
        signal.raise_signal(signal.SIGINT)
        return ""

    monkeypatch.setattr(server, "banner", announced)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await server.serve(ServerConfig(), listener)
