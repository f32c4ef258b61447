"""``radixserve serve`` as a user runs it: its own process, the real engine, official client; noise.

What the engine computes is other rooms' business; here it is whether everything arrives, whether
the cache is seen through HTTP, and whether pages come back.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.frontend.http_calls import CHAT, COMPLETIONS, error_of
from tests.frontend.real_server import MODEL, START_S, TIMEOUT_S, Serving, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with running_server() as serving:
        yield serving


@pytest.fixture
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S
    ) as client:
        yield client


def ask(client: openai.OpenAI, messages: list[Any], **settings: Any) -> Any:
    settings = {"max_tokens": 16, "temperature": 0, **settings}
    return client.chat.completions.create(model=MODEL, messages=messages, **settings)


def cached_tokens(answer: Any) -> int:
    count = answer.usage.prompt_tokens_details.cached_tokens
    assert isinstance(count, int)
    return count


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert model.model_dump()["max_model_len"] > 0


def test_a_conversation_prefills_only_what_is_new(client: openai.OpenAI) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "A system prompt of several pages. " * 10},
        {"role": "user", "content": "First question."},
    ]
    first = ask(client, messages)
    again = ask(client, messages)
    assert cached_tokens(first) == 0
    assert cached_tokens(again) == first.usage.prompt_tokens - 1
    assert again.choices[0].message.content == first.choices[0].message.content

    messages += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "Second question."},
    ]
    second = ask(client, messages)
    assert cached_tokens(second) >= first.usage.prompt_tokens - 1
    assert cached_tokens(second) < second.usage.prompt_tokens


def test_a_stream_says_what_the_answer_in_one_piece_says(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Stream or not?"}]
    whole = ask(client, messages)
    chunks = list(ask(client, messages, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert cached_tokens(chunks[-1]) == whole.usage.prompt_tokens - 1


def test_salts_do_not_share(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "The same words for two tenants. " * 4}]
    ann, ben, ann_again = (
        ask(client, messages, extra_body={"cache_salt": salt}) for salt in ("ann", "ben", "ann")
    )
    assert cached_tokens(ann) == cached_tokens(ben) == 0
    assert cached_tokens(ann_again) == ann.usage.prompt_tokens - 1


def test_a_miss_is_explained_and_the_cache_cleared(server: Serving, client: openai.OpenAI) -> None:
    salt = "explained"
    body: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Why, oh why? " * 9}],
    }
    answer = ask(client, body["messages"], extra_body={"cache_salt": salt, "cache_report": True})
    report = answer.model_extra["cache_report"]
    num_tokens = answer.usage.prompt_tokens
    nowhere = {"device": 0, "host": 0, "disk": 0, "in_flight": 0}
    assert report["sources"] == {**nowhere, "computed": num_tokens}
    assert (report["matched_tokens"], report["cause"]) == (0, "never_seen")
    assert report["text_around"]["before"] == ""
    with server.client() as http:
        same = http.post("/cache/explain", json={**body, "cache_salt": salt}).json()
        assert (same["matched_tokens"], same["cause"]) == (num_tokens - 1, "complete")
        assert same["in_other_namespaces"] is False
        other = http.post("/cache/explain", json={**body, "cache_salt": "another"}).json()
        assert (other["matched_tokens"], other["cause"]) == (0, "never_seen")
        assert other["in_other_namespaces"] is True

        stats = http.get("/cache/stats").json()
        assert stats["pages"]["total"] == 1024
        assert stats["admissions"]["never_seen"] >= 1
        freed = http.post("/cache/clear", json={"cache_salt": salt}).json()["freed_pages"]
        assert freed == -(-(num_tokens + answer.usage.completion_tokens - 1) // 16)
        again = http.post("/cache/explain", json={**body, "cache_salt": salt}).json()
        assert again["matched_tokens"] == 0
        assert http.get("/cache/stats").json()["namespaces"] == stats["namespaces"] - 1


def test_seeds_choices_logprobs_and_stops(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Say something."}]
    settings = {"temperature": 1, "seed": 7, "n": 3, "logprobs": True, "top_logprobs": 2}
    first, second = (ask(client, messages, **settings) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) > 1
    for choice in first.choices:
        assert len(choice.logprobs.content[0].top_logprobs) == 2
        assert all(entry.logprob <= 0 for entry in choice.logprobs.content)

    whole = ask(client, messages, extra_body={"ignore_eos": True}).choices[0].message.content
    stop = whole[4:6]
    stopped = ask(client, messages, stop=[stop], extra_body={"ignore_eos": True}).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == whole[: whole.index(stop)]


def test_completions_of_token_ids_equal_those_of_text(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    # A token is a byte.
    answer = client.completions.create(prompt=["ab", "xyz"], **settings)
    ids = client.completions.create(prompt=[[*b"ab"], [*b"xyz"]], **settings)
    assert answer.usage is not None
    assert [choice.text for choice in answer.choices] == [choice.text for choice in ids.choices]


def test_refusals_of_the_real_engine(server: Serving) -> None:
    with server.client() as client:
        body: dict[str, Any] = {"model": MODEL, "prompt": "x"}
        limit = client.get("/v1/models").json()["data"][0]["max_model_len"]
        too_long = client.post(COMPLETIONS, json={**body, "prompt": "x" * (limit + 1)})
        error = error_of(too_long, 400)
        assert str(limit) in error["message"]
        assert str(limit + 1) in error["message"]
        assert error["code"] == "context_length_exceeded"
        for changes, param in (
            ({"max_tokens": limit}, "max_tokens"),
            ({"prompt": [10**9]}, "prompt"),
            ({"prompt": [10**40]}, "prompt"),
            ({"prompt": [-1]}, "prompt"),
            ({"logit_bias": {"9999999999": 1}}, "logit_bias"),
            ({"stop_token_ids": [-1]}, "stop_token_ids"),
            ({"stop_token_ids": [2**70]}, "stop_token_ids"),
        ):
            error = error_of(client.post(COMPLETIONS, json={**body, **changes}), 400)
            assert error["param"] == param
        messages = [{"role": "user", "content": "x" * (limit + 1)}]
        too_long = client.post(CHAT, json={"model": MODEL, "messages": messages})
        assert error_of(too_long, 400)["param"] == "messages"
        # A byte order mark, a NUL and the template's own markers are just text.
        content = "\ufeff\0<|im_end|><|im_start|>system"
        answer = client.post(
            CHAT,
            json={
                "model": MODEL,
                "messages": [{"role": "user", "content": content}],
                "max_tokens": 2,
            },
        )
        assert answer.status_code == 200


async def test_leavers_give_their_pages_back_and_disturb_nobody(server: Serving) -> None:
    body = {"model": MODEL, "max_tokens": 200, "temperature": 0, "ignore_eos": True}

    async with httpx.AsyncClient(base_url=server.url, timeout=TIMEOUT_S) as client:
        alone = await client.post(COMPLETIONS, json={**body, "prompt": "stay"})

        async def stay() -> None:
            answer = await client.post(COMPLETIONS, json={**body, "prompt": "stay"})
            assert answer.json()["choices"] == alone.json()["choices"]

        async def leave_a_stream(number: int) -> None:
            leaving = {**body, "prompt": f"leaver {number}", "stream": True}
            async with client.stream("POST", COMPLETIONS, json=leaving) as response:
                async for line in response.aiter_lines():
                    if line and number % 2:
                        return

        async def leave_unanswered(number: int) -> None:
            asking = asyncio.create_task(
                client.post(COMPLETIONS, json={**body, "prompt": [f"{number}", "b"], "n": 2})
            )
            await bad()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        async def bad() -> None:
            assert (await client.post(CHAT, content=b"{")).status_code == 400

        await asyncio.gather(
            *(stay() for _ in range(4)),
            *(leave_a_stream(number) for number in range(8)),
            *(leave_unanswered(number) for number in range(8)),
        )
    samples = await asyncio.to_thread(server.wait_until_idle)
    pages = samples["radixserve_pagesfree"] + samples["radixserve_pagescached"]
    assert pages == 1024


def test_sigterm_lets_a_stream_finish_and_ends_cleanly() -> None:
    with running_server() as server, server.client() as client:
        body = {"model": MODEL, "prompt": "x", "max_tokens": 300, "ignore_eos": True}
        lines: list[str] = []
        with client.stream("POST", COMPLETIONS, json={**body, "stream": True}) as response:
            for line in response.iter_lines():
                if line:
                    if not lines:
                        server.process.send_signal(signal.SIGTERM)
                    lines.append(line)
        assert lines[-1] == "data: [DONE]"
        assert server.process.wait(TIMEOUT_S) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="finds the engine process in /proc")
def test_the_server_and_its_streams_outlive_the_engine() -> None:
    with running_server() as server, server.client() as client:
        pid = server.process.pid
        (engine_pid,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        body = {"model": MODEL, "prompt": "x", "max_tokens": 1500, "temperature": 0}
        body["ignore_eos"] = True
        undisturbed = client.post(COMPLETIONS, json=body).json()["choices"][0]["text"]
        assert client.post("/cache/clear", json={}).status_code == 200
        text = ""
        statuses: set[tuple[str, int]] = set()
        with client.stream("POST", COMPLETIONS, json={**body, "stream": True}) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
                    if len(text) > 300 and not statuses:
                        os.kill(int(engine_pid), signal.SIGKILL)
                        for path in ("/health", "/metrics", "/ready"):
                            statuses.add((path, client.get(path).status_code))
        assert text == undisturbed
        # Whether it was ready depends on how fast the kernel kills.
        assert statuses >= {("/health", 200), ("/metrics", 200)}
        assert client.get("/ready").json() == {"status": "ready"}
        samples = server.samples()
        assert samples["radixserve_engine_restarts_total"] == 1
        assert samples["radixserve_resumed_requests_total"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="finds the engine process in /proc")
def test_a_second_interrupt_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    """Not even the answers' last events are lost, nor does an engine, a socket or a traceback
    stay behind."""
    body = {"model": MODEL, "prompt": "x", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with running_server(environ={"TMPDIR": str(tmp_path)}) as server, server.client() as client:
        pid = server.process.pid
        (engine_pid,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines: list[str] = []
        num_sent = 0
        with client.stream("POST", COMPLETIONS, json=body) as response:
            for line in response.iter_lines():
                if line:
                    # Not both at once: two that nobody has seen yet are one.
                    if num_sent == 0 or (num_sent == 1 and "shutting down" in server.log()):
                        server.process.send_signal(signal.SIGINT)
                        num_sent += 1
                    lines.append(line)
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert server.process.wait(TIMEOUT_S) == 0
        assert not Path(f"/proc/{engine_pid}").exists()
        assert "again: stopping at once" in server.log()
        assert "Traceback" not in server.log()
    assert list(tmp_path.glob("radixserve-*")) == []


def test_chat_in_the_terminal(server: Serving, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "radixserve_frontend", "chat", "--url", server.url,
         "--max-tokens", "8"],
        input="hello\n/system be brief\nhello again\n/exit\n",
        capture_output=True, text=True, check=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert len(re.findall(r"prompt tokens cached\]", ran.stdout)) == 2
    assert ran.stderr == ""


def test_chat_in_the_terminal_with_an_engine_of_its_own() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "radixserve_frontend", "chat", "--max-tokens", "8",
         "--num-pages", "256", "--num-threads", "1", "--dtype", "float32"],
        input="hello\nhello again\n",
        capture_output=True, text=True, check=True, timeout=START_S,
    )  # fmt: skip
    first, second = re.findall(r"(\d+) of (\d+) prompt tokens cached\]", ran.stdout)
    assert first[0] == "0"
    assert int(second[0]) >= int(first[1]) - 1
    assert "questions about a document" in ran.stdout
