"""The official client, unmodified, sync and async, against a real socket."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.frontend.fake_engine import FakeEngine, fails, says
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, RunningServer, serving

MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
]


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def server(engine: FakeEngine) -> AsyncIterator[RunningServer]:
    async with serving(engine) as running:
        yield running


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
    ) as client:
        yield client


async def test_models(client: openai.AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == [MODEL]
    model = await client.models.retrieve(MODEL)
    assert model.model_dump()["max_model_len"] == 4096
    assert model.model_dump()["context_length"] == 4096


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_completion_tokens=4, logprobs=True, top_logprobs=1, n=2
    )
    assert [choice.message.content for choice in answer.choices] == ["abcd", "abcd"]
    assert answer.choices[0].finish_reason == "length"
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == list("abcd")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 16


async def test_chat_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=4,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "abcd"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 4
    assert chunks[-1].usage.prompt_tokens_details is not None
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 16


async def test_the_clients_own_accumulation_of_a_stream(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    engine.script = says("ab", "cd")
    async with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, max_tokens=4
    ) as stream:
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.content == "abcd"
    assert answer.choices[0].finish_reason == "stop"


async def test_completions(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(
        model=MODEL, prompt=["x", "y"], max_tokens=3, logprobs=1, echo=False
    )
    assert [choice.text for choice in answer.choices] == ["abc", "abc"]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["a", "b", "c"]
    stream = await client.completions.create(model=MODEL, prompt="x", max_tokens=3, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "abc"


async def test_an_answer_appended_as_it_came_is_a_good_message(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    first: Any = await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=3)
    await client.chat.completions.create(
        model=MODEL,
        messages=[
            *MESSAGES,
            first.choices[0].message.model_dump(),
            {"role": "user", "content": "?"},
        ],
        max_tokens=3,
    )
    assert engine.submitted[1].prompt.endswith("assistant: abc\nuser: ?\nassistant: ")


async def test_a_completion_continues_its_prompt_and_a_chat_does_not(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    await client.completions.create(model=MODEL, prompt="Once upon", max_tokens=2)
    await client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2)
    assert [submitted.continues_prompt for submitted in engine.submitted] == [True, False]


async def test_extras_travel_in_the_extra_body(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    await client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        extra_body={"top_k": 5, "cache_salt": "s", "ignore_eos": True},
    )
    assert engine.submitted[0].params.top_k == 5
    assert engine.submitted[0].params.ignore_eos
    assert engine.submitted[0].namespace == "s"


async def test_errors_become_the_clients_own(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        await client.chat.completions.create(model="gpt", messages=MESSAGES)
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=-1)
    assert bad.value.param == "temperature"
    engine.script = fails("ab", "the runner broke")
    stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="the runner broke"):
        async for _ in stream:
            pass


async def test_the_sync_client(server: RunningServer) -> None:
    def talk() -> tuple[str | None, str]:
        with openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
        ) as client:
            answer = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=4)
            stream = client.chat.completions.create(
                model=MODEL, messages=MESSAGES, max_tokens=4, stream=True
            )
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return answer.choices[0].message.content, text

    assert await asyncio.to_thread(talk) == ("abcd", "abcd")


async def test_many_streams_at_once(client: openai.AsyncOpenAI) -> None:
    async def one(length: int) -> int:
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=length, stream=True
        )
        return sum([len(chunk.choices[0].delta.content or "") async for chunk in stream])

    lengths = range(1, 33)
    assert await asyncio.gather(*map(one, lengths)) == list(lengths)
