"""``echo``, ``best_of`` and ``prompt_logprobs`` of completions, with the real engine."""

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from radixserve.engine.async_engine import AsyncEngine
from radixserve_frontend.app import create_app
from radixserve_frontend.config import ServerConfig
from support.noise_model import write_noise_model
from tests.engine.in_process_client import client_of, use_in_process_client
from tests.frontend.http_calls import events_of
from tests.frontend.http_fixtures import calling

PROMPT = "Hello, wörld"
PROMPT_IDS = list(PROMPT.encode())

Complete = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scored")
    write_noise_model(directory)
    return directory


@pytest.fixture
async def complete(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Complete]:
    use_in_process_client(monkeypatch)
    config = ServerConfig(
        model=str(model_dir), served_model_name="m", dtype="float32", num_pages=128, num_threads=1
    )
    engine = await AsyncEngine.start(config)
    async with calling(create_app(engine, config)) as client:

        async def ask(**body: Any) -> httpx.Response:
            prompt = {} if "messages" in body else {"prompt": PROMPT}
            path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
            defaults = {"model": "m", **prompt, "max_tokens": 5, "temperature": 0}
            return await client.post(path, json=defaults | body)

        yield ask
    assert client_of(engine).core.cache_info().in_use_pages == 0
    await engine.aclose()


def choices_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    choices: list[dict[str, Any]] = response.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return choices


async def test_echo_begins_with_the_prompt(complete: Complete) -> None:
    (plain,) = choices_of(await complete())
    (echoed,) = choices_of(await complete(echo=True))
    assert echoed["text"] == PROMPT + plain["text"]
    (by_ids,) = choices_of(await complete(prompt=PROMPT_IDS, echo=True))
    assert by_ids["text"] == echoed["text"]


async def test_echoed_tokens_are_scored(complete: Complete) -> None:
    (plain,) = choices_of(await complete(logprobs=2))
    (echoed,) = choices_of(await complete(logprobs=2, echo=True))
    logprobs = echoed["logprobs"]
    assert len(logprobs["tokens"]) == len(PROMPT_IDS) + 5
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["top_logprobs"][0] is None
    assert all(value <= 0 for value in logprobs["token_logprobs"][1:])
    assert logprobs["tokens"][-5:] == plain["logprobs"]["tokens"]
    assert logprobs["token_logprobs"][-5:] == pytest.approx(
        plain["logprobs"]["token_logprobs"], abs=1e-4
    )
    offsets = [0]
    for token in logprobs["tokens"]:
        offsets.append(offsets[-1] + len(token))
    assert logprobs["text_offset"] == offsets[:-1]


async def test_a_prompt_alone_is_scored(complete: Complete) -> None:
    """How evaluation harnesses ask: nothing is generated, as far as the client can see."""
    response = await complete(max_tokens=0, echo=True, logprobs=1)
    (choice,) = choices_of(response)
    assert choice["text"] == PROMPT
    assert len(choice["logprobs"]["tokens"]) == len(PROMPT_IDS)
    assert response.json()["usage"]["completion_tokens"] == 0
    # Asked again: all of it is in the cache by now, and computed all the same.
    again = await complete(max_tokens=0, echo=True, logprobs=1)
    (same,) = choices_of(again)
    assert same["logprobs"]["token_logprobs"][1:] == pytest.approx(
        choice["logprobs"]["token_logprobs"][1:], abs=1e-4
    )
    assert again.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_a_stream_says_the_same(complete: Complete, logprobs: int | None) -> None:
    body: dict[str, Any] = {"echo": True, "n": 3, "seed": 4, "temperature": 1, "logprobs": logprobs}
    body["prompt"] = [PROMPT, "Other"]
    whole = choices_of(await complete(**body))
    texts = [""] * 6
    tokens: list[list[str]] = [[] for _ in range(6)]
    offsets: list[list[int]] = [[] for _ in range(6)]
    for event in events_of(await complete(**body, stream=True))[:-1]:
        for choice in event["choices"]:
            texts[choice["index"]] += choice["text"]
            if choice["logprobs"] is not None:
                tokens[choice["index"]] += choice["logprobs"]["tokens"]
                offsets[choice["index"]] += choice["logprobs"]["text_offset"]
    assert texts == [choice["text"] for choice in whole]
    if logprobs is not None:
        assert tokens == [choice["logprobs"]["tokens"] for choice in whole]
        assert offsets == [choice["logprobs"]["text_offset"] for choice in whole]


