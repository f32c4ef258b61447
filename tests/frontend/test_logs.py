"""The log: what a line says, as text and as JSON, and what must never be in one."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from radixserve_frontend.app import create_app
from radixserve_frontend.key_store import open_key_store
from radixserve_frontend.logs import REQUESTS_LOGGER, JsonLines, TextLines
from tests.frontend.fake_engine import FakeEngine, Submitted, delta_of, fails, says
from tests.frontend.http_calls import CHAT, COMPLETIONS, MESSAGES
from tests.frontend.http_fixtures import MODEL, calling, config_of, serving

KEY = "canary-key-0123456789"
BODY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}


class Log:
    """Everything that any logger says, formatted."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(formatter)

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.text.splitlines()]


def logging_to(log: Log) -> Iterator[Log]:
    root = logging.getLogger()
    level = root.level
    root.addHandler(log.handler)
    root.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        root.removeHandler(log.handler)
        root.setLevel(level)


@pytest.fixture
def text_log() -> Iterator[Log]:
    yield from logging_to(Log(TextLines(with_messages=False)))


@pytest.fixture
def json_log() -> Iterator[Log]:
    yield from logging_to(Log(JsonLines(with_messages=False)))


async def test_an_access_line_in_json(json_log: Log) -> None:
    config = config_of(api_keys=f"acme:{KEY}")
    app = create_app(FakeEngine(), config, keys=open_key_store(config))
    async with calling(app) as client:
        headers = {"x-api-key": KEY}
        answer = await client.post(CHAT, json={**BODY, "max_tokens": 4}, headers=headers)
        await client.post(CHAT, json=BODY)
    first, second = (
        line for line in json_log.lines if line["logger"] == "radixserve_frontend.access_log"
    )
    assert first.pop("time").endswith("Z")
    for name in ("ttft_s", "duration_s"):
        assert 0 <= first.pop(name) < 20
    assert first == {
        "level": "info",
        "logger": "radixserve_frontend.access_log",
        "request_id": answer.headers["x-request-id"],
        "method": "POST",
        "path": CHAT,
        "status": 200,
        "outcome": "ok",
        "tenant": "acme",
        "stream": False,
        "prompt_tokens": 24,
        "cached_tokens": 16,
        "generated_tokens": 4,
        "finish": "length",
        "error": None,
    }
    assert second["status"] == 401
    assert second["outcome"] == "error"
    assert second["error"] == "invalid_api_key"
    assert second["tenant"] is None


async def test_a_tenant_with_an_odd_name_breaks_no_line(text_log: Log) -> None:
    config = config_of(api_keys_file=None, api_keys=f"é:{KEY}")
    app = create_app(FakeEngine(), config, keys=open_key_store(config))
    async with calling(app) as client:
        await client.post(CHAT, json=BODY, headers={"x-api-key": KEY})
    assert "outcome=ok tenant='é' stream=no" in text_log.text


def test_other_lines_in_json(json_log: Log) -> None:
    try:
        try:
            int("canary")
        except ValueError as cause:
            raise KeyError("canary") from cause
    except KeyError:
        logging.getLogger("somebody").exception("it %s", 'was "so"\nbad')
    (line,) = json_log.lines
    assert line["message"] == 'it was "so"\nbad'
    assert line["level"] == "error"
    assert "builtins.ValueError" in line["exception"]
    assert "builtins.KeyError" in line["exception"]
    assert "test_logs.py" in line["exception"]


def test_exceptions_say_what_they_say_only_where_requests_may_be_logged() -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), None)
    try:
        raise ValueError("canary")
    except ValueError as error:
        record.exc_info = (type(error), error, error.__traceback__)
    silent = TextLines(with_messages=False).format(record)
    assert "canary" not in silent.replace('raise ValueError("canary")', "")
    assert silent.endswith("builtins.ValueError")
    assert "ValueError: canary" in TextLines(with_messages=True).format(record)


