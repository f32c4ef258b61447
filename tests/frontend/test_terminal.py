"""The terminal chat: with a scripted source, over HTTP, and over an engine in this process."""

import asyncio
import io
import json
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager

import anyio.from_thread
import httpx
import pytest
from rich.console import Console

from radixserve.config import EngineConfig
from radixserve.demo import DEMO_NOTE
from radixserve.engine.interface import TextDelta
from radixserve.errors import ConfigError, ContextLengthError
from radixserve_frontend import chat_sources, terminal
from radixserve_frontend.chat_sources import (
    AnswerError,
    EngineSource,
    Figures,
    HttpSource,
    Messages,
    open_source,
)
from radixserve_frontend.config import ChatConfig
from radixserve_frontend.terminal import ChatSession, describe
from tests.frontend.fake_engine import FakeEngine, fails, says
from tests.frontend.http_fixtures import TIMEOUT_S, serving

FIGURES = Figures(
    prompt_tokens=30, cached_tokens=20, generated_tokens=11, ttft_s=0.5, duration_s=2.5
)


class ScriptedSource:
    """Answers from a list; an exception in it is raised."""

    name = "scripted"

    def __init__(self, *answers: list[str | Figures | BaseException]) -> None:
        self._answers = iter(answers)
        self.asked: list[list[dict[str, str]]] = []
        self.num_closed = 0

    def answer(self, messages: Messages) -> Generator[str | Figures, None, None]:
        self.asked.append([dict(message) for message in messages])
        try:
            for piece in next(self._answers):
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            self.num_closed += 1


def converse(source: ScriptedSource, *lines: str, system: str | None = None) -> str:
    """What the terminal shows when a user types ``lines``."""
    screen = io.StringIO()
    pending = iter(lines)
    console = Console(file=screen, highlight=False, soft_wrap=True, width=200)
    ChatSession(source, console, system=system).run(lambda: next(pending, None))
    return screen.getvalue()


def test_turns_build_up_and_figures_are_shown() -> None:
    source = ScriptedSource(["Hel", "lo", FIGURES], ["Bye", FIGURES])
    shown = converse(source, "hi", "", "bye", "/exit", "never asked", system="be kind")
    system = {"role": "system", "content": "be kind"}
    hi = {"role": "user", "content": "hi"}
    assert source.asked == [
        [system, hi],
        [system, hi, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "bye"}],
    ]
    assert "Hello\n[TTFT 0.500 s, 5.0 tokens/s, 11 tokens, 20 of 30 prompt tokens cached]" in shown


def test_commands() -> None:
    source = ScriptedSource(["a"], ["b"], ["c"])
    shown = converse(
        source, "1", "/system be brief", "2", "/reset", "/help", "/nonsense", "/system", "3"
    )
    assert source.asked == [
        [{"role": "user", "content": "1"}],
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2"}],
        [{"role": "user", "content": "3"}],
    ]
    assert "/system TEXT" in shown
    assert "there is no command /nonsense" in shown


def test_ctrl_c_ends_the_answer_and_keeps_what_there_is() -> None:
    source = ScriptedSource(["part", KeyboardInterrupt()], ["whole"])
    shown = converse(source, "1", "2")
    assert source.asked[1][1] == {"role": "assistant", "content": "part"}
    assert "[interrupted]" in shown
    assert source.num_closed == 2


def test_a_failed_turn_is_taken_back() -> None:
    source = ScriptedSource([AnswerError("too [long]")], ["fine"])
    shown = converse(source, "1", "2")
    assert source.asked[1] == [{"role": "user", "content": "2"}]
    assert "[error: too [long]]" in shown


def test_a_model_cannot_steer_the_terminal() -> None:
    shown = converse(ScriptedSource(["\x1b[2J[bold]x[/bold]\r\x07\x9b1m\ttab\n"]), "1")
    assert "\N{REPLACEMENT CHARACTER}[2J[bold]x[/bold]" in shown
    assert not set("\x1b\r\x07\x9b") & set(shown)


def test_figures_leave_out_what_is_not_known() -> None:
    silent = Figures(
        prompt_tokens=3, cached_tokens=0, generated_tokens=0, ttft_s=None, duration_s=1.0
    )
    assert describe(silent) == "0 tokens, 0 of 3 prompt tokens cached"


@contextmanager
def engine_source(engine: FakeEngine, **changes: object) -> Iterator[EngineSource]:
    with anyio.from_thread.start_blocking_portal() as portal:
        yield EngineSource(engine, portal, ChatConfig(**changes))  # type: ignore[arg-type]


def hello(pieces: Iterable[str | Figures]) -> tuple[str, Figures | None]:
    """The text and the figures of an answer."""
    texts = []
    figures = None
    for piece in pieces:
        if isinstance(piece, Figures):
            figures = piece
        else:
            texts.append(piece)
    return "".join(texts), figures


HI = [{"role": "user", "content": "hi"}]


def test_engine_source() -> None:
    engine = FakeEngine()
    with engine_source(engine, max_tokens=5, temperature=0.5) as source:
        text, figures = hello(source.answer(HI))
    assert text == "abcde"
    assert figures is not None
    assert (figures.prompt_tokens, figures.cached_tokens, figures.generated_tokens) == (20, 16, 5)
    assert figures.ttft_s is not None
    assert engine.submitted[0].params.temperature == 0.5
    assert engine.submitted[0].closed.is_set()


def test_engine_source_abandoned_is_aborted() -> None:
    engine = FakeEngine()
    engine.gate.hold(1)
    with engine_source(engine) as source:
        answer = source.answer(HI)
        assert next(answer) == "a"
        answer.close()
    assert engine.submitted[0].was_aborted


