"""Overload, deadlines and priorities as clients see them: 429, 504, and what may be asked for."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import openai
import pytest

from radixserve.errors import ConfigError, DeadlineError, OverloadedError
from radixserve.ids import RequestId
from radixserve.sampling.params import SamplingParams
from radixserve_frontend.app import create_app
from radixserve_frontend.config import ServerConfig
from tests.frontend.fake_engine import FakeEngine, FakeStream, Script, Submitted, delta_of
from tests.frontend.http_calls import CHAT, COMPLETIONS, MESSAGES, chat, complete, error_of, post
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, calling, config_of, serving

HOSTILE_PRIORITIES: list[object] = [-101, 101, 2**80, 1.5, "1", True, []]
HOSTILE_TIMEOUTS: list[object] = [0, -1, -0.0, 1e9, "5", True, {}]


class BusyEngine(FakeEngine):
    """Refuses the next few submissions, and remembers on what terms it was asked."""

    def __init__(
        self, num_refused: int = 0, retry_after_s: float = 1.0, script: Script | None = None
    ) -> None:
        super().__init__(script)
        self.num_refused = num_refused
        self.retry_after_s = retry_after_s
        self.terms: list[dict[str, Any]] = []

    async def submit(
        self, prompt_ids: Sequence[int], params: SamplingParams, **terms: Any
    ) -> FakeStream:
        self.terms.append(terms)
        if self.num_refused:
            self.num_refused -= 1
            raise OverloadedError("too many wait", retry_after_s=self.retry_after_s)
        return await super().submit(prompt_ids, params, **terms)


def expires(after: str) -> Script:
    """A script that says something, and then its time is up."""

    def script(submitted: Submitted) -> list[Any]:
        said = [delta_of(after)] if after else []
        return [*said, DeadlineError("the 2 s that this request was given are up")]

    return script


# -- 429 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("retry_after_s", "header"), [(0.2, "1"), (1.0, "1"), (2.001, "3"), (60.0, "60")]
)
async def test_a_refusal_says_when_to_come_back(
    retry_after_s: float, header: str, *, stream: bool
) -> None:
    for ask in (chat, complete):
        engine = BusyEngine(1, retry_after_s)
        response = await ask(engine, stream=stream)
        error = error_of(response, 429)
        assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
        assert response.headers["retry-after"] == header
        assert not engine.submitted


async def test_a_refused_prompt_takes_those_before_it_along() -> None:
    class Third(BusyEngine):
        async def submit(self, *args: Any, **terms: Any) -> FakeStream:
            self.num_refused = int(len(self.terms) == 2)
            return await super().submit(*args, **terms)

    engine = Third()
    error_of(await complete(engine, prompt=["a", "b", "c", "d"]), 429)
    assert len(engine.submitted) == 2
    assert all(each.was_aborted for each in engine.submitted)


async def test_prompts_of_one_request_follow_the_first() -> None:
    engine = BusyEngine()
    response = await complete(engine, prompt=["a", "b", "c"])
    assert response.status_code == 200
    first = RequestId("fake-1")
    assert [terms["follows"] for terms in engine.terms] == [None, first, first]


async def test_the_official_client_sees_a_rate_limit() -> None:
    engine = BusyEngine(1, 7.0)
    async with (
        serving(engine) as server,
        openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
        ) as client,
    ):
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "Hello!"}]
            )
    assert caught.value.code == "overloaded"
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_official_client_comes_back_when_it_was_told_to(
    monkeypatch: pytest.MonkeyPatch, *, stream: bool
) -> None:
    """By itself: twice refused, it waits for the seconds that it was told, and is served."""
    engine = BusyEngine(2, 41.5)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def no_long_sleep(delay: float) -> None:
        if delay > 30:
            slept.append(delay)
            delay = 0
        await sleep(delay)

    monkeypatch.setattr("anyio.sleep", no_long_sleep)
    async with (
        serving(engine) as server,
        openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=2, timeout=TIMEOUT_S
        ) as client,
    ):
        if stream:
            events = await client.completions.create(model=MODEL, prompt="Hello", stream=True)
            text = "".join([event.choices[0].text async for event in events])
        else:
            answer = await client.completions.create(model=MODEL, prompt="Hello")
            text = answer.choices[0].text
    assert text == "abcdefghij"
    assert slept == [42.0, 42.0]
    assert len(engine.terms) == 3


async def test_refusals_and_the_wait_are_counted() -> None:
    engine = FakeEngine()
    async with calling(create_app(engine, config_of())) as client:
        text = (await client.get("/metrics")).text
    for reason in ("requests", "tokens", "wait"):
        assert f'radixserve_requests_refused_total{{reason="{reason}"}} 0.0' in text
    assert "radixserve_expected_wait_seconds 0.0" in text


# -- 504 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", ["", "abc"])
async def test_a_deadline_is_a_504_where_nothing_was_sent(after: str) -> None:
    for ask in (chat, complete):
        response = await ask(BusyEngine(script=expires(after)), timeout=2)
        error = error_of(response, 504)
        assert (error["type"], error["code"]) == ("timeout_error", "deadline_exceeded")
        assert error["message"] == "the 2 s that this request was given are up"


@pytest.mark.parametrize("after", ["", "abc"])
async def test_a_deadline_ends_a_stream_with_an_error(after: str) -> None:
    engine = BusyEngine(script=expires(after))
    response = await complete(engine, timeout=2, stream=True)
    assert response.status_code == 200
    assert response.text.count('"code":"deadline_exceeded"') == 1
    assert ('"text":"abc"' in response.text) == bool(after)
    assert "[DONE]" not in response.text
    assert engine.submitted[0].was_aborted


async def test_the_official_client_does_not_try_again_after_a_deadline() -> None:
    """It would take as long once more."""
    engine = BusyEngine(script=expires("abc"))
    async with (
        serving(engine) as server,
        openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=5, timeout=TIMEOUT_S
        ) as client,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.completions.create(
                model=MODEL, prompt="Hello", extra_body={"timeout": 2.0}
            )
    assert caught.value.status_code == 504
    assert len(engine.terms) == 1


# -- what may be asked for --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "most", "given"),
    [
        (None, None, None),
        (2.5, None, 2.5),
        (None, 10.0, 10.0),
        (2.5, 10.0, 2.5),
        (25, 10.0, 10.0),
    ],
)
async def test_the_deadline_is_what_was_asked_for_within_the_servers(
    asked: float | None, most: float | None, given: float | None
) -> None:
    engine = BusyEngine()
    for path, body in ((CHAT, {"messages": MESSAGES}), (COMPLETIONS, {"prompt": ["a", "b"]})):
        async with calling(create_app(engine, config_of(max_request_s=most))) as client:
            response = await client.post(path, json={"model": MODEL, "timeout": asked, **body})
        assert response.status_code == 200
    assert [terms["deadline_s"] for terms in engine.terms] == [given] * 3


async def test_priority_reaches_the_engine() -> None:
    engine = BusyEngine()
    for body in ({}, {"priority": None}, {"priority": -100}, {"priority": 100}):
        assert (await chat(engine, **body)).status_code == 200
        assert (await complete(engine, **body)).status_code == 200
    assert [terms["priority"] for terms in engine.terms] == [0, 0, 0, 0, -100, -100, 100, 100]


OTHER_DIALECTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 4}),
    ("/v1/responses", {"input": "Hello!"}),
]


@pytest.mark.parametrize(("path", "body"), OTHER_DIALECTS)
async def test_other_dialects_have_priorities_and_deadlines(
    path: str, body: dict[str, Any]
) -> None:
    engine = BusyEngine()
    for stream in (False, True):
        asked = {"priority": -7, "timeout": 2.5, "cache_salt": "s", "stream": stream}
        assert (await post(engine, path, **body, **asked)).status_code == 200
    for terms in engine.terms:
        assert (terms["priority"], terms["deadline_s"]) == (-7, 2.5)
        assert terms["namespace"] == "s"
    assert len(engine.terms) == 2
    for wrong in ({"priority": 101}, {"priority": "1"}, {"timeout": 0}, {"timeout": True}):
        response = await post(engine, path, **body, **wrong)
        assert response.status_code == 400
        assert next(iter(wrong)) in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("priority", value) for value in HOSTILE_PRIORITIES]
    + [("timeout", value) for value in HOSTILE_TIMEOUTS],
)
async def test_hostile_values(field: str, value: object) -> None:
    for ask in (chat, complete):
        engine = BusyEngine()
        error = error_of(await ask(engine, **{field: value}), 400)
        assert error["param"] == field
        assert field in error["message"]
        assert not engine.terms


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_numbers_that_are_none(number: str) -> None:
    engine = BusyEngine()
    async with calling(create_app(engine, config_of())) as client:
        response = await client.post(
            COMPLETIONS,
            content=f'{{"model": "{MODEL}", "prompt": "a", "timeout": {number}}}',
            headers={"content-type": "application/json"},
        )
    error_of(response, 400)
    assert not engine.terms


def test_the_limits_are_settings() -> None:
    config = ServerConfig(max_queued_requests=5, max_queued_tokens=6, max_queue_s=7.5)
    assert (
        config.queue_limits.max_queued_requests,
        config.queue_limits.max_queued_tokens,
        config.queue_limits.max_queue_s,
    ) == (5, 6, 7.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_queued_requests", 0),
        ("max_queued_tokens", 0),
        ("max_queue_s", 0.0),
        ("max_queue_s", math.nan),
        ("max_request_s", 0.0),
        ("max_request_s", math.inf),
    ],
)
def test_limits_out_of_range(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        ServerConfig(**{name: value})  # type: ignore[arg-type]
