"""Answers held to a form, by the real engine: a model of random weights has no choice.

The server runs as a user starts it, with a template that knows tools and thinking.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.frontend.http_calls import CHAT, COMPLETIONS, error_of
from tests.frontend.real_server import MODEL, OPTIONS, TIMEOUT_S, Serving, running_server

CALL = (
    '<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>"
)
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}[{{ m.role }}]"
    "{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}" + CALL + "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]<think>"
    "{% if not enable_thinking %}</think>{% endif %}{% endif %}"
)
MESSAGES: list[Any] = [{"role": "user", "content": "What is the weather in Ulm?"}]


class Place(BaseModel):
    city: Literal["Köln", "Ulm"]
    is_far: bool


class Weather(BaseModel):
    """Look up the weather."""

    place: Place
    days: Literal[1, 2, 3]


TOOLS: list[Any] = [
    openai.pydantic_function_tool(Weather, name="weather"),
    openai.pydantic_function_tool(Place, name="places"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with running_server(*OPTIONS, "--chat-template", TEMPLATE) as serving:
        yield serving


@pytest.fixture
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
    ) as client:
        yield client


def ask(client: openai.OpenAI, **settings: Any) -> Any:
    settings = {"max_tokens": 200, "temperature": 1, "seed": 3, **settings}
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, **settings)


@pytest.mark.parametrize("seed", range(3))
def test_a_tool_that_must_be_called(client: openai.OpenAI, seed: int) -> None:
    answer = ask(
        client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed, n=2
    )
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls
        shapes: dict[str, type[BaseModel]] = {"weather": Weather, "places": Place}
        shapes[call.function.name].model_validate_json(call.function.arguments)


def test_a_tool_by_name_streamed(client: openai.OpenAI) -> None:
    chunks = list(
        ask(
            client,
            tools=TOOLS,
            tool_choice={"type": "function", "function": {"name": "weather"}},
            stream=True,
        )
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert calls[0].function.name == "weather"
    Weather.model_validate_json("".join(call.function.arguments for call in calls))
    assert len(calls) > 5
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_there_and_back(client: openai.OpenAI) -> None:
    first = ask(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    turns = [*MESSAGES, message, result]
    second = client.chat.completions.create(model=MODEL, messages=turns, tools=TOOLS, max_tokens=4)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    # The call renders to the very text that the model wrote, so all of it is found.
    num_said = first.usage.prompt_tokens + first.usage.completion_tokens
    assert second.usage.prompt_tokens_details.cached_tokens >= num_said - 1


def test_parse(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Weather, max_tokens=1000, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Weather)


def test_thinking_is_free_and_the_answer_is_not(client: openai.OpenAI) -> None:
    schema = {"name": "x", "schema": {"enum": ["yes", "no"]}}
    held: dict[str, Any] = {"response_format": {"type": "json_schema", "json_schema": schema}}
    # Random weights do not come to an end of thinking.
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    message = ask(client, **held, extra_body=thinking, max_tokens=40).choices[0].message
    assert message.content == ""
    assert len(message.reasoning_content) > 10
    # Here it has ended, so the answer goes on with what is asked for.
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[*MESSAGES, {"role": "assistant", "content": "<think>Hm.</think>"}],
        max_tokens=40,
        extra_body={"continue_final_message": True},
        **held,
    )
    assert json.loads(answer.choices[0].message.content or "") in ("yes", "no")


def test_other_forms(server: Serving) -> None:
    with server.client() as http:
        for body, pattern in (
            ({"regex": "[ab]{3}c"}, "[ab]{3}c"),
            ({"grammar": 'start: "x" ("y" | "z") "!"'}, "x[yz]!"),
            ({"structured_outputs": {"choice": ["left", "right"]}}, "left|right"),
        ):
            chat = http.post(CHAT, json={"model": MODEL, "messages": MESSAGES, **body})
            assert re.fullmatch(pattern, chat.json()["choices"][0]["message"]["content"])
            text = http.post(COMPLETIONS, json={"model": MODEL, "prompt": "x", **body})
            assert re.fullmatch(pattern, text.json()["choices"][0]["text"])


def refusal(http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    response = http.post(CHAT, json={"model": MODEL, "messages": MESSAGES, **body})
    return error_of(response, 400)


def test_what_cannot_be_enforced_is_refused_before_anything_starts(server: Serving) -> None:
    odd = {"type": "object", "properties": {"a": {"type": "string", "format": "no-such"}}}
    formatted = {"type": "json_schema", "json_schema": {"name": "x", "schema": odd}}
    tool = {"type": "function", "function": {"name": "f", "parameters": odd, "strict": True}}
    with server.client() as http:
        for body, param in (
            ({"response_format": formatted}, "response_format"),
            ({"response_format": formatted, "stream": True}, "response_format"),
            ({"regex": "("}, "regex"),
            ({"grammar": "start: nothing"}, "grammar"),
            ({"tools": [tool]}, "tools"),
        ):
            error = refusal(http, body)
            assert error["param"] == param
            assert error["code"] == "invalid_grammar"
