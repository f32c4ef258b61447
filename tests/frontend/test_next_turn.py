"""After an answer the next turn's certain beginning goes to the engine; and when it does not."""

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from radixserve.text.template_lint import Finding
from radixserve_frontend import prefill_ahead
from radixserve_frontend.app import create_app
from radixserve_frontend.prefill_ahead import MAX_PENDING_PER_TENANT
from tests.frontend.fake_engine import FakeEngine, fails, says
from tests.frontend.http_calls import CHAT, COMPLETIONS
from tests.frontend.http_fixtures import MODEL, calling, config_of

HELLO = [{"role": "user", "content": "Hello!"}]
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object"}},
}
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": HELLO}),
    "messages": ("/v1/messages", {"messages": HELLO, "max_tokens": 9}),
    "responses": ("/v1/responses", {"input": "Hello!"}),
}


def finding(kind: Any = "thinking") -> Finding:
    return Finding(kind=kind, what="it does", cost="much", remedy="none")


def thinking_engine(*texts: str) -> FakeEngine:
    engine = FakeEngine(says(*texts))
    tokenizer: Any = engine.tokenizer
    tokenizer.thinks = True
    return engine


def app_of(engine: FakeEngine, *findings: Finding, **settings: Any) -> Starlette:
    return create_app(engine, config_of(**settings), findings=findings or (finding(),))


async def settle(app: Starlette) -> None:
    await app.state.prefill_ahead.settled()


async def ask(engine: FakeEngine, path: str = CHAT, *findings: Finding, **body: Any) -> list[str]:
    """What is sent ahead after this request."""
    app = app_of(engine, *findings)
    async with calling(app) as client:
        response = await client.post(path, json={"model": MODEL, **body})
        assert response.status_code == 200, response.text
        await settle(app)
    return [each.text for each in engine.ahead]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), PATHS.values(), ids=PATHS)
async def test_after_every_dialects_answers(path: str, body: dict[str, Any], stream: bool) -> None:
    engine = FakeEngine(says("Y", "es."))
    expected = ["user: Hello!\nassistant: Yes.\nuser: "]
    assert await ask(engine, path, **body, stream=stream) == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), PATHS.values(), ids=PATHS)
async def test_thinking_is_no_part_of_the_answer(
    path: str, body: dict[str, Any], stream: bool
) -> None:
    engine = thinking_engine("<think>\nhm\n", "</think>\n\nYes.")
    expected = ["user: Hello!\nassistant: Yes.\nuser: "]
    assert await ask(engine, path, **body, stream=stream) == expected


