"""``/v1/chat/completions`` over plain HTTP: the shape of answers and streams."""

from collections.abc import Sequence

import pytest

from radixserve.engine.interface import TextDelta
from radixserve.errors import EngineDeadError
from radixserve.ids import Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.types import CacheHints
from radixserve_frontend.app import create_app
from tests.frontend.fake_engine import FakeEngine, FakeStream, Submitted, delta_of, fails, says
from tests.frontend.http_calls import MESSAGES, PROMPT, chat, error_of, events_of
from tests.frontend.http_fixtures import MODEL, calling, config_of


async def test_answer_in_one_piece() -> None:
    engine = FakeEngine()
    response = await chat(engine, max_tokens=5)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer.pop("id") == f"chatcmpl-{response.headers['x-request-id']}"
    assert answer.pop("created") > 0
    assert answer == {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "abcde", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": len(PROMPT),
            "completion_tokens": 5,
            "total_tokens": len(PROMPT) + 5,
            "prompt_tokens_details": {"cached_tokens": 16},
        },
    }
    assert engine.submitted[0].prompt == PROMPT
    assert engine.submitted[0].closed.is_set()


async def test_stream() -> None:
    *chunks, done = events_of(await chat(FakeEngine(), max_tokens=3, stream=True))
    assert done == "[DONE]"
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "a"},
        {"content": "b"},
        {"content": "c"},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None, None, None, "length"]


async def test_stream_with_usage_ends_with_a_chunk_that_has_only_usage() -> None:
    response = await chat(
        FakeEngine(), max_tokens=2, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last, done = events_of(response)
    assert done == "[DONE]"
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": len(PROMPT),
        "completion_tokens": 2,
        "total_tokens": len(PROMPT) + 2,
        "prompt_tokens_details": {"cached_tokens": 16},
    }


async def test_text_held_back_makes_no_event() -> None:
    chunks = events_of(await chat(FakeEngine(says("", "", "ab", "", "")), stream=True))[:-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [{"role": "assistant", "content": ""}, {"content": "ab"}, {}]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_several_choices_each_begin_with_their_role() -> None:
    response = await chat(FakeEngine(), n=3, max_tokens=2, stream=True)
    texts = {0: "", 1: "", 2: ""}
    roles = []
    for chunk in events_of(response)[:-1]:
        (choice,) = chunk["choices"]
        if "role" in choice["delta"]:
            roles.append(choice["index"])
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert roles == [0, 1, 2]
    assert texts == {0: "ab", 1: "ab", 2: "ab"}

    answer = (await chat(FakeEngine(), n=3, max_tokens=2)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["ab"] * 3
    # The prompt was read once, whatever n is.
    assert answer["usage"]["prompt_tokens"] == len(PROMPT)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 16}
    assert answer["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs(stream: bool) -> None:
    response = await chat(FakeEngine(), max_tokens=2, logprobs=True, top_logprobs=2, stream=stream)
    if stream:
        chunks = events_of(response)[:-1]
        entries = [
            entry
            for chunk in chunks
            if chunk["choices"][0]["logprobs"]
            for entry in chunk["choices"][0]["logprobs"]["content"]
        ]
    else:
        entries = response.json()["choices"][0]["logprobs"]["content"]
    assert entries[0] == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [
            {"token": "a", "logprob": -0.5, "bytes": [97]},
            {"token": "b", "logprob": -1.5, "bytes": [98]},
        ],
    }
    assert [entry["token"] for entry in entries] == ["a", "b"]


async def test_every_parameter_reaches_the_engine_under_its_own_name() -> None:
    engine = FakeEngine()
    response = await chat(
        engine,
        n=2,
        max_tokens=7,
        max_completion_tokens=5,
        stop=["x", "y"],
        seed=11,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logit_bias={"65": -100, "66": 1.5},
        logprobs=True,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        min_tokens=2,
        ignore_eos=True,
        stop_token_ids=[13],
        skip_special_tokens=False,
        include_stop_str_in_output=True,
        cache_salt="tenant",
    )
    assert response.status_code == 200, response.text
    (submitted,) = engine.submitted
    assert submitted.namespace == Namespace("tenant")
    assert submitted.params == SamplingParams(
        n=2,
        max_tokens=5,
        stop=("x", "y"),
        seed=11,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logit_bias={65: -100.0, 66: 1.5},
        logprobs=0,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        min_tokens=2,
        ignore_eos=True,
        stop_token_ids=(13,),
        skip_special_tokens=False,
        include_stop=True,
    )


async def test_a_silent_request_leaves_everything_to_the_checkpoint() -> None:
    engine = FakeEngine()
    await chat(engine)
    assert engine.submitted[0].params == SamplingParams()
    assert engine.submitted[0].namespace == Namespace("")


@pytest.mark.parametrize(
    ("control", "keep_s"),
    [
        ({"type": "ephemeral"}, 300.0),
        ({"type": "ephemeral", "ttl": None}, 300.0),
        ({"type": "ephemeral", "ttl": "5m"}, 300.0),
        ({"type": "ephemeral", "ttl": "1h"}, 3600.0),
        ({"type": "ephemeral", "ttl": 7.5}, 7.5),
        (None, 0.0),
    ],
)
async def test_cache_control_becomes_a_hint(
    control: dict[str, object] | None, keep_s: float
) -> None:
    engine = FakeEngine()
    response = await chat(engine, cache_control=control)
    assert response.status_code == 200, response.text
    assert engine.submitted[0].hints == CacheHints(keep_s=keep_s)


async def test_null_means_absent() -> None:
    names = ["temperature", "stop", "n", "max_tokens", "logit_bias", "stream", "seed", "user"]
    names += ["tools", "response_format", "stream_options", "logprobs", "cache_salt"]
    engine = FakeEngine()
    response = await chat(engine, **dict.fromkeys(names))
    assert response.status_code == 200, response.text
    assert engine.submitted[0].params == SamplingParams()


async def test_harmless_fields_are_accepted() -> None:
    response = await chat(
        FakeEngine(),
        user="somebody",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        safety_identifier="x",
        prompt_cache_key="k",
        parallel_tool_calls=False,
        prediction={"type": "content", "content": "x"},
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        modalities=["text"],
    )
    assert response.status_code == 200, response.text


async def test_contents_roles_and_names_of_messages() -> None:
    engine = FakeEngine()
    response = await chat(
        engine,
        messages=[
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "name": "ann",
                "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
            },
            # As a client sends back what it was given.
            {
                "role": "assistant",
                "content": "",
                "refusal": None,
                "tool_calls": None,
                "function_call": None,
                "audio": None,
                "annotations": [],
            },
            {"role": "user", "content": "a\0b \N{GRINNING FACE}"},
        ],
    )
    assert response.status_code == 200, response.text
    # The fake template shows roles as they come; the real one knows developers as systems.
    assert engine.submitted[0].prompt == (
        "developer: be brief\nuser: one\ntwo\nassistant: \n"
        "user: a\0b \N{GRINNING FACE}\nassistant: "
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "text", ["\N{LINE SEPARATOR}\u0085\N{PARAGRAPH SEPARATOR}", "a\ud800b", "\r\n\0\x1b", "日本"]
)
async def test_whatever_the_model_says_is_valid_json_on_one_line(text: str, stream: bool) -> None:
    response = await chat(FakeEngine(says(text)), stream=stream)
    if stream:
        # As httpx and others cut lines: at everything that Unicode calls a line end.
        lines = [line for line in response.text.splitlines() if line]
        assert all(line.startswith("data: ") for line in lines)
        chunks = events_of(response)[:-1]
        said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    else:
        said = response.json()["choices"][0]["message"]["content"]
    assert said == text


