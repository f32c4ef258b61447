"""What a review with a real server, sockets and the official client once broke."""

import asyncio
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from pydantic import ValidationError

from radixserve.config import EngineConfig
from radixserve.engine.client import EngineClient
from radixserve.engine.intake import Intake
from radixserve.engine.interface import TextDelta
from radixserve.errors import ConfigError, ContextLengthError, EngineDeadError
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.types import TokenLogprob
from radixserve_frontend import terminal
from radixserve_frontend.chat_sources import AnswerError, Figures, HttpSource
from radixserve_frontend.config import ChatConfig
from radixserve_frontend.openai.schema import MAX_STOP_TOKEN_IDS, ChatRequest
from tests.frontend.fake_engine import FakeEngine, Submitted, delta_of
from tests.frontend.http_calls import MESSAGES, chat, complete, error_of, events_of
from tests.frontend.http_fixtures import TIMEOUT_S, serving
from tests.frontend.test_terminal import FIGURES, ScriptedSource

MANY = {f"field{number}": 0 for number in range(1000)}
USER = MESSAGES[0]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (MANY, "field0"),
        ({"stream_options": MANY}, "stream_options.field0"),
        ({"messages": [{**USER, **MANY}]}, "messages[0].field0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "", **MANY}]}]},
            "messages[0].content[0].field0",
        ),
        ({"logit_bias": {"5": 1, "7": True, **MANY, "8": None}}, "logit_bias.7"),
        ({"logit_bias": dict.fromkeys(map(str, range(1000)), "")}, "logit_bias.0"),
        ({"logit_bias": dict.fromkeys(map(str, range(1000)), 10**400)}, "logit_bias.0"),
    ],
)
async def test_of_many_faults_one_is_rendered(body: dict[str, Any], param: str) -> None:
    """Regression: a million unknown fields, or bad entries of logit_bias, in a body of 12 MB made
    a million errors: 2.5 GB, and 2.7 s without an answer for anybody."""
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate({"model": "fake", "messages": MESSAGES, **body})
    assert caught.value.error_count() == 1
    assert error_of(await chat(FakeEngine(), **body), 400)["param"] == param


async def test_a_fault_among_known_fields_is_found_beside_an_unknown_one() -> None:
    body = {"messages": [{"role": "narrator", "content": "Hello!", "unheard_of": 1}]}
    assert error_of(await chat(FakeEngine(), **body), 400)["param"] == "messages[0].role"


async def test_stop_token_ids_are_bounded() -> None:
    """Regression: seven million of them were accepted, and sent to the engine twice."""
    engine = FakeEngine()
    most = [65] * MAX_STOP_TOKEN_IDS
    assert (await chat(engine, stop_token_ids=most)).status_code == 200
    error = error_of(await chat(engine, stop_token_ids=[*most, 65]), 400)
    assert error["param"] == "stop_token_ids"
    assert str(MAX_STOP_TOKEN_IDS) in error["message"]


async def test_what_an_unsupported_field_may_be_is_said_in_json() -> None:
    """Regression: "send null, False"."""
    error = error_of(await chat(FakeEngine(), function_call="auto"), 400)
    assert 'null or "none"' in error["message"]


async def test_choices_begin_in_their_order() -> None:
    """Regression: with ``n`` > 1 the engine's first token may be any choice's, and OpenAI's
    ``chat.completions.stream`` raised IndexError unless it was the first's."""

    def backwards(submitted: Submitted) -> list[TextDelta]:
        return [delta_of("x", index=index, finish_reason="stop") for index in (2, 0, 1)]

    *events, done = events_of(await chat(FakeEngine(backwards), n=3, stream=True))
    assert done == "[DONE]"
    choices = [choice for event in events for choice in event["choices"]]
    beginnings, tokens = choices[:3], choices[3:]
    assert [choice["index"] for choice in beginnings] == [0, 1, 2]
    assert all(choice["delta"] == {"role": "assistant", "content": ""} for choice in beginnings)
    assert [choice["index"] for choice in tokens] == [2, 0, 1]
    assert all(choice["delta"] == {"content": "x"} for choice in tokens)


@pytest.mark.parametrize("stream", [False, True])
async def test_completion_logprobs_hold_the_chosen_token(stream: bool) -> None:
    """Regression: a token that was not among the likeliest was missing, which OpenAI never leaves
    out. Of two tokens with one text the likelier one's value was lost."""

    def unlikely(submitted: Submitted) -> list[TextDelta]:
        # Bytes 0xE4 and 0xB8 are no characters by themselves: both are shown as U+FFFD.
        top = [(0xE4, -0.25), (0xB8, -2.0)]
        logprobs = [TokenLogprob(token_id=ord("c"), logprob=-3.0, top=top)]
        return [
            TextDelta(
                index=0,
                text="c",
                token_ids=[ord("c")],
                logprobs=logprobs,
                finish_reason="stop",
            )
        ]

    response = await complete(FakeEngine(unlikely), logprobs=2, stream=stream)
    answer = events_of(response)[0] if stream else response.json()
    found = answer["choices"][0]["logprobs"]["top_logprobs"]
    assert found == [{"\ufffd": -0.25, "c": -3.0}]
    assert list(found[0]) == ["\ufffd", "c"]


