"""Every kind of bad input gets an error of OpenAI's shape that says what is wrong, and where.

After each, the same app still answers a good request.
"""

import json
from typing import Any

import httpx
import pytest

from radixserve.errors import ModelError
from radixserve.text.chat_formats import ChatFormats
from radixserve_frontend.app import create_app
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, COMPLETIONS, MESSAGES, error_of
from tests.frontend.http_fixtures import MODEL, calling, config_of

BAD_TTLS: tuple[object, ...] = ("2h", 0, -1, 86_401, True, [], 1e300)

JSON_TYPE = {"Content-Type": "application/json"}


async def refused(path: str, status: int, *, content: bytes, headers: Any = None) -> dict[str, Any]:
    """Send ``content``; it must be refused without reaching the engine, and leave the app well."""
    engine = FakeEngine()
    async with calling(create_app(engine, config_of())) as client:
        bad = await client.post(path, content=content, headers=headers or JSON_TYPE)
        error = error_of(bad, status)
        assert not engine.submitted
        good = await client.post(CHAT, json={"model": MODEL, "messages": MESSAGES})
        assert good.status_code == 200
    return error


def chat_body(**changes: Any) -> bytes:
    return json.dumps({"model": MODEL, "messages": MESSAGES, **changes}).encode()


def completion_body(**changes: Any) -> bytes:
    return json.dumps({"model": MODEL, "prompt": "Hello", **changes}).encode()


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "the body is empty"),
        (b"   \n", "the body is empty"),
        (b"{", "not valid JSON"),
        (b'{"model": }', "line 1 column 11"),
        (b"nonsense", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid UTF-8: byte 0xff at position 7"),
        (b'\xff\xfe{\x00"\x00', "not valid UTF-8"),
        (b"[]", "the body is an array; expected a JSON object"),
        (b'"text"', "the body is a string"),
        (b"null", "the body is null"),
        (b"17", "the body is an integer"),
        (b"true", "the body is a boolean"),
        (b'{"model": "a", "model": "b"}', "the key 'model' appears 2 times"),
        (b'{"temperature": NaN}', "NaN is not a JSON number"),
        (b'{"temperature": -Infinity}', "-Infinity is not a JSON number"),
        (b"[" * 100_000, "nesting is too deep"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nesting is too deep"),
        (b'{"seed": ' + b"9" * 10_000 + b"}", "too many digits"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content holds a"),
        (b'{"\\udfff": 1}', "a key of the body holds a lone surrogate"),
        (b'"\\udfff"', "the body holds a lone surrogate"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
async def test_what_is_not_an_acceptable_json_object(
    path: str, content: bytes, fragment: str
) -> None:
    error = await refused(path, 400, content=content)
    assert fragment in error["message"]
    assert error["type"] == "invalid_request_error"


CHAT_CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "messages: has 0 entries; at least 1 required"),
    ({"messages": None}, "messages", "messages: expected an array, got null"),
    ({"messages": "hi"}, "messages", "expected an array, got a string ('hi')"),
    ({"messages": {}}, "messages", "expected an array, got an object"),
    ({"messages": [1]}, "messages[0]", "messages[0]: expected an object, got an integer (1)"),
    ({"messages": [{}]}, "messages[0].role", "this field is required"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "this field is required"),
    (
        {"messages": [*MESSAGES, *MESSAGES, {"role": "foo", "content": "x"}]},
        "messages[2].role",
        "messages[2].role: 'foo' is not one of system, developer, user, assistant",
    ),
    ({"messages": [{"role": 3, "content": "x"}]}, "messages[0].role", "expected a string"),
    ({"messages": user(None)}, "messages[0].content", "this field is required"),
    ({"messages": user(7)}, "messages[0].content", "a string or an array of text parts"),
    ({"messages": user([])}, "messages[0].content", "has 0 entries"),
    ({"messages": user(["x"])}, "messages[0].content[0]", "expected an object"),
    (
        {"messages": user([{"type": "image_url", "image_url": {"url": "data:,"}}])},
        "messages[0].content[0].type",
        "content parts of type 'image_url' are not supported; this model reads text only",
    ),
    (
        {"messages": [{"role": "user", "content": "x", "colour": "red"}]},
        "messages[0].colour",
        "unknown field",
    ),
    ({"modalities": ["audio"]}, "modalities", "not supported"),
    ({"best_of": 2}, "best_of", "unknown field"),
    ({"frobnicate": 1}, "frobnicate", "frobnicate: unknown field"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens is 0"),
    ({"logprobs": 2}, "logprobs", "expected true or false, got an integer (2)"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "must be at most 20"),
    ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "must be at least 0"),
    ({"top_logprobs": 2}, "top_logprobs", "logprobs is not true"),
]

SHARED_CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "model", "model: expected a string, got null"),
    ({"temperature": "hot"}, "temperature", "expected a number, got a string ('hot')"),
    ({"temperature": True}, "temperature", "expected a number, got a boolean (True)"),
    ({"temperature": -0.1}, "temperature", "temperature is -0.1; it must lie in [0.0, 100.0]"),
    ({"temperature": 10**400}, "temperature", ""),
    ({"top_p": 0}, "top_p", "top_p is 0"),
    ({"top_p": 1.5}, "top_p", "must lie in (0.0, 1.0]"),
    ({"top_k": 1.5}, "top_k", "expected an integer, got a number (1.5)"),
    ({"top_k": -2}, "top_k", "top_k is -2"),
    ({"min_p": 2}, "min_p", "min_p is 2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "repetition_penalty is 0"),
    ({"presence_penalty": 3}, "presence_penalty", "must lie in [-2.0, 2.0]"),
    ({"frequency_penalty": -3}, "frequency_penalty", "must lie in [-2.0, 2.0]"),
    ({"n": 0}, "n", "n is 0"),
    ({"n": 65}, "n", "must lie in [1, 64]"),
    ({"n": "2"}, "n", "expected an integer, got a string ('2')"),
    ({"n": 10**30}, "n", "must lie in [1, 64]"),
    ({"max_tokens": 0}, "max_tokens", "max_tokens is 0"),
    ({"max_tokens": -1}, "max_tokens", "max_tokens is -1"),
    ({"max_tokens": 10**18}, "max_tokens", "must lie in"),
    ({"max_tokens": 5, "min_tokens": 6}, "min_tokens", "greater than max_tokens (5)"),
    ({"min_tokens": -1}, "min_tokens", "min_tokens is -1"),
    ({"seed": 2**64}, "seed", "seed is"),
    ({"seed": 1.0}, "seed", "expected an integer"),
    ({"stream": "yes"}, "stream", "expected true or false, got a string ('yes')"),
    ({"stream": 1}, "stream", "expected true or false, got an integer (1)"),
    ({"stream_options": {}}, "stream_options", "stream is not true"),
    ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unknown field"),
    ({"stop": 5}, "stop", "must be a string or an array of strings"),
    ({"stop": [5]}, "stop[0]", "expected a string, got an integer (5)"),
    ({"stop": [""]}, "stop", "empty"),
    ({"stop": ""}, "stop", "empty"),
    ({"stop": ["x" * 5000]}, "stop", "5000 characters; at most 4096"),
    ({"stop": ["x"] * 100_000}, "stop", "stop has 100000 strings; at most 64 are accepted"),
    ({"stop": [1] * 100_000}, "stop[0]", "expected a string"),
    ({"stop_token_ids": ["x"]}, "stop_token_ids[0]", "expected an integer"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "keys must be token ids"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "keys must be token ids"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1", "expected a number"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "must lie in [-100, 100]"),
    ({"logit_bias": [1]}, "logit_bias", "expected an object"),
    ({"user": 1}, "user", "expected a string"),
    ({"cache_salt": 1}, "cache_salt", "expected a string"),
    ({"cache_salt": "x" * 1000}, "cache_salt", "1000 characters; at most 512"),
    ({"cache_control": "5m"}, "cache_control", "expected an object"),
    ({"cache_control": {}}, "cache_control.type", "field is required"),
    ({"cache_control": {"type": "forever"}}, "cache_control.type", 'send "ephemeral"'),
    ({"cache_control": {"type": "ephemeral", "until": 1}}, "cache_control.until", "unknown"),
    *[
        ({"cache_control": {"type": "ephemeral", "ttl": ttl}}, "cache_control.ttl", '"5m", "1h"')
        for ttl in BAD_TTLS
    ],
    ({"x" * 100_000: 1}, "", "unknown field"),
]

COMPLETION_CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": None}, "prompt", "prompt: must be a string, an array of strings"),
    ({"prompt": 5}, "prompt", "prompt: must be a string, an array of strings"),
    ({"prompt": []}, "prompt", "has 0 entries"),
    ({"prompt": ""}, "prompt", "prompt is empty"),
    ({"prompt": [[]]}, "prompt", "prompt is empty"),
    ({"prompt": [[1], []]}, "prompt", "prompt[1] is empty"),
    ({"prompt": ["a", 1]}, "prompt[1]", "expected a string, got an integer (1)"),
    ({"prompt": [1, "a"]}, "prompt[1]", "expected an integer, got a string ('a')"),
    ({"prompt": [1.5]}, "prompt[0]", "expected a string"),
    ({"prompt": [True]}, "prompt[0]", "expected a string, got a boolean (True)"),
    ({"prompt": [[1], [True]]}, "prompt[1][0]", "expected an integer"),
    ({"echo": 0}, "echo", "expected true or false, got an integer (0)"),
    ({"max_tokens": 0}, "max_tokens", "must lie in [1,"),
    ({"suffix": "x"}, "suffix", "not supported"),
    ({"best_of": 1, "n": 2}, "best_of", "best_of is 1 and n is 2"),
    ({"best_of": 65}, "best_of", "must lie in [1, 64]"),
    ({"best_of": 3, "stream": True}, "best_of", "set stream to false"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "set stream to false"),
    ({"prompt_logprobs": 21}, "prompt_logprobs", "must lie in [0, 20]"),
    ({"logprobs": True}, "logprobs", "expected an integer, got a boolean (True)"),
    ({"logprobs": 21}, "logprobs", "must lie in [0, 20]"),
    ({"messages": []}, "messages", "unknown field"),
]


@pytest.mark.parametrize(("changes", "param", "fragment"), CHAT_CASES + SHARED_CASES)
async def test_chat(changes: dict[str, Any], param: str, fragment: str) -> None:
    error = await refused(CHAT, 400, content=chat_body(**changes))
    assert fragment in error["message"]
    assert (error["param"] or "").startswith(param)


@pytest.mark.parametrize(("changes", "param", "fragment"), COMPLETION_CASES + SHARED_CASES)
async def test_completion(changes: dict[str, Any], param: str, fragment: str) -> None:
    error = await refused(COMPLETIONS, 400, content=completion_body(**changes))
    assert fragment in error["message"]
    assert (error["param"] or "").startswith(param)


@pytest.mark.parametrize(
    ("field", "path"), [("model", CHAT), ("messages", CHAT), ("prompt", COMPLETIONS)]
)
async def test_required_fields(field: str, path: str) -> None:
    body = json.loads(chat_body() if path == CHAT else completion_body())
    del body[field]
    error = await refused(path, 400, content=json.dumps(body).encode())
    assert error["message"] == f"{field}: this field is required"
    assert error["param"] == field
    assert error["code"] == "missing_required_parameter"


@pytest.mark.parametrize("name", ["gpt-4o", "", "a\0b", "\N{SNOWMAN}", "x" * 10_000])
async def test_unknown_model(name: str) -> None:
    error = await refused(CHAT, 404, content=chat_body(model=name))
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert "'fake'" in error["message"]


async def test_number_that_overflows_to_infinity() -> None:
    body = chat_body().replace(b'"model"', b'"temperature": 1e999, "model"')
    error = await refused(CHAT, 400, content=body)
    assert error["message"] == "temperature: is inf; it must be a finite number"


async def test_prompt_longer_than_the_context_says_both_numbers() -> None:
    error = await refused(CHAT, 400, content=chat_body(messages=user("x" * 10_000)))
    assert "10018" in error["message"]
    assert "4096" in error["message"]
    # The engine knows prompts only; the client knows its own field.
    assert error["param"] == "messages"


async def test_token_outside_the_vocabulary() -> None:
    await refused(COMPLETIONS, 400, content=completion_body(prompt=[1, 2**40]))
    await refused(COMPLETIONS, 400, content=completion_body(prompt=[-1]))


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "x\xff"])
async def test_other_content_types(kind: str) -> None:
    headers = {b"Content-Type": kind.encode("latin-1")}
    error = await refused(CHAT, 415, content=chat_body(), headers=headers)
    assert "application/json" in error["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "Application/JSON; charset=utf-8"},
        {"Content-Type": "application/x+json"},
    ],
)
async def test_acceptable_content_types(headers: dict[str, str]) -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        response = await client.post(CHAT, content=chat_body(), headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/v1/embeddings", 404, "not_found"),
        ("GET", "/" + "x" * 5000, 404, "not_found"),
        ("GET", "/%ff%00%0a", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/v1/models/nothing/here", 404, "model_not_found"),
    ],
)
async def test_wrong_paths_and_methods(method: str, path: str, status: int, code: str) -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        response = await client.request(method, path)
    assert error_of(response, status)["code"] == code
    if status == 405:
        assert response.headers["allow"]