async def test_error_before_the_first_token_is_a_status_even_for_a_stream() -> None:
    response = await chat(
        FakeEngine(), stream=True, messages=[{"role": "user", "content": "x" * 5000}]
    )
    error = error_of(response, 400)
    assert error["code"] == "context_length_exceeded"
    assert "5018" in error["message"]
    assert "4096" in error["message"]


async def test_error_in_mid_stream_is_an_event_and_the_end() -> None:
    engine = FakeEngine(fails("ab", "the runner broke"))
    events = events_of(await chat(engine, stream=True))
    assert events[1]["choices"][0]["delta"] == {"content": "ab"}
    assert events[-1] == {
        "error": {
            "message": "the runner broke",
            "type": "server_error",
            "param": None,
            "code": "generation_failed",
        }
    }
    assert engine.submitted[0].closed.is_set()


async def test_an_unforeseen_failure_in_mid_stream_is_told_without_our_insides(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def script(submitted: object) -> list[TextDelta | Exception]:
        return [delta_of("ab"), ZeroDivisionError("secret")]

    events = events_of(await chat(FakeEngine(script), stream=True))
    assert events[-1]["error"]["code"] == "internal_error"
    assert "secret" not in str(events)
    assert "ZeroDivisionError: secret" in caplog.text


async def test_an_engine_that_dies_is_not_the_requests_fault() -> None:
    engine = FakeEngine()

    def script(submitted: Submitted) -> Sequence[TextDelta | Exception]:
        engine.is_alive = False
        return fails("", "the process ended")(submitted)

    engine.script = script
    assert error_of(await chat(engine), 503)["message"] == "the process ended"


async def test_a_stream_that_ends_too_early_is_an_error() -> None:
    error = error_of(await chat(FakeEngine(lambda submitted: [delta_of("ab")])), 503)
    assert error["code"] == "engine_dead"


async def test_an_abort_that_fails_does_not_spoil_the_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def aclose(stream: FakeStream) -> None:
        raise EngineDeadError("gone")

    monkeypatch.setattr(FakeStream, "aclose", aclose)
    assert (await chat(FakeEngine())).status_code == 200
    assert "gone" in caplog.text


async def test_error_of_an_answer_in_one_piece_is_a_status() -> None:
    error = error_of(await chat(FakeEngine(fails("ab", "the runner broke"))), 500)
    assert error["message"] == "the runner broke"
    error = error_of(await chat(FakeEngine(fails("ab", "", reason="abort"))), 503)
    assert error["code"] == "shutting_down"


async def test_request_id_is_kept_if_plain() -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        body = {"model": MODEL, "messages": MESSAGES}
        path = "/v1/chat/completions"
        given = await client.post(path, json=body, headers={"X-Request-Id": "my-id.1"})
        hostile = await client.post(path, json=body, headers={"X-Request-Id": "a b\tc"})
    assert given.headers["x-request-id"] == "my-id.1"
    assert given.json()["id"] == "chatcmpl-my-id.1"
    assert len(hostile.headers["x-request-id"]) == 32
