"""Short ways to say what tests say often: post this, parse that stream."""

import json
from typing import Any

import httpx

from radixserve_frontend.app import create_app
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_fixtures import MODEL, calling, config_of

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hello!"}]
PROMPT = "user: Hello!\nassistant: "
"""What the fake template makes of ``MESSAGES``."""


async def post(engine: FakeEngine, path: str, /, **body: Any) -> httpx.Response:
    """Send ``body``, with the right model, to an app over ``engine``."""
    async with calling(create_app(engine, config_of())) as client:
        return await client.post(path, json={"model": MODEL, **body})


async def chat(engine: FakeEngine, **body: Any) -> httpx.Response:
    """Ask for a chat completion of ``MESSAGES``."""
    return await post(engine, CHAT, **{"messages": MESSAGES, **body})


async def complete(engine: FakeEngine, **body: Any) -> httpx.Response:
    """Ask for a completion of "Hello"."""
    return await post(engine, COMPLETIONS, **{"prompt": "Hello", **body})


def events_of(response: httpx.Response) -> list[Any]:
    """A stream's events, parsed; its end marker as the string "[DONE]"."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    events: list[Any] = []
    for block in response.text.split("\n\n"):
        if block:
            assert block.startswith("data: "), block
            data = block.removeprefix("data: ")
            events.append(data if data == "[DONE]" else json.loads(data))
    return events


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error object of a response that must be an error in OpenAI's shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert len(response.content) < 3000
    assert isinstance(error, dict)
    return error
