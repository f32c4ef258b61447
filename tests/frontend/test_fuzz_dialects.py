"""Arbitrary JSON, and good requests with arbitrary damage, to ``/v1/messages`` and
``/v1/responses``: never a 500, never a broken shape, and of many faults one is found."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from radixserve_frontend.anthropic.schema import CountTokensRequest, MessagesRequest
from radixserve_frontend.app import create_app
from radixserve_frontend.openai.responses.schema import ResponsesRequest
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import error_of
from tests.frontend.http_fixtures import MODEL, calling, config_of
from tests.frontend.test_fuzz_requests import JSON, TEXT

MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"

CACHE_CONTROL = st.fixed_dictionaries(
    {"type": st.just("ephemeral")}, optional={"ttl": st.sampled_from(["5m", "1h", 3, None])}
)
IDS = st.sampled_from(["1", "2"])


def kind(name: str, required: dict[str, Any], **optional: Any) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"type": st.just(name), **required}, optional=optional)


TEXT_BLOCK = kind("text", {"text": TEXT}, cache_control=CACHE_CONTROL | JSON)
BLOCK = st.one_of(
    TEXT_BLOCK,
    kind("thinking", {"thinking": TEXT}),
    kind("tool_use", {"id": IDS, "name": TEXT, "input": st.dictionaries(TEXT, JSON)}),
    kind("tool_result", {"tool_use_id": IDS}, content=TEXT | st.lists(TEXT_BLOCK, max_size=2)),
    kind("image", {"source": JSON}),
    JSON,
)
PART = st.one_of(
    kind("input_text", {"text": TEXT}, cache_control=CACHE_CONTROL),
    kind("output_text", {"text": TEXT}, annotations=JSON, logprobs=JSON),
    kind("refusal", {"refusal": TEXT}),
    JSON,
)
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | TEXT},
    optional={"content": TEXT | st.lists(BLOCK, max_size=3) | JSON},
)
ITEM = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "developer"])},
        optional={"content": TEXT | st.lists(PART, max_size=3) | JSON},
    ),
    kind("function_call", {"call_id": IDS, "name": TEXT, "arguments": TEXT}),
    kind("function_call_output", {"call_id": IDS, "output": TEXT | st.lists(PART, max_size=2)}),
    kind("reasoning", {}, summary=JSON, content=JSON, id=TEXT),
    JSON,
)
NAMES = st.sampled_from(["f", "g", ""])
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(TURN, min_size=1, max_size=4),
    "input": TEXT | st.lists(ITEM, min_size=1, max_size=4),
    "max_tokens": st.integers(-1, 6000),
    "max_output_tokens": st.integers(-1, 50),
    "system": TEXT | st.lists(TEXT_BLOCK, max_size=2),
    "stream": st.booleans(),
    "temperature": st.floats(-1, 3),
    "stop_sequences": st.lists(TEXT, max_size=3),
    "cache_control": CACHE_CONTROL,
    "tool_choice": st.fixed_dictionaries(
        {"type": st.sampled_from(["auto", "any", "tool", "none", "function"])},
        optional={"name": NAMES},
    )
    | st.sampled_from(["auto", "required", "none"]),
    "tools": st.lists(
        st.fixed_dictionaries(
            {"name": NAMES},
            optional={
                "type": st.sampled_from(["function", "custom", "web_search"]),
                "input_schema": st.dictionaries(TEXT, JSON),
                "parameters": st.dictionaries(TEXT, JSON),
                "strict": st.booleans(),
            },
        ),
        max_size=2,
    ),
    "text": st.fixed_dictionaries(
        {"format": kind("json_schema", {"name": TEXT, "schema": st.dictionaries(TEXT, JSON)})}
    ),
}


def bodies(request: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {
        name: PLAUSIBLE.get(name, JSON) | JSON for name in request.model_fields if name != "model"
    }
    required: dict[str, st.SearchStrategy[Any]] = {
        name: PLAUSIBLE[name] for name in ("messages", "input", "max_tokens") if name in fields
    }
    required["model"] = st.just(MODEL)
    optional = {name: field for name, field in fields.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional) | JSON


def send(path: str, content: str) -> httpx.Response:
    async def call() -> httpx.Response:
        async with calling(create_app(FakeEngine(), config_of())) as client:
            # Not json=...: httpx cannot encode a lone surrogate, an attacker can.
            headers = {"Content-Type": "application/json"}
            return await client.post(path, content=content, headers=headers)

    return asyncio.run(call())


def check(path: str, body: Any) -> None:
    response = send(path, json.dumps(body))
    if response.status_code == 200:
        return
    assert response.status_code in (400, 404), response.text
    if path == RESPONSES:
        error_of(response, response.status_code)
    else:
        assert response.json()["type"] == "error"
        assert response.json()["error"]["message"]
        assert len(response.content) < 3000


@settings(max_examples=60, deadline=None)
@given(bodies(MessagesRequest))
def test_messages(body: Any) -> None:
    check(MESSAGES, body)


@settings(max_examples=20, deadline=None)
@given(bodies(CountTokensRequest))
def test_count_tokens(body: Any) -> None:
    check(f"{MESSAGES}/count_tokens", body)


@settings(max_examples=60, deadline=None)
@given(bodies(ResponsesRequest))
def test_responses(body: Any) -> None:
    check(RESPONSES, body)


MANY = 1000
GOOD: dict[type[BaseModel], dict[str, Any]] = {
    MessagesRequest: {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    ResponsesRequest: {"input": "x"},
}
FAULTS: dict[str, tuple[type[BaseModel], dict[str, Any]]] = {
    "blocks": (MessagesRequest, {"messages": [{"role": "user", "content": [0] * MANY}]}),
    "kinds": (
        MessagesRequest,
        {"messages": [{"role": "user", "content": [{"type": "x"}] * MANY}]},
    ),
    "turns": (MessagesRequest, {"messages": [0] * MANY}),
    "tools": (MessagesRequest, {"tools": [0] * MANY}),
    "system": (MessagesRequest, {"system": [{"type": "x"}] * MANY}),
    "stops": (MessagesRequest, {"stop_sequences": [0] * MANY}),
    "edits": (MessagesRequest, {"context_management": {"edits": [0] * MANY}}),
    "fields": (MessagesRequest, {str(number): 0 for number in range(MANY)}),
    "items": (ResponsesRequest, {"input": [0] * MANY}),
    "parts": (ResponsesRequest, {"input": [{"role": "user", "content": [0] * MANY}]}),
    "thoughts": (
        ResponsesRequest,
        {"input": [{"type": "reasoning", "summary": [0] * MANY, "content": [0] * MANY}]},
    ),
    "tools of responses": (ResponsesRequest, {"tools": [{"type": "x"}] * MANY}),
    "metadata": (ResponsesRequest, {"metadata": {str(number): 0 for number in range(MANY)}}),
    "long metadata": (ResponsesRequest, {"metadata": {str(number): "" for number in range(MANY)}}),
    "include": (ResponsesRequest, {"include": [0] * MANY}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_of_many_faults_few_are_found(name: str) -> None:
    """An error for each takes seconds and hundreds of megabytes, of a body of some megabytes."""
    model, faults = FAULTS[name]
    model.model_validate({"model": MODEL, **GOOD[model]})
    with pytest.raises(ValidationError) as refused:
        model.model_validate({"model": MODEL, **GOOD[model], **faults})
    assert refused.value.error_count() <= 3


@pytest.mark.parametrize("path", [MESSAGES, RESPONSES])
@pytest.mark.parametrize("depth", [100, 5000, 200_000])
def test_deep_nesting_is_refused(path: str, depth: int) -> None:
    deep = '{"a":' * depth + "1" + "}" * depth
    for where in (
        f'"messages": [{{"role": "assistant", "content": [{{"type": "tool_use", "id": "1", '
        f'"name": "f", "input": {deep}}}]}}], "max_tokens": 1',
        f'"input": "x", "tools": [{{"type": "function", "name": "f", "parameters": {deep}}}]',
        f'"input": [{{"role": "assistant", "content": [{{"type": "output_text", "text": "x", '
        f'"logprobs": [{deep}]}}]}}], "metadata": {deep}',
    ):
        assert send(path, f'{{"model": "{MODEL}", {where}}}').status_code == 400