# -- shutting down --------------------------------------------------------------------------------


async def test_a_body_that_never_ends_does_not_hold_a_shutdown_up() -> None:
    """Regression: it took five seconds longer, and each such connection logged a traceback."""
    engine = FakeEngine()
    async with serving(engine) as server, asyncio.timeout(TIMEOUT_S):
        url = httpx.URL(server.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n{"
        )
        # Said when somebody begins to read the body.
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        server.server.request_stop("test")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"shutting_down"' in answer
        writer.close()
        await server.stopped()
    assert engine.is_closed
    assert engine.submitted == []


# -- the terminal ---------------------------------------------------------------------------------


def run_terminal(
    source: ScriptedSource, stdin: io.TextIOBase, monkeypatch: pytest.MonkeyPatch
) -> int:
    @contextmanager
    def opened(config: ChatConfig) -> Iterator[ScriptedSource]:
        yield source

    monkeypatch.setattr(terminal, "open_source", opened)
    monkeypatch.setattr("sys.stdin", stdin)
    return terminal.run_terminal(ChatConfig(url="http://x"))


def test_what_comes_through_a_pipe_need_not_be_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: a byte that is not UTF-8 ended the program with a traceback."""
    source = ScriptedSource(["Hello", FIGURES])
    stdin = io.TextIOWrapper(io.BytesIO(b"a\xffb\n"), encoding="utf-8", errors="strict")
    assert run_terminal(source, stdin, monkeypatch) == 0
    assert source.asked == [[{"role": "user", "content": "a\ufffdb"}]]
    assert "Hello" in capsys.readouterr().out


def test_a_terminal_need_not_have_every_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: the first character that the terminal's encoding lacks ended the program."""
    screen = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(screen, encoding="latin-1"))
    source = ScriptedSource(["caf\xe9 \u4e2d", FIGURES])
    assert run_terminal(source, io.StringIO("hi\n"), monkeypatch) == 0
    sys.stdout.flush()
    assert b"caf\xe9 ?" in screen.getvalue()


def test_names_and_errors_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: a model's name was read as markup (a path with "[/" in it was an error), and a
    server's error message reached the terminal as it came."""

    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    source = ScriptedSource([AnswerError("no \x1b[2Jroom")])
    source.name = "/models/[/x]\x1b[2J"
    assert run_terminal(source, Tty("hi\n"), monkeypatch) == 0
    shown = capsys.readouterr().out
    assert "/models/[/x]\ufffd[2J" in shown
    assert "no \ufffd[2Jroom" in shown


def test_a_lone_surrogate_is_the_servers_to_refuse() -> None:
    """Regression: one on the command line (a byte that is not text) was a traceback."""

    def refuse(request: httpx.Request) -> httpx.Response:
        assert request.headers["content-type"] == "application/json"
        assert b"\\udcff" in request.content
        return httpx.Response(400, json={"error": {"message": "not text"}})

    with httpx.Client(transport=httpx.MockTransport(refuse), base_url="http://x") as client:
        source = HttpSource(client, "m", ChatConfig(url="http://x"))
        pieces: list[str | Figures] = []
        with pytest.raises(AnswerError, match="not text"):
            pieces.extend(source.answer([{"role": "user", "content": "\udcff"}]))
        assert pieces == []


# -- the engine's process -------------------------------------------------------------------------


def nothing(*_: object) -> None: ...


async def test_a_temporary_directory_too_deep_for_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a traceback out of zmq, and the directory was left behind."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(ConfigError, match="TMPDIR"):
        await EngineClient.start(EngineConfig(), on_message=nothing)
    assert list(deep.iterdir()) == []


async def test_the_engine_has_a_process_group_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a Ctrl-C while the engine's imports ran reached it as well, and its traceback
    the terminal; a SIGTERM to the group ended it before the server could drain."""
    found = tmp_path / "group"
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport os\nopen({str(found)!r}, 'w').write(str(os.getpgrp()))\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(EngineDeadError):
        await EngineClient.start(EngineConfig(), on_message=nothing)
    assert int(found.read_text()) != os.getpgrp()


def test_a_long_prompt_is_refused_before_its_ids_are_looked_at() -> None:
    """Regression: a prompt of millions was converted first, on the event loop."""
    engine = FakeEngine()
    intake = Intake(engine.info, cast(Any, engine.tokenizer))
    # What is not a token id would be found first if anybody looked.
    prompt = cast(list[int], [None] * (engine.info.max_model_len + 1))
    with pytest.raises(ContextLengthError):
        intake.admit(RequestId("r"), prompt, SamplingParams())
