"""Arbitrary JSON, and good requests with arbitrary damage: never a 500, never a broken shape."""

import asyncio
import json
from typing import Any

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from radixserve_frontend.app import create_app
from radixserve_frontend.openai.schema import ChatRequest, CompletionRequest
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, COMPLETIONS, error_of
from tests.frontend.http_fixtures import MODEL, calling, config_of

TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={"role": st.sampled_from(["user", "assistant", "x"]) | JSON, "content": TEXT | JSON},
)
FUNCTION = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "g"]) | TEXT},
    optional={"parameters": st.dictionaries(TEXT, JSON, max_size=3), "strict": st.booleans()},
)
FORMAT = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "json_object", "json_schema"])},
    optional={"json_schema": st.fixed_dictionaries({"name": TEXT, "schema": JSON})},
)
# Mostly plausible values for the fields that there are, so that damage is met one at a time.
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.lists(MESSAGE, min_size=1, max_size=3),
    "prompt": TEXT | st.lists(TEXT) | st.lists(st.integers(-1, 300)),
    "n": st.integers(-1, 5),
    "max_tokens": st.integers(-1, 50),
    "temperature": st.floats(-1, 3),
    "stream": st.booleans(),
    "stop": TEXT | st.lists(TEXT),
    "logprobs": st.booleans() | st.integers(-1, 21),
    "tools": st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION})),
    "tool_choice": st.sampled_from(["auto", "none", "required"]) | JSON,
    "response_format": FORMAT | JSON,
    "structured_outputs": st.dictionaries(st.sampled_from(["json", "regex", "choice"]), JSON),
    "logit_bias": st.dictionaries(TEXT | st.integers(-1, 300).map(str), st.floats(-120, 120)),
}


def bodies(request: type[BaseModel]) -> st.SearchStrategy[Any]:
    fields = {
        name: PLAUSIBLE.get(name, JSON) | JSON for name in request.model_fields if name != "model"
    }
    required: dict[str, st.SearchStrategy[Any]] = {
        name: fields.pop(name) for name in ("messages", "prompt") if name in fields
    }
    required["model"] = st.just(MODEL)
    return st.fixed_dictionaries(required, optional=fields) | JSON


def check(path: str, body: Any) -> None:
    async def send() -> httpx.Response:
        async with calling(create_app(FakeEngine(), config_of())) as client:
            # Not json=...: httpx cannot encode a lone surrogate, an attacker can.
            headers = {"Content-Type": "application/json"}
            return await client.post(path, content=json.dumps(body), headers=headers)

    response = asyncio.run(send())
    if response.status_code != 200:
        assert response.status_code in (400, 404), response.text
        error_of(response, response.status_code)


@settings(max_examples=120, deadline=None)
@given(bodies(ChatRequest))
def test_chat(body: Any) -> None:
    check(CHAT, body)


@settings(max_examples=120, deadline=None)
@given(bodies(CompletionRequest))
def test_completions(body: Any) -> None:
    check(COMPLETIONS, body)