def test_ctrl_c_while_waiting_for_the_engine() -> None:
    def interrupt(submitted: object) -> list[TextDelta]:
        # This is the engine's thread; the main one waits for the first delta, or is about to.
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)
        return []

    engine = FakeEngine(interrupt)
    engine.gate.hold()
    with engine_source(engine) as source, pytest.raises(KeyboardInterrupt):
        hello(source.answer(HI))
    assert engine.submitted[0].was_aborted


def test_engine_source_refuses() -> None:
    with engine_source(FakeEngine()) as source, pytest.raises(ContextLengthError, match="4096"):
        hello(source.answer([{"role": "user", "content": "x" * 5000}]))


def test_an_engine_is_started_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    engines: list[FakeEngine] = []

    async def start(config: EngineConfig) -> FakeEngine:
        assert type(config) is EngineConfig
        engines.append(FakeEngine(says("a", "", "b")))
        return engines[0]

    monkeypatch.setattr("radixserve.engine.async_engine.AsyncEngine.start", start)
    with open_source(ChatConfig(model="m")) as source:
        assert source.name == "m"
        assert hello(source.answer(HI))[0] == "ab"
    assert engines[0].is_closed


def test_engine_source_fails() -> None:
    with (
        engine_source(FakeEngine(fails("x", "broken"))) as source,
        pytest.raises(AnswerError, match="broken"),
    ):
        hello(source.answer(HI))


@contextmanager
def http_source(engine: FakeEngine, **changes: object) -> Iterator[chat_sources.ChatSource]:
    """A source over a server in a thread of its own: the source blocks, as the terminal does."""
    ready = threading.Event()
    urls: list[str] = []
    loops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def serve() -> None:
        done = asyncio.Event()
        async with serving(engine) as server:
            urls.append(server.url)
            loops.append((asyncio.get_running_loop(), done))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(TIMEOUT_S)
        config = ChatConfig(url=f"{urls[0]}/v1/", **changes)  # type: ignore[arg-type]
        with open_source(config) as source:
            yield source
    finally:
        loop, done = loops[0]
        loop.call_soon_threadsafe(done.set)
        thread.join()


def test_http_source() -> None:
    engine = FakeEngine()
    with http_source(engine, max_tokens=5, temperature=0.25) as source:
        assert source.name == "fake"
        text, figures = hello(source.answer(HI))
        assert text == "abcde"
        assert figures is not None
        assert (figures.prompt_tokens, figures.cached_tokens) == (20, 16)
        assert figures.generated_tokens == 5
        assert engine.submitted[0].params.temperature == 0.25

        engine.script = fails("x", "broken")
        with pytest.raises(AnswerError, match="broken"):
            hello(source.answer(HI))
        with pytest.raises(AnswerError, match="4096"):
            hello(source.answer([{"role": "user", "content": "x" * 5000}]))
        engine.script = says("\u2028 \u0085")
        assert hello(source.answer(HI))[0] == "\u2028 \u0085"


def test_nobody_answers_at_the_url() -> None:
    with (
        pytest.raises(ConfigError, match="no server of OpenAI's dialect answers"),
        open_source(ChatConfig(url="http://127.0.0.1:9/")),
    ):
        pass


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, json.dumps({"error": {"message": "no"}}), "no"),
        (502, "<html>", "the server answered with status 502"),
    ],
)
def test_http_errors_in_the_servers_words(status: int, body: str, message: str) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(status, text=body))
    with httpx.Client(transport=transport, base_url="http://x/v1") as client:
        source = HttpSource(client, "m", ChatConfig(url="http://x"))
        with pytest.raises(AnswerError, match=message):
            hello(source.answer(HI))


def test_a_stream_that_ends_too_early() -> None:
    event = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=event))
    with httpx.Client(transport=transport, base_url="http://x/v1") as client:
        source = HttpSource(client, "m", ChatConfig(url="http://x"))
        with pytest.raises(AnswerError, match="before the end"):
            hello(source.answer(HI))


def test_a_connection_that_breaks() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("gone")

    with httpx.Client(transport=httpx.MockTransport(broken), base_url="http://x/v1") as client:
        source = HttpSource(client, "m", ChatConfig(url="http://x"))
        with pytest.raises(AnswerError, match="gone"):
            hello(source.answer(HI))


@pytest.mark.parametrize("url", [None, "http://x"])
@pytest.mark.parametrize("system", [None, "s"])
def test_run_terminal_with_a_pipe(
    url: str | None,
    system: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = ScriptedSource(["Hello", FIGURES])

    @contextmanager
    def opened(config: ChatConfig) -> Iterator[ScriptedSource]:
        yield source

    monkeypatch.setattr(terminal, "open_source", opened)
    monkeypatch.setattr("sys.stdin", io.StringIO("hi\n"))
    assert terminal.run_terminal(ChatConfig(url=url, system=system)) == 0
    shown = capsys.readouterr().out
    assert "Hello" in shown
    assert "20 of 30 prompt tokens cached" in shown
    # Who has given it a document need not be told how.
    assert (DEMO_NOTE in shown) is (url is None)
    assert ("/system TEXT" in shown) is (url is None and system is None)


def test_run_terminal_with_a_person(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    @contextmanager
    def opened(config: ChatConfig) -> Iterator[ScriptedSource]:
        yield ScriptedSource(["Hello", FIGURES])

    monkeypatch.setattr(terminal, "open_source", opened)
    # End of input after one line, as Ctrl-D gives it.
    monkeypatch.setattr("sys.stdin", Tty("hi\n"))
    assert terminal.run_terminal(ChatConfig(url="http://x")) == 0
    shown = capsys.readouterr().out
    assert "scripted" in shown
    assert "Hello" in shown
