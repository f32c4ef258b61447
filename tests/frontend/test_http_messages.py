"""``/v1/messages`` as bytes: frames, error bodies, and what is refused in which words."""

import json
from typing import Any

import httpx
import pytest

from radixserve_frontend.app import create_app
from radixserve_frontend.key_store import KeyStore
from tests.frontend.fake_engine import FakeEngine, fails, says
from tests.frontend.http_calls import MESSAGES, post
from tests.frontend.http_fixtures import MODEL, calling, config_of

PATH = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
KEYS = "ann:a-secret-of-ann-0123"


async def send(engine: FakeEngine | None = None, **body: Any) -> httpx.Response:
    return await post(
        engine or FakeEngine(), PATH, **{"messages": MESSAGES, "max_tokens": 9, **body}
    )


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert body["type"] == "error"
    error = body["error"]
    assert isinstance(error, dict)
    assert error["message"]
    return error


async def test_frames() -> None:
    response = await send(FakeEngine(says("a", "b")), stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    names = []
    for frame in response.text.removesuffix("\n\n").split("\n\n"):
        event, data = frame.split("\n")
        names.append(event.removeprefix("event: "))
        assert json.loads(data.removeprefix("data: "))["type"] == names[-1]
    assert names == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


async def test_an_error_before_the_first_token_is_the_only_event() -> None:
    response = await send(FakeEngine(fails("", "it broke")), stream=True)
    assert response.text.startswith("event: error\ndata: ")
    body = json.loads(response.text.partition("data: ")[2])
    assert body["error"] == {
        "type": "api_error",
        "message": "it broke",
        "details": {"error_code": "generation_failed"},
    }
    assert body["request_id"] == response.headers["request-id"]
    assert response.text.count("event: ") == 1


IMAGE = {"type": "image", "source": {"type": "url", "url": "x"}}
USE = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "1"}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
MARKED = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}


def turns(*contents: Any) -> list[dict[str, Any]]:
    """Turns by turns, the user's first."""
    return [
        {"role": ("user", "assistant")[number % 2], "content": content}
        for number, content in enumerate(contents)
    ]


DEEP: Any = {}
for _ in range(70):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_tokens": None}, "max_tokens: expected an integer"),
        ({"max_tokens": "9"}, "max_tokens: expected an integer, got a string"),
        ({"messages": []}, "messages: has 0 entries"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": turns([IMAGE])}, "messages[0].content[0]: content blocks of type 'image'"),
        ({"messages": turns([{"type": "document"}])}, "'document' are not supported"),
        ({"messages": turns([{"text": "a"}])}, "messages[0].content[0]: must be an object"),
        ({"messages": turns(7)}, "messages[0].content: must be a string or an array"),
        ({"messages": turns([{"type": "text"}])}, "messages[0].content[0].text: this field"),
        ({"messages": turns([USE])}, "only the assistant's turns have tool_use"),
        ({"messages": turns("a", [RESULT])}, "only the user's turns have tool_result"),
        ({"messages": turns([RESULT])}, "tool_use_id is '1', which no tool_use before has"),
        ({"messages": turns("a", [USE, USE], [RESULT])}, "content[1].id is '1', as another"),
        ({"messages": turns("a", [USE])}, "calls the tool '1' and nothing follows"),
        (
            {"messages": turns("a", [USE], [{**RESULT, "content": [IMAGE]}])},
            "tool results of type 'image' are not supported",
        ),
        ({"messages": turns("a", [{**USE, "input": DEEP}], [RESULT])}, "nested more than 64"),
        ({"system": [IMAGE]}, "system[0]: system blocks of type 'image'"),
        ({"tools": [{"type": "web_search_20250305", "name": "x"}]}, "tools[0]"),
        (
            {"tools": [{**TOOL, "type": "bash_20250124"}]},
            "tools of type 'bash_20250124' are not supported",
        ),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.name is missing"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "none of the tools"),
        ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens: is 0"),
        ({"thinking": {"type": "hard"}}, "thinking.type"),
        ({"output_config": {"format": {"type": "json_schema", "schema": DEEP}}}, "nested more"),
        ({"cache_control": {"type": "eternal"}}, "cache_control.type"),
        ({"cache_control": {"type": "ephemeral", "ttl": "1d"}}, 'must be "5m", "1h" or a number'),
        ({"messages": turns([MARKED] * 5)}, "5 blocks have cache_control; at most 4 may"),
        # The fifth is the last one looked at: each holds all that is before it.
        ({"messages": turns([MARKED] * 9)}, "5 blocks have cache_control; at most 4 may"),
        ({"mcp_servers": [{"url": "x"}]}, "this feature is not supported"),
        ({"container": "c"}, "this feature is not supported"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "edits of type 'clear_tool_uses_20250919' are not supported",
        ),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"top_p": 2.0}, "top_p"),
        ({"thread": {"type": "create"}}, "send the whole conversation"),
        ({"zzz": 1}, "zzz: unknown field"),
    ],
)
async def test_refusals(changes: dict[str, Any], words: str) -> None:
    error = error_of(await send(**changes), 400)
    assert error["type"] == "invalid_request_error"
    assert words in error["message"]