async def test_clients_of_two_dialects_send_thinking_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is up to the template whether it stays."""
    seen: list[dict[str, Any]] = []
    whole = prefill_ahead.certain_prefix

    def certain_prefix(memory: Any, namespace: Any, conversation: Any) -> list[int]:
        seen.append(dict(conversation.messages[-1]))
        return whole(memory, namespace, conversation)

    monkeypatch.setattr(prefill_ahead, "certain_prefix", certain_prefix)
    for path, body in PATHS.values():
        await ask(thinking_engine("<think>\nhm\n</think>\n\nYes."), path, **body)
    omitted = {"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}}
    path, body = PATHS["messages"]
    await ask(thinking_engine("<think>\nhm\n</think>\n\nYes."), path, **body, **omitted)
    assert [each.get("reasoning_content") for each in seen] == [None, "hm", "hm", None]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", PATHS)
async def test_calls_are_followed_by_their_results(dialect: str, stream: bool) -> None:
    path, body = PATHS[dialect]
    tool = TOOL
    if dialect == "messages":
        tool = {"name": "f", "input_schema": {"type": "object"}}
    elif dialect == "responses":
        tool = {"type": "function", **TOOL["function"]}
    engine = FakeEngine(says(f"So:\n{CALL}", f"\n{CALL}"))
    (text,) = await ask(engine, path, **body, tools=[tool], stream=stream)
    head, *lines = text.split("\n")[:-1]
    assert head.startswith("tools: ")
    assert lines[:2] == ["user: Hello!", "assistant: So:"]
    calls = [json.loads(line.removeprefix("call: ")) for line in lines if line.startswith("call")]
    assert [call["function"]["name"] for call in calls] == ["f", "f"]
    assert {str(call["function"]["arguments"]) for call in calls} == {'{"a": 1}'}
    assert text.endswith("\ntool: ")
    assert len({call["id"] for call in calls}) == 2


async def test_call_ids_are_those_that_the_client_was_given() -> None:
    engine = FakeEngine(says(CALL))
    app = app_of(engine)
    async with calling(app) as client:
        body = {"model": MODEL, "messages": HELLO, "tools": [TOOL], "stream": True}
        response = await client.post(CHAT, json=body)
        await settle(app)
    identifier = "call_" + response.text.partition('"id":"call_')[2].partition('"')[0]
    assert identifier in engine.ahead[0].text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "Hello"}),
        (CHAT, {"messages": HELLO, "n": 2}),
        (
            CHAT,
            {
                "messages": [*HELLO, {"role": "assistant", "content": "Ye"}],
                "continue_final_message": True,
            },
        ),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 0}),
    ],
    ids=["completion", "choices", "continued", "warm-up"],
)
async def test_what_comes_next_is_not_known(path: str, body: dict[str, Any]) -> None:
    assert await ask(FakeEngine(), path, **body) == []


async def test_a_call_that_was_cut_off_is_not_sent_back() -> None:
    engine = FakeEngine(
        says('<tool_call>\n{"name": "f", "arguments": {"a": ', finish_reason="length")
    )
    tool = {"name": "f", "input_schema": {"type": "object"}}
    path, body = PATHS["messages"]
    assert await ask(engine, path, **body, tools=[tool]) == []


async def test_an_answer_that_fails_has_no_next_turn() -> None:
    for stream in (False, True):
        engine = FakeEngine(fails("Ye", "it broke"))
        app = app_of(engine)
        async with calling(app) as client:
            body = {"model": MODEL, "messages": HELLO, "stream": stream}
            await client.post(CHAT, json=body)
            await settle(app)
        assert engine.ahead == []


async def test_an_answer_cut_short_has_one() -> None:
    engine = FakeEngine(says("Yes", finish_reason="length"))
    assert await ask(engine, messages=HELLO) == ["user: Hello!\nassistant: Yes\nuser: "]


@pytest.mark.parametrize(
    ("kinds", "answer", "is_sent"),
    [
        (("dated", "toggled"), "Yes.", False),
        (("trimmed",), "Yes.", False),
        (("trimmed",), "Yes.\n", True),
        (("generation_prompt",), "Yes.", True),
    ],
)
async def test_only_where_the_template_gives_reason_to(
    kinds: tuple[str, ...], answer: str, is_sent: bool
) -> None:
    sent = await ask(FakeEngine(says(answer)), CHAT, *map(finding, kinds), messages=HELLO)
    assert bool(sent) == is_sent


async def test_without_findings_and_where_it_is_switched_off_nothing_is_sent() -> None:
    engine = FakeEngine()
    off = app_of(engine, prefill_ahead=False)
    assert off.state.prefill_ahead is None
    for app in (off, create_app(engine, config_of())):
        async with calling(app) as client:
            await client.post(CHAT, json={"model": MODEL, "messages": HELLO})
    await settle(app)
    assert engine.ahead == []


async def test_it_is_the_callers_own() -> None:
    engine = FakeEngine()
    await ask(engine, messages=HELLO, cache_salt="salt")
    (sent,) = engine.ahead
    assert (sent.namespace, sent.tenant) == (engine.submitted[0].namespace, "")
    assert "salt" in sent.namespace


class Held:
    """Rendering waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self._go = threading.Event()
        self.rendered: list[str] = []
        whole = prefill_ahead.certain_prefix

        def certain_prefix(memory: Any, namespace: Any, conversation: Any) -> list[int]:
            self.begun.set()
            assert self._go.wait(20)
            self.rendered.append(conversation.messages[0]["content"])
            return whole(memory, namespace, conversation)

        monkeypatch.setattr(prefill_ahead, "certain_prefix", certain_prefix)

    def release(self) -> None:
        self._go.set()


