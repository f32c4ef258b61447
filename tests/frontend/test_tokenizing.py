"""``/tokenize`` and ``/detokenize``: the tokens that the endpoints which generate would run."""

from typing import Any, cast

import pytest

from tests.frontend.fake_engine import MAX_MODEL_LEN, FakeEngine
from tests.frontend.http_calls import CHAT, MESSAGES, PROMPT, chat, complete, error_of, post


async def tokens_of(**body: Any) -> list[int]:
    response = await post(FakeEngine(), "/tokenize", **body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == MAX_MODEL_LEN
    tokens: list[int] = answer["tokens"]
    return tokens


async def test_a_text_has_the_tokens_that_a_completion_runs() -> None:
    engine = FakeEngine()
    await complete(engine, prompt="Hällo")
    assert await tokens_of(prompt="Hällo") == engine.submitted[0].prompt_ids


async def test_a_conversation_has_the_tokens_that_a_chat_runs() -> None:
    engine = FakeEngine()
    await chat(engine)
    assert await tokens_of(messages=MESSAGES) == engine.submitted[0].prompt_ids
    assert bytes(await tokens_of(messages=MESSAGES)).decode() == PROMPT


RICH: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Well"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "reasoning_effort": "none",
    "chat_template_kwargs": {"documents": ["a"]},
    "continue_final_message": True,
}


async def test_whatever_a_chat_runs_can_be_counted_and_explained() -> None:
    prompts, variables = [], []
    for path in (CHAT, "/tokenize", "/cache/explain"):
        engine = FakeEngine()
        response = await post(engine, path, **RICH)
        assert response.status_code == 200, response.text
        ran = [each.prompt_ids for each in engine.submitted]
        asked = [prompt for prompt, _ in engine.asked]
        prompts += ran or asked or [response.json()["tokens"]]
        variables.append(cast(Any, engine.tokenizer).variables)
    assert prompts[0] == prompts[1] == prompts[2]
    text = bytes(prompts[0]).decode()
    assert '"name": "f"' in text
    assert text.endswith("Well")
    assert variables[0] == variables[1] == variables[2]
    assert variables[0] == {
        "reasoning_effort": "none",
        "enable_thinking": False,
        "thinking": False,
        "documents": ["a"],
    }


@pytest.mark.parametrize("path", ["/tokenize", "/cache/explain"])
@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"add_generation_prompt": True}, "add_generation_prompt"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [*RICH["tools"], *RICH["tools"]]}, "tools"),
    ],
)
async def test_what_a_chat_refuses_is_refused(
    path: str, changes: dict[str, Any], param: str
) -> None:
    for each in (CHAT, path):
        assert error_of(await post(FakeEngine(), each, **RICH | changes), 400)["param"] == param


async def test_there_and_back() -> None:
    tokens = await tokens_of(prompt="Hällo")
    response = await post(FakeEngine(), "/detokenize", tokens=tokens)
    assert response.json() == {"prompt": "Hällo"}


async def test_token_strings() -> None:
    response = await post(FakeEngine(), "/tokenize", prompt="abc", return_token_strs=True)
    assert response.json()["token_strs"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt"),
        ("/tokenize", {"prompt": "a", "model": "other"}, "model"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1, 256]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [10**30]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
async def test_bad_input(path: str, body: dict[str, Any], param: str) -> None:
    status = 404 if param == "model" else 400
    assert error_of(await post(FakeEngine(), path, **body), status)["param"] == param
