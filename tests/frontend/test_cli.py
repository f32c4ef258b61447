"""The command line from the outside, without an engine."""

import logging
import socket
import subprocess
import sys

import pytest
from radixserve_frontend import server, terminal
from radixserve_frontend.banner import banner
from radixserve_frontend.cli import main
from radixserve_frontend.config import ChatConfig, ServerConfig
from radixserve_frontend.server import run_server, url_of

from radixserve.errors import CheckpointError, ConfigError
from tests.frontend.fake_engine import FakeEngine


@pytest.fixture(autouse=True)
def _logging_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radixserve_frontend.cli.configure_logging", lambda level: None)


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
    text = banner(FakeEngine().info, ServerConfig(model="it's"), "http://h:1", "beware " * 20)
    assert "it's (FakeForCausalLM, 12.3M parameters)" in text
    assert "cpu, float32" in text
    assert "4,096 tokens" in text
    assert "1,024 pages of 16 = 16,384 tokens (1.00 GiB)" in text
    assert "curl -N http://h:1/v1/chat/completions" in text
    assert "!!  beware beware" in text
    curl = next(line for line in text.splitlines() if "curl" in line)
    shown = subprocess.run(
        ["bash", "-c", curl.replace("curl", "printf '%s\\n'")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # The shell gives the body back whole, quotes in the name included.
    assert '"model": "it\'s"' in shown.stdout


def test_logging_goes_to_our_own_loggers_only() -> None:
    # In a process of its own: logging is global.
    code = (
        "import logging\n"
        "from radixserve_frontend.cli import configure_logging\n"
        "configure_logging('debug')\n"
        "for name in ('radixserve.x', 'radixserve_frontend.x', 'sse_starlette', 'httpx'):\n"
        "    print(logging.getLogger(name).isEnabledFor(logging.DEBUG))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "True", "False", "False"]
    assert logging.getLogger("radixserve").level == logging.NOTSET
