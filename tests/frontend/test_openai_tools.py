"""OpenAI's own client: parsing, streams that accumulate, tools there and back, raw responses."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.frontend.fake_engine import FakeEngine, says
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, serving

MESSAGES: list[Any] = [{"role": "user", "content": "What is the weather in Ulm?"}]
CALL = '<tool_call>\n{"name": "Weather", "arguments": {"city": "Ulm", "days": 2}}\n</tool_call>'


class Weather(BaseModel):
    """Look up the weather."""

    city: str
    days: int


class Step(BaseModel):
    text: str


class Plan(BaseModel):
    steps: list[Step]


TOOL = openai.pydantic_function_tool(Weather)
PLAN = '{"steps": [{"text": "ü"}, {"text": "b"}]}'


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        serving(engine) as server,
        openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
        ) as client,
    ):
        yield client


async def test_parse_into_a_model_of_pydantics(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    engine.script = says(PLAN)
    answer = await client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Plan
    )
    assert answer.choices[0].message.parsed == Plan(steps=[Step(text="ü"), Step(text="b")])
    grammar = engine.submitted[0].params.grammar
    assert grammar is not None
    assert grammar.kind == "json_schema"
    assert json.loads(grammar.source)["required"] == ["steps"]


async def test_parse_calls_of_strict_tools(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = says("Let me see.\n", CALL)
    answer = await client.chat.completions.parse(model=MODEL, messages=MESSAGES, tools=[TOOL])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.function.parsed_arguments == Weather(city="Ulm", days=2)


@pytest.mark.parametrize("as_it_came", [True, False])
async def test_tools_there_and_back(
    client: openai.AsyncOpenAI, engine: FakeEngine, as_it_came: bool
) -> None:
    engine.script = says(CALL)
    first = await client.chat.completions.parse(model=MODEL, messages=MESSAGES, tools=[TOOL])
    message = first.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    engine.script = says("Rain, two days long.")
    turn: Any = message if as_it_came else message.model_dump()
    second = await client.chat.completions.create(
        model=MODEL,
        messages=[*MESSAGES, turn, {"role": "tool", "tool_call_id": call.id, "content": "rain"}],
        tools=[TOOL],
    )
    assert second.choices[0].message.content == "Rain, two days long."
    assert second.choices[0].message.tool_calls is None
    shown = engine.submitted[1].prompt
    assert f'"id": "{call.id}"' in shown
    assert shown.endswith("tool: rain\nassistant: ")


async def test_a_stream_of_calls_accumulates(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    engine.script = says("Hm.\n", *CALL, "\n", *CALL)
    events: list[Any] = []
    async with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, tools=[TOOL]
    ) as stream:
        async for event in stream:
            events.append(event)  # noqa: PERF401  # readable
        answer = await stream.get_final_completion()
    message = answer.choices[0].message
    assert message.content == "Hm."
    assert message.tool_calls is not None
    assert [call.function.parsed_arguments for call in message.tool_calls] == [
        Weather(city="Ulm", days=2)
    ] * 2
    assert len({call.id for call in message.tool_calls}) == 2
    assert answer.choices[0].finish_reason == "tool_calls"
    deltas = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
    done = [e for e in events if e.type == "tool_calls.function.arguments.done"]
    assert [(each.index, each.name) for each in done] == [(0, "Weather"), (1, "Weather")]
    for each in done:
        mine = [delta.arguments_delta for delta in deltas if delta.index == each.index]
        assert "".join(mine) == each.arguments == '{"city": "Ulm", "days": 2}'
        assert len(mine) > 10


async def test_a_stream_of_content_parses_as_it_comes(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    engine.script = says(*PLAN)
    async with client.chat.completions.stream(
        model=MODEL, messages=MESSAGES, response_format=Plan
    ) as stream:
        events: list[Any] = [event async for event in stream]
        answer = await stream.get_final_completion()
    assert answer.choices[0].message.parsed == Plan(steps=[Step(text="ü"), Step(text="b")])
    deltas = [event.delta for event in events if event.type == "content.delta"]
    assert "".join(deltas) == PLAN
    assert len(deltas) >= len(PLAN)
    assert "content.done" in [event.type for event in events]


async def test_a_plain_stream_of_calls(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = says(CALL)
    stream = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=[TOOL], stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content is None
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert calls[0].function is not None
    assert calls[0].function.name == "Weather"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_raw_and_streaming_responses(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = says(CALL)
    raw = await client.chat.completions.with_raw_response.create(
        model=MODEL, messages=MESSAGES, tools=[TOOL]
    )
    assert raw.headers["x-request-id"]
    parsed = raw.parse()
    assert parsed.choices[0].finish_reason == "tool_calls"
    async with client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=MESSAGES, tools=[TOOL], stream=True
    ) as response:
        lines = [line async for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["object"] == "chat.completion.chunk"


async def test_thinking_is_an_extra_of_the_message(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    tokenizer: Any = engine.tokenizer
    tokenizer.thinks = True
    engine.script = says("<think>hm</think>", "Rain.")
    answer = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, reasoning_effort="low"
    )
    message: Any = answer.choices[0].message
    assert message.reasoning_content == "hm"
    assert message.content == "Rain."
    # And the message goes back as it came.
    await client.chat.completions.create(model=MODEL, messages=[*MESSAGES, message.model_dump()])
