"""Anthropic's official client, unmodified, sync and async, against a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anthropic
import pytest
from anthropic import beta_async_tool
from anthropic.types import MessageParam, ToolParam
from pydantic import BaseModel

from radixserve.errors import OverloadedError
from radixserve.types import PrefixMark
from tests.frontend.fake_engine import FakeEngine, Submitted, delta_of, fails, says
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, RunningServer, serving

HELLO: list[MessageParam] = [{"role": "user", "content": "Hello!"}]
WEATHER: ToolParam = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def server(engine: FakeEngine) -> AsyncIterator[RunningServer]:
    async with serving(engine) as running:
        yield running


def client_of(server: RunningServer, **settings: Any) -> anthropic.AsyncAnthropic:
    settings = {"api_key": "none", "max_retries": 0, "timeout": TIMEOUT_S, **settings}
    return anthropic.AsyncAnthropic(base_url=server.url, **settings)


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with client_of(server) as client:
        yield client


async def test_a_message(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    message = await client.messages.create(
        model=MODEL,
        max_tokens=4,
        system="Be brief.",
        messages=[
            *HELLO,
            {"role": "assistant", "content": [{"type": "text", "text": "Hi."}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
        ],
        # The client has dropped these; others send them.
        extra_body={"temperature": 0.5, "top_p": 0.9, "top_k": 7},
        stop_sequences=["x", "y"],
        metadata={"user_id": "me"},
        service_tier="auto",
    )
    assert engine.submitted[0].prompt == (
        "system: Be brief.\nuser: Hello!\nassistant: Hi.\nuser: a\nb\nassistant: "
    )
    params = engine.submitted[0].params
    assert (params.temperature, params.top_p, params.top_k) == (0.5, 0.9, 7)
    assert (params.max_tokens, params.stop) == (4, ("x", "y"))
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    (block,) = message.content
    assert block.type == "text"
    assert block.text == "abcd"
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    usage = message.usage
    assert usage.cache_read_input_tokens == 16
    assert usage.cache_creation_input_tokens == 0
    assert usage.input_tokens == len(engine.submitted[0].prompt_ids) - 16
    assert usage.output_tokens == 4


async def test_stop_reasons(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    engine.script = says("all")
    message = await client.messages.create(model=MODEL, max_tokens=9, messages=HELLO)
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)

    def stops(submitted: Submitted) -> list[Any]:
        return [replace(delta_of("all", finish_reason="stop"), stop_reason="END")]

    engine.script = stops
    message = await client.messages.create(
        model=MODEL, max_tokens=9, messages=HELLO, stop_sequences=["END"]
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "END")


async def test_more_tokens_than_the_context_has_room_for(
    client: anthropic.AsyncAnthropic, engine: FakeEngine
) -> None:
    message = await client.messages.create(model=MODEL, max_tokens=32_000, messages=HELLO)
    assert engine.submitted[0].params.max_tokens is None
    assert message.stop_reason == "model_context_window_exceeded"
    with pytest.raises(anthropic.BadRequestError) as refused:
        await client.messages.create(
            model=MODEL, max_tokens=1, messages=[{"role": "user", "content": "x" * 5000}]
        )
    assert refused.value.error_code == "context_length_exceeded"


async def test_a_stream_event_by_event(client: anthropic.AsyncAnthropic) -> None:
    stream = await client.messages.create(model=MODEL, max_tokens=2, messages=HELLO, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, delta = events[0], events[-2]
    assert start.type == "message_start"
    assert start.message.content == []
    assert start.message.stop_reason is None
    assert start.message.usage.cache_read_input_tokens == 16
    assert start.message.usage.input_tokens == len("user: Hello!\nassistant: ") - 16
    assert delta.type == "message_delta"
    assert delta.delta.stop_reason == "max_tokens"
    assert delta.usage.output_tokens == 2
    assert delta.usage.cache_read_input_tokens == 16


async def test_the_streaming_helper(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    engine.script = says("ab", "cd")
    async with client.messages.stream(model=MODEL, max_tokens=9, messages=HELLO) as stream:
        assert [text async for text in stream.text_stream] == ["ab", "cd"]
        message = await stream.get_final_message()
        assert await stream.get_final_text() == "abcd"
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 4
    assert stream.request_id == message.id.removeprefix("msg_")


async def test_thinking(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    engine.tokenizer.thinks = True  # type: ignore[attr-defined]  # the fake's
    engine.script = says("<think>\nhm", "m\n</think>\n\n", "So.")
    settings: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 2000,
        "messages": HELLO,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    message = await client.messages.create(**settings)
    assert engine.tokenizer.variables["enable_thinking"] is True  # type: ignore[attr-defined]
    thought, text = message.content
    assert thought.type == "thinking"
    assert thought.thinking.strip() == "hmm"
    assert text.type == "text"
    assert text.text.strip() == "So."
    assert message.usage.output_tokens_details is not None
    assert 0 < message.usage.output_tokens_details.thinking_tokens < message.usage.output_tokens
    async with client.messages.stream(**settings) as stream:
        assert (await stream.get_final_message()).to_dict()["content"] == message.to_dict()[
            "content"
        ]

    settings["thinking"] = {"type": "adaptive", "display": "omitted"}
    async with client.messages.stream(**settings) as stream:
        assert (await stream.get_final_message()).to_dict()["content"] == [text.to_dict()]
    assert (await client.messages.create(**settings)).content == [text]

    settings["messages"] = [*HELLO, message.to_param(), {"role": "user", "content": "Go on."}]
    settings["thinking"] = {"type": "disabled"}
    await client.messages.create(**settings)
    assert engine.tokenizer.variables["enable_thinking"] is False  # type: ignore[attr-defined]


async def test_tools(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    engine.script = says("Let me see.\n", CALL[:30], CALL[30:60], CALL[60:])
    settings: dict[str, Any] = {"model": MODEL, "max_tokens": 200, "tools": [WEATHER]}
    message = await client.messages.create(messages=HELLO, **settings)
    text, call = message.content
    assert text.type == "text"
    assert text.text.strip() == "Let me see."
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("weather", {"city": "Köln"})
    assert message.stop_reason == "tool_use"
    assert '"weather"' in engine.submitted[0].prompt

    async with client.messages.stream(messages=HELLO, **settings) as stream:
        partial = [
            event.delta.partial_json
            async for event in stream
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta"
        ]
        streamed = await stream.get_final_message()
    assert json.loads("".join(partial)) == {"city": "Köln"}
    assert streamed.stop_reason == "tool_use"
    assert streamed.content[1].type == "tool_use"
    assert streamed.content[1].input == {"city": "Köln"}

    engine.script = says("It rains.")
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    failed: Any = {**result, "content": [{"type": "text", "text": "no net"}], "is_error": True}
    for block, said in ((result, "rain"), (failed, "Error: no net")):
        await client.messages.create(
            messages=[
                *HELLO,
                message.to_param(),
                {"role": "user", "content": [block, {"type": "text", "text": "Well?"}]},
            ],
            **settings,
        )
        prompt = engine.submitted[-1].prompt
        assert f"tool: {said}\nuser: Well?\nassistant: " in prompt
        assert (
            json.dumps({"city": "Köln"}, ensure_ascii=False)
            in json.loads(prompt.partition("call: ")[2].partition("\n")[0])["function"]["arguments"]
        )


@pytest.mark.parametrize(
    ("choice", "is_constrained"),
    [
        ({"type": "auto"}, False),
        ({"type": "auto", "disable_parallel_tool_use": True}, True),
        ({"type": "any"}, True),
        ({"type": "tool", "name": "weather"}, True),
        ({"type": "none"}, False),
    ],
)
async def test_tool_choice(
    client: anthropic.AsyncAnthropic,
    engine: FakeEngine,
    choice: Any,
    is_constrained: bool,
) -> None:
    engine.script = says(CALL)
    message = await client.messages.create(
        model=MODEL, max_tokens=99, messages=HELLO, tools=[WEATHER], tool_choice=choice
    )
    assert (engine.submitted[0].params.grammar is not None) == is_constrained
    expected = "text" if choice["type"] == "none" else "tool_use"
    assert [block.type for block in message.content] == [expected]
    assert engine.submitted[0].hints.returns_soon == (choice["type"] != "none")


async def test_a_call_that_was_cut_off_is_none(
    client: anthropic.AsyncAnthropic, engine: FakeEngine
) -> None:
    engine.script = says("So: ", CALL[:50], finish_reason="length")
    message = await client.messages.create(
        model=MODEL, max_tokens=9, messages=HELLO, tools=[WEATHER]
    )
    assert message.stop_reason == "max_tokens"
    assert all(block.type != "tool_use" for block in message.content)


async def test_the_tool_runner(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    @beta_async_tool
    async def weather(city: str) -> str:
        """Tells the weather.

        Args:
            city: where
        """
        return f"rain in {city}"

    def script(submitted: Submitted) -> Any:
        return says("Wet." if "rain in Köln" in submitted.prompt else CALL)(submitted)

    engine.script = script
    runner = client.beta.messages.tool_runner(
        model=MODEL, max_tokens=99, messages=[{"role": "user", "content": "Hi"}], tools=[weather]
    )
    final = await runner.until_done()
    assert len(engine.submitted) == 2
    assert final.content[0].type == "text"
    assert final.content[0].text == "Wet."


class Answer(BaseModel):
    city: str
    rains: bool


async def test_structured_outputs(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    engine.script = says('{"city": "Köln",', ' "rains": true}')
    message = await client.messages.parse(
        model=MODEL, max_tokens=99, messages=HELLO, output_format=Answer
    )
    assert message.parsed_output == Answer(city="Köln", rains=True)
    grammar = engine.submitted[0].params.grammar
    assert grammar is not None
    assert "rains" in grammar.source
    async with client.messages.stream(
        model=MODEL, max_tokens=99, messages=HELLO, output_format=Answer
    ) as stream:
        assert (await stream.get_final_message()).parsed_output == message.parsed_output


async def test_prefill(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    await client.messages.create(
        model=MODEL,
        max_tokens=2,
        messages=[*HELLO, {"role": "assistant", "content": "The answer is ("}],
    )
    assert engine.submitted[0].prompt == "user: Hello!\nassistant: The answer is ("
    assert engine.submitted[0].continues_prompt
    await client.messages.create(
        model=MODEL, max_tokens=2, messages=[*HELLO, {"role": "assistant", "content": ""}]
    )
    assert engine.submitted[1].prompt == "user: Hello!\nassistant: "
    assert not engine.submitted[1].continues_prompt


async def test_counting_tokens(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    system = "Ä. " * 3
    counted = await client.messages.count_tokens(
        model=MODEL, messages=HELLO, system=system, tools=[WEATHER]
    )
    message = await client.messages.create(
        model=MODEL, messages=HELLO, system=system, tools=[WEATHER], max_tokens=1
    )
    assert counted.input_tokens == len(engine.submitted[0].prompt_ids)
    assert counted.input_tokens == (
        message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    )
    assert len(engine.submitted) == 1


async def test_breakpoints_are_marks_and_usage_is_honest(
    client: anthropic.AsyncAnthropic, engine: FakeEngine
) -> None:
    document = "A long document. " * 5
    message = await client.messages.create(
        model=MODEL,
        max_tokens=2,
        system=[
            {
                "type": "text",
                "text": "Be brief.",
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            }
        ],
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": document, "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": "What does it say?"},
                ],
            }
        ],
    )
    prompt = engine.submitted[0].prompt
    # Where the first turn begins, and where the question does.
    head = len("system: Be brief.\nuser: ")
    deep = prompt.index("\nWhat does") + 1
    assert engine.submitted[0].hints.marks == (
        PrefixMark(num_tokens=head, keep_s=3600.0),
        PrefixMark(num_tokens=deep, keep_s=300.0),
    )
    usage = message.usage
    assert usage.cache_read_input_tokens == 16
    assert usage.cache_creation_input_tokens == deep - 16
    assert usage.input_tokens == len(prompt) - deep
    assert usage.cache_creation is not None
    assert usage.cache_creation.ephemeral_1h_input_tokens == head - 16
    assert usage.cache_creation.ephemeral_5m_input_tokens == deep - head


async def test_a_mark_on_the_whole_request(
    client: anthropic.AsyncAnthropic, engine: FakeEngine
) -> None:
    message = await client.messages.create(
        model=MODEL, max_tokens=2, messages=HELLO, cache_control={"type": "ephemeral"}
    )
    num_tokens = len(engine.submitted[0].prompt_ids)
    assert engine.submitted[0].hints.marks == (PrefixMark(num_tokens=num_tokens, keep_s=300.0),)
    assert message.usage.input_tokens == 0
    assert message.usage.cache_creation_input_tokens == num_tokens - 16


async def test_warming_the_cache_up(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    message = await client.messages.create(model=MODEL, max_tokens=0, messages=HELLO)
    assert engine.submitted[0].params.max_tokens == 1
    assert message.content == []
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 0
    # The one token that came out of it may be the end.
    engine.script = says("x")
    message = await client.messages.create(model=MODEL, max_tokens=0, messages=HELLO)
    assert (message.stop_reason, message.content) == ("max_tokens", [])


async def test_a_header_for_somebodys_accounts_is_not_for_the_model(
    client: anthropic.AsyncAnthropic, engine: FakeEngine
) -> None:
    header = "x-anthropic-billing-header: cc_version=2.1; cch=%s;"
    for number in ("a1", "b2"):
        await client.messages.create(
            model=MODEL,
            max_tokens=2,
            messages=HELLO,
            system=[
                {"type": "text", "text": header % number},
                {"type": "text", "text": "Be brief."},
            ],
        )
    await client.messages.create(
        model=MODEL, max_tokens=2, messages=HELLO, system=header % "c3" + "\nBe brief."
    )
    assert {each.prompt for each in engine.submitted} == {
        "system: Be brief.\nuser: Hello!\nassistant: "
    }


async def test_extras_travel_in_the_extra_body(
    client: anthropic.AsyncAnthropic, engine: FakeEngine
) -> None:
    message = await client.messages.create(
        model=MODEL,
        max_tokens=2,
        messages=HELLO,
        extra_body={"cache_salt": "s", "cache_report": True, "seed": 3, "ignore_eos": True},
    )
    assert engine.submitted[0].namespace == "s"
    assert (engine.submitted[0].params.seed, engine.submitted[0].params.ignore_eos) == (3, True)
    assert message.model_dump()["cache_report"]["prompt_tokens"] > 0


async def test_errors_become_the_clients_own(
    client: anthropic.AsyncAnthropic, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"max_tokens": 2, "messages": HELLO}
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.messages.create(model="claude", **settings)
    assert (missing.value.type, missing.value.error_code) == ("not_found_error", "model_not_found")
    assert missing.value.request_id == missing.value.response.headers["x-request-id"]
    with pytest.raises(anthropic.BadRequestError, match="temperature") as bad:
        await client.messages.create(model=MODEL, extra_body={"temperature": -1}, **settings)
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(anthropic.BadRequestError, match="stop_sequences"):
        await client.messages.create(model=MODEL, stop_sequences=[""], **settings)

    async def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OverloadedError("the queue is full", retry_after_s=2.5)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "submit", refuse)
        with pytest.raises(anthropic.RateLimitError) as full:
            await client.messages.create(model=MODEL, **settings)
        assert full.value.type == "rate_limit_error"
        assert full.value.response.headers["retry-after"] == "3"

    engine.is_draining = True
    with pytest.raises(anthropic.ServiceUnavailableError) as draining:
        await client.messages.create(model=MODEL, **settings)
    assert draining.value.type == "overloaded_error"
    engine.is_draining = False

    engine.script = fails("ab", "the runner broke")
    with pytest.raises(anthropic.APIStatusError) as broken:
        async with client.messages.stream(model=MODEL, **settings) as stream:
            await stream.until_done()
    assert (broken.value.type, broken.value.api_message) == ("api_error", "the runner broke")
    with pytest.raises(anthropic.InternalServerError) as failed:
        await client.messages.create(model=MODEL, **settings)
    assert failed.value.type == "api_error"


async def test_raw_responses(client: anthropic.AsyncAnthropic) -> None:
    raw = await client.messages.with_raw_response.create(
        model=MODEL, max_tokens=2, messages=HELLO, extra_headers={"anthropic-beta": "x-2026-01-01"}
    )
    assert raw.headers["request-id"]
    message = await raw.parse()
    assert message.id == f"msg_{raw.headers['request-id']}"


async def test_the_sync_client(server: RunningServer, engine: FakeEngine) -> None:
    def talk() -> tuple[str, str, int]:
        with anthropic.Anthropic(
            base_url=server.url, api_key="none", max_retries=0, timeout=TIMEOUT_S
        ) as client:
            message = client.messages.create(model=MODEL, max_tokens=4, messages=HELLO)
            with client.messages.stream(model=MODEL, max_tokens=4, messages=HELLO) as stream:
                text = "".join(stream.text_stream)
            counted = client.messages.count_tokens(model=MODEL, messages=HELLO)
            assert message.content[0].type == "text"
            return message.content[0].text, text, counted.input_tokens

    expected = ("abcd", "abcd", len("user: Hello!\nassistant: "))
    assert await asyncio.to_thread(talk) == expected