class Canaries:
    """Words that must not come back."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self, place: str) -> str:
        self._count += 1
        return f"canary-{place}-{self._count}"


def broken(submitted: Submitted) -> list[Any]:
    return [delta_of("canary-said"), ValueError("canary-of-an-error")]


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_nothing_that_users_write_is_logged(
    log_format: str, request: pytest.FixtureRequest
) -> None:
    log: Log = request.getfixturevalue(f"{log_format}_log")
    canary = Canaries()
    engine = FakeEngine(says("canary-answer"))
    config = config_of(api_keys=f"acme:{KEY}")
    headers = {"x-api-key": KEY, canary("header"): canary("value"), "User-Agent": canary("agent")}
    async with serving(engine, config) as server, server.client() as client:
        for body in (
            {"messages": [{"role": "user", "content": canary("prompt")}]},
            {"messages": MESSAGES, "cache_salt": canary("salt"), "user": canary("user")},
            {"messages": MESSAGES, "stop": canary("stop"), "stream": True},
            {"messages": MESSAGES, "model": canary("model")},
            {"messages": MESSAGES, canary("field"): 1},
            {"messages": [{"role": canary("role"), "content": "x"}]},
            {"messages": MESSAGES, "temperature": canary("temperature")},
        ):
            await client.post(CHAT, json={"model": MODEL, **body}, headers=headers)
        await client.post(COMPLETIONS, json={"model": MODEL, "prompt": "canary"}, headers=headers)
        await client.post(CHAT, content=b'{"canary', headers={**headers, "Content-Type": "canary"})
        await client.post(CHAT, json=BODY, headers={"Authorization": "Bearer canary-wrong-key"})
        await client.get("/canary/path?canary=query", headers=headers)
        await client.get("/v1/models/canary-model", headers=headers)
        await client.request("CANARY", CHAT, headers=headers)
        await client.post(
            "/cache/explain", json={"model": MODEL, "prompt": "canary"}, headers=headers
        )
        engine.script = broken
        for stream in (False, True):
            await client.post(CHAT, json={**BODY, "stream": stream}, headers=headers)
        engine.script = fails("canary", "canary-of-the-engine")
        for stream in (False, True):
            await client.post(CHAT, json={**BODY, "stream": stream}, headers=headers)
    said = [line for line in log.text.splitlines() if "canary" in line.lower()]
    # The client's own loggers run in this process, too.
    assert not [line for line in said if "httpcore" not in line and "httpx" not in line]
    assert "internal_error" in log.text
    assert "radixserve_frontend.access_log" in log.text


async def test_requests_are_logged_if_asked_for(
    text_log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    engine = FakeEngine(says("the", " answer"))
    app = create_app(engine, config_of(log_requests=True))
    logging.getLogger(REQUESTS_LOGGER).setLevel(logging.DEBUG)
    async with calling(app) as client:
        for stream in (False, True):
            await client.post(CHAT, json={**BODY, "stream": stream})
        await client.get("/evil%0aline" + "x" * 1000)
    asked = [message for message in caplog.messages if '"content":"Hello!"' in message]
    answered = [message for message in caplog.messages if "choice 0: 'the answer'" in message]
    assert len(asked) == len(answered) == 2
    (not_found,) = (
        record.getMessage()
        for record in caplog.records
        if record.name == "radixserve_frontend.access_log" and " 404 " in record.getMessage()
    )
    assert r"/evil\nline" in not_found
    assert len(not_found) < 500


async def test_what_is_logged_of_a_request_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, REQUESTS_LOGGER)
    engine = FakeEngine(says(*["y" * 15_000] * 3))
    async with calling(create_app(engine, config_of(log_requests=True))) as client:
        messages = [{"role": "user", "content": "x" * 3_000}]
        await client.post(
            CHAT, json={**BODY, "messages": messages, "metadata": {"a": "z" * 30_000}}
        )
    asked, answered = (
        record.getMessage() for record in caplog.records if record.name == REQUESTS_LOGGER
    )
    assert 19_000 < len(asked) < 21_000
    assert answered.count("y") == 20_000
