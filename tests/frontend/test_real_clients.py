"""Both official clients against the real engine, over a real socket: what they put together of a
stream is what comes in one piece, and turns find what turns before them computed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import MessageParam

from radixserve.engine.async_engine import AsyncEngine
from radixserve_frontend.config import ServerConfig
from support.noise_model import write_noise_model
from tests.engine.in_process_client import client_of, use_in_process_client
from tests.frontend.http_fixtures import TIMEOUT_S, serving

MODEL = "noise"
QUESTION = "Tell me something about the noise."


@pytest.fixture
async def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    use_in_process_client(monkeypatch)
    write_noise_model(tmp_path)
    config = ServerConfig(
        model=str(tmp_path),
        served_model_name=MODEL,
        dtype="float32",
        num_pages=256,
        num_threads=1,
        port=0,
    )
    engine = await AsyncEngine.start(config)
    async with serving(engine, config) as server:
        yield server.url
    assert client_of(engine).core.cache_info().in_use_pages == 0
    await engine.aclose()


async def test_anthropic(url: str) -> None:
    settings: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 24,
        "system": "You are noise.",
        "extra_body": {"temperature": 0, "ignore_eos": True},
    }
    messages: list[MessageParam] = [{"role": "user", "content": QUESTION}]
    async with anthropic.AsyncAnthropic(
        base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT_S
    ) as client:
        whole = await client.messages.create(messages=messages, **settings)
        assert whole.usage.cache_read_input_tokens == 0
        counted = await client.messages.count_tokens(
            model=MODEL, messages=messages, system="You are noise."
        )
        assert whole.usage.input_tokens == counted.input_tokens
        async with client.messages.stream(messages=messages, **settings) as stream:
            streamed = await stream.get_final_message()
        assert streamed.content[0].to_dict() == whole.content[0].to_dict()
        assert streamed.usage.cache_read_input_tokens == counted.input_tokens - 1
        assert streamed.usage.output_tokens == whole.usage.output_tokens == 24

        # The answer, continued where it stopped, is the answer to a longer wish.
        prefilled: list[MessageParam] = [*messages, whole.to_param()]
        rest = await client.messages.create(messages=prefilled, **settings)
        assert rest.usage.cache_read_input_tokens == counted.input_tokens + 24 - 1
        longer = await client.messages.create(messages=messages, **{**settings, "max_tokens": 48})
        assert [block.type for block in (*whole.content, *rest.content)] == ["text", "text"]
        texts = [message.content[0].to_dict()["text"] for message in (whole, rest, longer)]
        assert texts[0] + texts[1] == texts[2]

        text = str(texts[2])
        stop = text[10:13]
        stopped = await client.messages.create(messages=messages, stop_sequences=[stop], **settings)
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
        assert stopped.content[0].to_dict()["text"] == text[: text.index(stop)]

        turns: list[MessageParam] = [*prefilled, {"role": "user", "content": "Go on."}]
        second = await client.messages.create(messages=turns, **settings)
        # The tokenizer gives back what the model chose.
        assert second.usage.cache_read_input_tokens == counted.input_tokens + 24


async def test_openai_responses(url: str) -> None:
    settings: dict[str, Any] = {
        "model": MODEL,
        "max_output_tokens": 24,
        "temperature": 0,
        "instructions": "You are noise.",
        "extra_body": {"ignore_eos": True},
    }
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
    ) as client:
        whole = await client.responses.create(input=QUESTION, **settings)
        stream = await client.responses.create(input=QUESTION, stream=True, **settings)
        events = [event async for event in stream]
        last = events[-1]
        assert last.type == "response.incomplete"
        assert last.response.output_text == whole.output_text
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == whole.output_text
        assert whole.usage is not None
        assert last.response.usage is not None
        cached = last.response.usage.input_tokens_details.cached_tokens
        assert cached == whole.usage.input_tokens - 1

        second = await client.responses.create(
            input="Go on.", previous_response_id=last.response.id, **settings
        )
        assert second.usage is not None
        assert second.usage.input_tokens_details.cached_tokens == whole.usage.total_tokens - 1
        kept = await client.responses.retrieve(second.id)
        assert kept.output_text == second.output_text