async def test_an_unforeseen_failure_says_nothing_of_our_insides(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(submitted: object) -> Any:
        raise ZeroDivisionError("secret")

    async with calling(create_app(FakeEngine(broken), config_of())) as client:
        response = await client.post(CHAT, content=chat_body(), headers=JSON_TYPE)
    error = error_of(response, 500)
    assert "secret" not in response.text
    assert error["code"] == "internal_error"
    assert response.headers["x-request-id"] in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


async def test_a_checkpoint_without_template_cannot_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    def chat_formats(*, with_tools: bool) -> ChatFormats:
        raise ModelError("there is no chat template")

    engine = FakeEngine()
    monkeypatch.setattr(engine.tokenizer, "chat_formats", chat_formats)
    async with calling(create_app(engine, config_of())) as client:
        response = await client.post(CHAT, content=chat_body(), headers=JSON_TYPE)
    assert error_of(response, 400)["message"] == "there is no chat template"


async def test_messages_that_quote_are_cut() -> None:
    key = json.dumps("k" * 50_000).encode()
    error = await refused(CHAT, 400, content=b"{" + key + b": 1, " + key + b": 2}")
    assert error["message"].startswith("the key 'kkk")
    assert len(error["message"]) <= 1000


async def test_an_oversized_body_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("radixserve_frontend.body._MAX_DISCARDED_BYTES", 1000)
    num_sent = 0

    async def pieces() -> Any:
        nonlocal num_sent
        while True:
            num_sent += 1
            yield b" " * 100

    config = config_of(max_body_bytes=1024)
    async with calling(create_app(FakeEngine(), config)) as client:
        response = await client.post(CHAT, content=pieces(), headers=JSON_TYPE)
    error_of(response, 413)
    assert num_sent < 30


async def test_body_too_large_by_its_own_account_and_by_count() -> None:
    config = config_of(max_body_bytes=2048)

    async def pieces() -> Any:
        for _ in range(40):
            yield b" " * 100

    engine = FakeEngine()
    async with calling(create_app(engine, config)) as client:
        responses: list[httpx.Response] = [
            await client.post(CHAT, content=b" " * 3000, headers=JSON_TYPE),
            await client.post(CHAT, content=pieces(), headers=JSON_TYPE),
        ]
        for response in responses:
            assert error_of(response, 413)["code"] == "request_too_large"
            assert "2048" in response.text
        bad = await client.post(
            CHAT, content=b"{}", headers={**JSON_TYPE, "Content-Length": "lots"}
        )
        error_of(bad, 400)
