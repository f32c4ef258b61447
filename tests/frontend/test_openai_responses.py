"""``/v1/responses`` through the official client, sync and async, against a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.responses import FunctionToolParam
from pydantic import BaseModel

from radixserve.types import PrefixMark
from radixserve_frontend.app import create_app
from radixserve_frontend.key_store import KeyStore
from radixserve_frontend.openai.responses.store import ResponseStore, StoredResponse
from tests.frontend.fake_engine import FakeEngine, fails, says
from tests.frontend.http_calls import error_of, post
from tests.frontend.http_fixtures import (
    MODEL,
    TIMEOUT_S,
    RunningServer,
    calling,
    config_of,
    serving,
)

PATH = "/v1/responses"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
MARKED = {"type": "input_text", "text": "a", "cache_control": {"type": "ephemeral"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def server(engine: FakeEngine) -> AsyncIterator[RunningServer]:
    async with serving(engine) as running:
        yield running


def client_of(server: RunningServer) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
    )


@pytest.fixture
async def client(server: RunningServer) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(server) as client:
        yield client


async def test_a_response(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    response = await client.responses.create(
        model=MODEL,
        instructions="Be brief.",
        input="Hello!",
        max_output_tokens=4,
        temperature=0.5,
        top_p=0.9,
        metadata={"a": "b"},
        user="me",
    )
    assert engine.submitted[0].prompt == "system: Be brief.\nuser: Hello!\nassistant: "
    params = engine.submitted[0].params
    assert (params.temperature, params.top_p, params.max_tokens) == (0.5, 0.9, 4)
    assert response.output_text == "abcd"
    assert response.id.startswith("resp_")
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    usage = response.usage
    assert usage is not None
    assert usage.input_tokens == len(engine.submitted[0].prompt_ids)
    assert usage.input_tokens_details.cached_tokens == 16
    assert usage.input_tokens_details.cache_write_tokens == 0
    assert (usage.output_tokens, usage.total_tokens) == (4, usage.input_tokens + 4)
    # Complete enough for the client's own types, which construct without validating.
    type(response).model_validate(response.to_dict())


async def test_items(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    await client.responses.create(
        model=MODEL,
        input=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {
                "type": "reasoning",
                "id": "rs_2",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "hm"}],
            },
            {
                "type": "message",
                "role": "assistant",
                "id": "msg_1",
                "status": "completed",
                "content": [{"type": "output_text", "text": "b", "annotations": []}],
            },
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "1",
                "output": [
                    {"type": "input_text", "text": "c"},
                    {"type": "input_text", "text": "c"},
                ],
            },
            {"role": "assistant", "content": "e"},
            {"role": "user", "content": "d"},
        ],
    )
    lines = engine.submitted[0].prompt.splitlines()
    assert [line.partition("{")[0] for line in lines] == [
        "developer: Be brief.",
        "user: a",
        "assistant: b",
        "call: ",
        "tool: c",
        "c",
        "assistant: e",
        "user: d",
        "assistant: ",
    ]


async def test_effort(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    expected: dict[Any, dict[str, Any]] = {
        "none": {"reasoning_effort": "none", "enable_thinking": False, "thinking": False},
        "high": {"reasoning_effort": "high"},
        None: {},
    }
    for effort, variables in expected.items():
        response = await client.responses.create(
            model=MODEL, input="x", reasoning={"effort": effort, "summary": "auto"}
        )
        assert engine.tokenizer.variables == variables  # type: ignore[attr-defined]  # the fake's
        assert response.reasoning is not None
        assert response.reasoning.effort == effort


async def test_a_stream_event_by_event(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.tokenizer.thinks = True  # type: ignore[attr-defined]  # the fake's
    engine.script = says("<think>hm</think>", "So ", "be it.", CALL)
    stream = await client.responses.create(
        model=MODEL,
        input="x",
        tools=[WEATHER],
        stream=True,
        include=["message.output_text.logprobs"],
    )
    events = [event async for event in stream]
    for event in events:
        # The client constructs its events without validating them.
        type(event).model_validate(event.to_dict())
    assert [event.sequence_number for event in events] == list(range(len(events)))
    names = [event.type.removeprefix("response.") for event in events]
    names = [name for place, name in enumerate(names) if names[place - 1] != name]
    assert names == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == last.response.output
    thought, text, call = done
    assert thought.type == "reasoning"
    assert thought.content is not None
    assert thought.content[0].text == "hm"
    assert text.type == "message"
    assert text.content[0].type == "output_text"
    told = text.content[0].logprobs
    assert told is not None
    assert "".join(entry.token for entry in told) == text.content[0].text
    assert last.response.output_text == "So be it."
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Köln"}
    deltas = [
        event.delta for event in events if event.type == "response.function_call_arguments.delta"
    ]
    assert "".join(deltas) == call.arguments
    assert last.response.usage is not None
    assert last.response.usage.output_tokens_details.reasoning_tokens > 0


async def test_the_streaming_helper_says_what_the_answer_in_one_piece_says(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    engine.script = says("ab", "cd")
    settings: dict[str, Any] = {
        "model": MODEL,
        "input": "x",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
    }
    whole = await client.responses.create(**settings)
    async with client.responses.stream(**settings) as stream:
        async for _ in stream:
            pass
        streamed = await stream.get_final_response()
    responses: list[Any] = [whole, streamed]
    for response in responses:
        assert response.status == "completed"
        assert response.output_text == "abcd"
        (item,) = response.output
        (part,) = item.content
        assert [entry.token for entry in part.logprobs] == list("abcd")
        assert len(part.logprobs[0].top_logprobs) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_was_cut_off(
    client: openai.AsyncOpenAI, engine: FakeEngine, stream: bool
) -> None:
    engine.tokenizer.thinks = True  # type: ignore[attr-defined]  # the fake's
    engine.script = says("<think>hm</think>", "So", finish_reason="length")
    settings: dict[str, Any] = {
        "model": MODEL,
        "input": "x",
        "include": ["message.output_text.logprobs"],
    }
    response: Any
    if stream:
        events = [event async for event in await client.responses.create(stream=True, **settings)]
        assert events[-1].type == "response.incomplete"
        response = events[-1].response
        done = [event.item for event in events if event.type == "response.output_item.done"]
        assert done == response.output
    else:
        response = await client.responses.create(**settings)
    assert response.status == "incomplete"
    thought, text = response.output
    # Only the last item was cut off; and only what the text says has its odds told.
    assert (thought.status, text.status) == ("completed", "incomplete")
    assert [entry.token for entry in text.content[0].logprobs] == ["S", "o"]


async def test_a_stream_that_fails(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    for said in ("ab", ""):
        engine.script = fails(said, "the runner broke")
        stream = await client.responses.create(model=MODEL, input="x", stream=True)
        *_, error, failed = [event async for event in stream]
        assert error.type == "error"
        assert error.message == "the runner broke"
        assert failed.type == "response.failed"
        assert failed.response.status == "failed"
        assert failed.response.error is not None
        assert failed.response.error.message == "the runner broke"
        assert failed.response.output_text == said
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(failed.response.id)


class Answer(BaseModel):
    city: str
    rains: bool


async def test_parse(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    engine.script = says('{"city": "Köln",', ' "rains": true}')
    response = await client.responses.parse(model=MODEL, input="x", text_format=Answer)
    assert response.output_parsed == Answer(city="Köln", rains=True)
    grammar = engine.submitted[0].params.grammar
    assert grammar is not None
    assert "rains" in grammar.source
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"
    async with client.responses.stream(model=MODEL, input="x", text_format=Answer) as stream:
        assert (await stream.get_final_response()).output_parsed == response.output_parsed
    await client.responses.create(model=MODEL, input="x", text={"format": {"type": "json_object"}})
    assert engine.submitted[-1].params.grammar is not None


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "name": "weather"}])
async def test_tools_and_their_results(
    client: openai.AsyncOpenAI, engine: FakeEngine, choice: Any
) -> None:
    engine.script = says(CALL)
    first = await client.responses.create(
        model=MODEL, input="Hi", tools=[WEATHER], tool_choice=choice
    )
    assert (engine.submitted[0].params.grammar is None) == (choice == "auto")
    (call,) = first.output
    assert call.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    engine.script = says("Wet.")
    # By what is stored, or by sending it all again: the same prompt.
    await client.responses.create(
        model=MODEL,
        previous_response_id=first.id,
        input=[output],
        tools=[WEATHER],
    )
    everything: Any = [{"role": "user", "content": "Hi"}, call.to_dict(), output]
    await client.responses.create(model=MODEL, input=everything, tools=[WEATHER])
    assert engine.submitted[1].prompt == engine.submitted[2].prompt
    assert engine.submitted[1].prompt.endswith("tool: rain\nassistant: ")


async def test_going_on_from_a_stored_response(
    client: openai.AsyncOpenAI, engine: FakeEngine
) -> None:
    first = await client.responses.create(
        model=MODEL, input="One", instructions="Be brief.", max_output_tokens=3
    )
    second = await client.responses.create(
        model=MODEL, input="Two", previous_response_id=first.id, max_output_tokens=2
    )
    assert second.previous_response_id == first.id
    await client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": "Three"}],
        previous_response_id=second.id,
        instructions="Be kind.",
    )
    # And back to where one can branch, with words put into the assistant's mouth.
    await client.responses.create(
        model=MODEL,
        input=[{"role": "assistant", "content": "Hm."}, {"role": "user", "content": "Other"}],
        previous_response_id=first.id,
    )
    assert [each.prompt for each in engine.submitted] == [
        "system: Be brief.\nuser: One\nassistant: ",
        "user: One\nassistant: abc\nuser: Two\nassistant: ",
        "system: Be kind.\nuser: One\nassistant: abc\nuser: Two\nassistant: ab\nuser: Three\n"
        "assistant: ",
        "user: One\nassistant: abc\nassistant: Hm.\nuser: Other\nassistant: ",
    ]


async def test_what_is_stored(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(
        model=MODEL,
        input=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        max_output_tokens=3,
    )
    assert await client.responses.retrieve(response.id) == response
    listed = await client.responses.input_items.list(response.id, order="asc", limit=1)
    assert listed.has_more
    items: list[Any] = [item async for item in listed]
    assert [item.type for item in items] == ["message", "message"]
    assert [item.content[0].text for item in items] == ["a", "b"]
    newest = await client.responses.input_items.list(response.id)
    assert [item.id for item in newest.data] == [item.id for item in reversed(items)]
    await client.responses.delete(response.id)
    for look in (
        client.responses.retrieve(response.id),
        client.responses.delete(response.id),
        client.responses.input_items.list(response.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await look
    with pytest.raises(openai.BadRequestError) as unknown:
        await client.responses.create(model=MODEL, input="x", previous_response_id=response.id)
    assert unknown.value.code == "previous_response_not_found"
    assert unknown.value.param == "previous_response_id"


async def test_what_is_not_stored(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    response = await client.responses.create(model=MODEL, input="a", store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    async with (
        serving(engine, config_of(max_stored_responses=0)) as forgetful,
        client_of(forgetful) as other,
    ):
        response = await other.responses.create(model=MODEL, input="a")
        with pytest.raises(openai.NotFoundError):
            await other.responses.retrieve(response.id)


async def test_a_tenant_reads_nobody_elses() -> None:
    keys = "ann:a-secret-of-ann-0123,ben:a-secret-of-ben-0123"
    app = create_app(FakeEngine(), config_of(api_keys=keys), keys=KeyStore(None, keys))
    ann, ben = ({"x-api-key": key.partition(":")[2]} for key in keys.split(","))
    async with calling(app) as http:
        body = {"model": MODEL, "input": "a"}
        name = (await http.post(PATH, json=body, headers=ann)).json()["id"]
        assert (await http.get(f"{PATH}/{name}", headers=ann)).status_code == 200
        for call in (
            http.get(f"{PATH}/{name}", headers=ben),
            http.get(f"{PATH}/{name}/input_items", headers=ben),
            http.delete(f"{PATH}/{name}", headers=ben),
        ):
            error_of(await call, 404)
        going_on = {**body, "previous_response_id": name}
        refused = error_of(await http.post(PATH, json=going_on, headers=ben), 400)
        assert refused["code"] == "previous_response_not_found"
        assert (await http.post(PATH, json=going_on, headers=ann)).status_code == 200
        # An id that a client may choose is no way to another's, or over one's own.
        fixed = {**ann, "X-Request-Id": "mine"}
        twice = [(await http.post(PATH, json=body, headers=fixed)).json()["id"] for _ in range(2)]
        assert len(set(twice)) == 2


async def test_marks(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    document: Any = {
        "type": "input_text",
        "text": "A long document.",
        "prompt_cache_breakpoint": {"mode": "explicit"},
    }
    question: Any = {
        "type": "input_text",
        "text": "Yes?",
        "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"},
    }
    response = await client.responses.create(
        model=MODEL,
        instructions="",
        input=[{"role": "user", "content": [document, question]}],
    )
    num_tokens = len(engine.submitted[0].prompt_ids)
    deep = len("user: A long document.\n")
    assert engine.submitted[0].hints.marks == (
        PrefixMark(num_tokens=deep, keep_s=1800.0),
        PrefixMark(num_tokens=num_tokens, keep_s=43200.0),
    )
    assert response.usage is not None
    assert response.usage.input_tokens_details.cache_write_tokens == num_tokens - 16


async def test_marks_in_anthropics_words(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    control = {"cache_control": {"type": "ephemeral", "ttl": 7}}
    said: Any = {"role": "assistant", "content": [{"type": "input_text", "text": "a", **control}]}
    await client.responses.create(
        model=MODEL,
        instructions="Be brief.",
        input=[said, {"role": "user", "content": "b"}],
        extra_body=control,
    )
    prompt = engine.submitted[0].prompt
    assert engine.submitted[0].hints.marks == (
        PrefixMark(num_tokens=prompt.index("user: "), keep_s=7.0),
        PrefixMark(num_tokens=len(prompt), keep_s=7.0),
    )
    output: Any = {
        "type": "function_call_output",
        "call_id": "1",
        "output": [{"type": "input_text", "text": "c", **control}],
    }
    call: Any = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
    await client.responses.create(model=MODEL, input=[call, output], tools=[WEATHER])
    (mark,) = engine.submitted[1].hints.marks
    assert mark.num_tokens == len(engine.submitted[1].prompt)


@pytest.mark.parametrize(
    ("changes", "param", "words"),
    [
        ({"input": None}, "input", "must be a string or an array"),
        ({"input": []}, "input", "has 0 entries"),
        ({"input": [{"type": "web_search_call"}]}, "input[0]", "'web_search_call' are not"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "'item_reference'"),
        ({"input": [{"text": "x"}]}, "input[0]", "must be an object with a type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
            "'input_image' are not supported",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "1", "output": "x"}]},
            "input[0].call_id",
            "which no function_call before has",
        ),
        (
            {"input": [{"role": "user", "content": [MARKED] * 9}]},
            "cache_control",
            # The fifth is the last one looked at: each holds all that is before it.
            "5 blocks have cache_control",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "tools of type 'web_search' are not"),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "'allowed_tools' are not"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", "formats of type 'xml'"),
        ({"temperature": -1.0}, "temperature", "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens", "max_output_tokens"),
        ({"top_logprobs": 2}, "top_logprobs", "include does not have"),
        ({"include": ["file_search_call.results"]}, "include[0]", "not supported"),
        ({"truncation": "auto"}, "truncation", "not supported"),
        ({"background": True}, "background", "not supported"),
        ({"conversation": "c"}, "conversation", "not supported"),
        ({"metadata": {"a": "x" * 513}}, "metadata", "at most 16 entries"),
        ({"previous_response_id": "resp_0"}, "previous_response_id", "is not known here"),
        ({"input": "x" * 5000}, "input", "context"),
    ],
)
async def test_refusals(changes: dict[str, Any], param: str, words: str) -> None:
    engine = FakeEngine()
    engine.script = says("x")
    error = error_of(await post(engine, PATH, **{"input": "x", **changes}), 400)
    assert error["param"] == param
    assert words in error["message"]


async def test_log_probabilities_weigh_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[StoredResponse] = []

    def put(store: ResponseStore, tenant: str, response_id: str, stored: StoredResponse) -> bool:
        kept.append(stored)
        return True

    monkeypatch.setattr(ResponseStore, "put", put)
    wanted = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    for body in ({}, wanted):
        engine = FakeEngine()
        response = await post(engine, PATH, input="x", max_output_tokens=4, **body)
        assert response.status_code == 200, response.text
    plain, scored = kept
    # Four tokens and as many alternatives; the rest is the longer body.
    (item,) = scored.response["output"]
    num_bytes = len(json.dumps(item["content"][0]["logprobs"]))
    assert scored.num_bytes - plain.num_bytes > num_bytes


async def test_listing_is_checked(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="a")
    for query in ({"limit": "0"}, {"limit": "x"}, {"limit": "101"}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError):
            await client.responses.input_items.list(response.id, extra_query=query)
    with pytest.raises(openai.BadRequestError):
        await client.responses.retrieve(response.id, stream=True)


async def test_the_sync_client_and_raw_responses(server: RunningServer) -> None:
    def talk() -> None:
        with openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
        ) as client:
            raw = client.responses.with_raw_response.create(
                model=MODEL, input="x", max_output_tokens=4
            )
            assert raw.headers["x-request-id"]
            assert raw.parse().output_text == "abcd"
            stream = client.responses.create(
                model=MODEL, input="x", max_output_tokens=4, stream=True
            )
            text = [event.delta for event in stream if event.type == "response.output_text.delta"]
            assert "".join(text) == "abcd"

    await asyncio.to_thread(talk)