async def post(client: httpx.AsyncClient, *contents: str, **body: Any) -> None:
    """A conversation of these contents, user and assistant in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    response = await client.post(CHAT, json={"model": MODEL, "messages": messages, **body})
    assert response.status_code == 200, response.text


async def test_answers_wait_for_nothing_and_the_newest_goes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(monkeypatch)
    app = app_of(FakeEngine())
    async with calling(app) as client:
        await post(client, "first")
        await asyncio.to_thread(held.begun.wait, 20)
        # Answered, all of them, while the first is being rendered.
        for number in range(MAX_PENDING_PER_TENANT + 2):
            await post(client, f"question {number}")
        held.release()
        await settle(app)
    newest = [f"question {number}" for number in range(MAX_PENDING_PER_TENANT + 1, 1, -1)]
    assert held.rendered == ["first", *newest]


async def test_a_conversation_that_has_gone_on_is_rendered_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(monkeypatch)
    engine = FakeEngine(says("Yes."))
    app = app_of(engine)
    async with calling(app) as client:
        await post(client, "first")
        await asyncio.to_thread(held.begun.wait, 20)
        await post(client, "one")
        await post(client, "other")
        # Once more, and further on.
        await post(client, "one")
        await post(client, "one", "Yes.", "two")
        held.release()
        await settle(app)
    assert [each.text.partition("\n")[0] for each in engine.ahead] == [
        "user: first",
        "user: one",
        "user: other",
    ]
    assert "two" in engine.ahead[1].text


async def test_the_same_words_of_two_namespaces_are_two_conversations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(monkeypatch)
    engine = FakeEngine()
    app = app_of(engine)
    async with calling(app) as client:
        await post(client, "first")
        await asyncio.to_thread(held.begun.wait, 20)
        for salt in ("a", "b"):
            await post(client, "one", cache_salt=salt)
        held.release()
        await settle(app)
    namespaces = [each.namespace for each in engine.ahead]
    assert len(set(namespaces)) == len(namespaces) == 3


async def test_nothing_is_rendered_while_the_server_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    app = app_of(FakeEngine())
    async with calling(app) as client:
        await post(client, "first")
        await asyncio.to_thread(held.begun.wait, 20)
        await post(client, "second")
        drained = asyncio.create_task(app.state.lifecycle.drain(5))
        await asyncio.sleep(0)
        held.release()
        await settle(app)
        await drained
    assert held.rendered == ["first"]


async def test_an_answer_that_ends_in_a_drain_has_no_next_turn() -> None:
    engine = FakeEngine()
    engine.gate.hold()
    app = app_of(engine)
    async with calling(app) as client:
        answered = asyncio.create_task(post(client, "first"))
        await engine.something_submitted.wait()
        drained = asyncio.create_task(app.state.lifecycle.drain(5))
        await asyncio.sleep(0)
        engine.gate.release()
        await asyncio.gather(answered, drained)
        await settle(app)
    assert engine.ahead == []


@pytest.mark.parametrize("failure", [RuntimeError("a fault"), None])
async def test_one_that_fails_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception | None
) -> None:
    engine = FakeEngine()
    whole = prefill_ahead.certain_prefix

    def certain_prefix(memory: Any, namespace: Any, conversation: Any) -> list[int]:
        if conversation.messages[0]["content"] == "bad":
            if failure is not None:
                raise failure
            # As long as no prompt may be: the engine refuses it.
            return [65] * 10_000
        return whole(memory, namespace, conversation)

    monkeypatch.setattr(prefill_ahead, "certain_prefix", certain_prefix)
    app = app_of(engine)
    async with calling(app) as client:
        await post(client, "bad")
        await post(client, "good")
        await settle(app)
    assert [each.text.partition("\n")[0] for each in engine.ahead] == ["user: good"]
    # Only a fault of ours is worth an error.
    assert ("could not be prefilled" in caplog.text) == (failure is not None)