def mean(choice: dict[str, Any]) -> float:
    values: list[float] = choice["logprobs"]["token_logprobs"]
    return math.fsum(values) / len(values)


async def test_the_best_of_many_are_returned(complete: Complete) -> None:
    common: dict[str, Any] = {"temperature": 1, "seed": 9, "prompt": [PROMPT, "Other"]}
    candidates = choices_of(await complete(**common, n=6, logprobs=0))
    response = await complete(**common, n=2, best_of=6, logprobs=0)
    best = choices_of(response)
    assert len(best) == 4
    for prompt in range(2):
        own = sorted(candidates[6 * prompt : 6 * prompt + 6], key=mean, reverse=True)
        assert [each["text"] for each in best[2 * prompt : 2 * prompt + 2]] == [
            each["text"] for each in own[:2]
        ]
    # All of them were generated, and that is what they cost.
    assert response.json()["usage"]["completion_tokens"] == 60
    unasked = choices_of(await complete(**common, n=2, best_of=6))
    assert [each["text"] for each in unasked] == [each["text"] for each in best]
    assert all(each["logprobs"] is None for each in unasked)


async def test_prompt_logprobs_in_vllms_form(complete: Complete) -> None:
    (choice,) = choices_of(await complete(prompt_logprobs=2))
    scores = choice["prompt_logprobs"]
    assert scores[0] is None
    assert len(scores) == len(PROMPT_IDS)
    for token_id, entry in zip(PROMPT_IDS[1:], scores[1:], strict=True):
        own = entry[str(token_id)]
        assert own["logprob"] <= 0
        ranks = sorted(each["rank"] for each in entry.values() if each["rank"] is not None)
        assert ranks == [1, 2]
    (echoed,) = choices_of(await complete(echo=True, logprobs=2))
    assert [
        entry[str(token)]["logprob"]
        for token, entry in zip(PROMPT_IDS[1:], scores[1:], strict=True)
    ] == pytest.approx(echoed["logprobs"]["token_logprobs"][1 : len(PROMPT_IDS)], abs=1e-4)


async def test_a_chats_prompt_is_scored(complete: Complete) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    response = await complete(messages=messages, prompt_logprobs=2, n=2)
    assert response.status_code == 200, response.text
    answer = response.json()
    scores = answer["prompt_logprobs"]
    assert scores[0] is None
    assert len(scores) == answer["usage"]["prompt_tokens"]
    tokens = []
    for entry in scores[1:]:
        assert all(each["logprob"] <= 0 for each in entry.values())
        # A token that is not among the likeliest has no rank; the prompt's own comes first.
        tokens.append(next(iter(entry.values()))["decoded_token"])
    assert PROMPT.encode().decode("ascii", "replace")[:5] in "".join(tokens)
    plain = (await complete(messages=messages)).json()
    assert "prompt_logprobs" not in plain
    streamed = await complete(messages=messages, prompt_logprobs=2, stream=True)
    assert streamed.status_code == 400
    error = streamed.json()["error"]
    assert error["param"] == "prompt_logprobs"
    assert "set stream to false" in error["message"]


async def test_too_many_log_probabilities_are_refused(
    complete: Complete, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radixserve.engine.intake.MAX_PROMPT_LOGPROBS", 30)
    assert (await complete(prompt_logprobs=1)).status_code == 200
    refused = await complete(prompt_logprobs=2)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "prompt_logprobs"