async def test_what_is_harmless_is_accepted() -> None:
    engine = FakeEngine()
    response = await send(
        engine,
        metadata={"user_id": "x"},
        service_tier="standard_only",
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
        tools=[
            {
                **TOOL,
                "type": "custom",
                "strict": False,
                "input_examples": [{}],
                "eager_input_streaming": True,
            }
        ],
        messages=turns(
            "a",
            [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "zzz"},
                {"type": "text", "text": "b", "citations": None},
                {**USE, "caller": {"type": "direct"}},
            ],
            [RESULT, {"type": "text", "text": "c"}],
            "d",
            "e",
        ),
    )
    assert response.status_code == 200, response.text
    prompt = engine.submitted[0].prompt
    assert "zzz" not in prompt
    assert "user: a\nassistant: b\ncall: " in prompt
    assert prompt.endswith("tool: \nuser: c\nassistant: d\nuser: e\nassistant: ")


async def test_neighbours_of_one_role_are_one_turn() -> None:
    engine = FakeEngine()
    same = [{"role": "user", "content": "a"}, {"role": "user", "content": [MARKED]}]
    await send(
        engine, messages=[*same, *turns("b", "c")[1:], {"role": "assistant", "content": "d"}]
    )
    assert engine.submitted[0].prompt == "user: a\na\nassistant: cd"


async def test_errors_of_http_have_the_shape_too() -> None:
    async with calling(create_app(FakeEngine(), config_of(max_body_bytes=1024))) as client:
        for path in (PATH, COUNT):
            large = await client.post(path, content=b"x" * 2000, headers={"Content-Type": "a/json"})
            assert error_of(large, 415)["type"] == "invalid_request_error"
            large = await client.post(path, json={"model": "x" * 2000})
            assert error_of(large, 413)["type"] == "request_too_large"
            assert error_of(await client.post(path, content=b"{"), 400)["message"]
            assert error_of(await client.get(path), 405)["message"]


@pytest.mark.parametrize("path", [PATH, COUNT])
async def test_keys(path: str) -> None:
    config = config_of(api_keys=KEYS)
    app = create_app(FakeEngine(), config, keys=KeyStore(None, KEYS))
    body: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}
    if path == PATH:
        body["max_tokens"] = 2
    async with calling(app) as client:
        refused = await client.post(path, json=body)
        assert error_of(refused, 401)["type"] == "authentication_error"
        headers = {"x-api-key": KEYS.partition(":")[2]}
        assert (await client.post(path, json=body, headers=headers)).status_code == 200


async def test_counting_needs_no_engine_but_a_good_request() -> None:
    engine = FakeEngine()
    response = await post(engine, COUNT, messages=MESSAGES)
    assert response.json() == {"input_tokens": len("user: Hello!\nassistant: ")}
    assert engine.submitted == []
    error_of(await post(engine, COUNT, messages=MESSAGES, max_tokens=3), 400)
    error_of(await post(engine, COUNT, messages=turns([IMAGE])), 400)
    assert error_of(await post(engine, COUNT, messages=MESSAGES, model="x"), 404)["type"] == (
        "not_found_error"
    )
    engine.is_draining = True
