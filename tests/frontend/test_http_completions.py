"""``/v1/completions`` over plain HTTP."""

import pytest

from radixserve.engine.interface import TextDelta
from radixserve.errors import EngineDeadError
from tests.frontend.fake_engine import FakeEngine, Submitted, delta_of, fails, says
from tests.frontend.http_calls import COMPLETIONS, complete, error_of, events_of, post
from tests.frontend.http_fixtures import MODEL


async def test_answer_in_one_piece() -> None:
    response = await complete(FakeEngine(), max_tokens=3)
    answer = response.json()
    assert answer.pop("id") == f"cmpl-{response.headers['x-request-id']}"
    assert answer.pop("created") > 0
    assert answer == {
        "object": "text_completion",
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "text": "abc",
                "logprobs": None,
                "finish_reason": "length",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


async def test_stream() -> None:
    response = await complete(
        FakeEngine(), max_tokens=2, stream=True, stream_options={"include_usage": True}
    )
    first, second, usage, done = events_of(response)
    assert first["object"] == "text_completion"
    assert first["choices"] == [{"index": 0, "text": "a", "logprobs": None, "finish_reason": None}]
    assert second["choices"][0]["finish_reason"] == "length"
    assert first["usage"] is None
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 4}
    assert done == "[DONE]"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([97, 98], ["ab"]),
        ([[97], [98, 99]], ["a", "bc"]),
        ("a\0b", ["a\0b"]),
    ],
)
async def test_four_forms_of_prompts(prompt: object, expected: list[str]) -> None:
    engine = FakeEngine()
    response = await complete(engine, prompt=prompt)
    assert response.status_code == 200, response.text
    assert [submitted.prompt for submitted in engine.submitted] == expected


def _shout(submitted: Submitted) -> list[TextDelta]:
    """Say the prompt back, a letter at a time, with the choice's number behind each."""
    n = submitted.params.n
    deltas: list[TextDelta] = []
    for position, letter in enumerate(submitted.prompt):
        deltas += [
            delta_of(
                f"{letter}{index}",
                index=index,
                finish_reason="stop" if position == len(submitted.prompt) - 1 else None,
                num_cached_tokens=len(submitted.prompt) - 1,
            )
            for index in range(n)
        ]
    return deltas


@pytest.mark.parametrize("stream", [False, True])
async def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(stream: bool) -> None:
    engine = FakeEngine(_shout)
    response = await complete(
        engine,
        prompt=["ab", "xyz"],
        n=2,
        stream=stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    )
    if stream:
        *chunks, last, _ = events_of(response)
        usage = last["usage"]
        texts = ["", "", "", ""]
        for chunk in chunks:
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    else:
        usage = response.json()["usage"]
        texts = [choice["text"] for choice in response.json()["choices"]]
        assert [choice["index"] for choice in response.json()["choices"]] == [0, 1, 2, 3]
    assert texts == ["a0b0", "a1b1", "x0y0z0", "x1y1z1"]
    assert usage == {
        "prompt_tokens": 5,
        "completion_tokens": 20,
        "total_tokens": 25,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


async def test_one_prompt_that_cannot_start_stops_all() -> None:
    engine = FakeEngine()
    error = error_of(await complete(engine, prompt=["fine", "x" * 5000, "fine"]), 400)
    assert error["code"] == "context_length_exceeded"
    assert [submitted.was_aborted for submitted in engine.submitted] == [True]


async def test_one_prompt_that_fails_stops_all() -> None:
    def script(submitted: Submitted) -> list[TextDelta | Exception]:
        return [*fails("", "broken")(submitted)] if submitted.prompt == "bad" else []

    engine = FakeEngine(script)
    engine.gate.hold(1)
    error = error_of(await complete(engine, prompt=["bad", "good"]), 500)
    assert error["message"] == "broken"
    assert all(submitted.closed.is_set() for submitted in engine.submitted)


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs(stream: bool) -> None:
    response = await complete(FakeEngine(), max_tokens=3, logprobs=2, stream=stream)
    if stream:
        parts = [chunk["choices"][0]["logprobs"] for chunk in events_of(response)[:-1]]
        logprobs = {key: [entry for part in parts for entry in part[key]] for key in parts[0]}
    else:
        logprobs = response.json()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [
            {"a": -0.5, "b": -1.5},
            {"b": -0.5, "c": -1.5},
            {"c": -0.5, "d": -1.5},
        ],
        "text_offset": [0, 1, 2],
    }


async def test_one_prompt_whose_stream_breaks_stops_all(caplog: pytest.LogCaptureFixture) -> None:
    def script(submitted: Submitted) -> list[TextDelta | Exception]:
        return [EngineDeadError("gone")] if submitted.prompt == "bad" else [delta_of("x")] * 500

    engine = FakeEngine(script)
    error = error_of(await complete(engine, prompt=["good", "bad"]), 503)
    assert error["message"] == "gone"
    events = events_of(await complete(engine, prompt=["good", "bad"], stream=True))
    assert events[-1]["error"]["code"] == "engine_dead"
    assert all(submitted.closed.is_set() for submitted in engine.submitted)


async def test_text_held_back_makes_no_event() -> None:
    chunks = events_of(await complete(FakeEngine(says("", "ab", "", "")), stream=True))[:-1]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["ab", ""]


async def test_fields_that_mean_off_are_accepted() -> None:
    response = await complete(FakeEngine(), echo=False, suffix="", best_of=1, user="u")
    assert response.status_code == 200, response.text


async def test_too_many_answers() -> None:
    error = error_of(await complete(FakeEngine(), prompt=["a"] * 100, n=3), 400)
    assert error["param"] == "prompt"
    assert "300" in error["message"]
    assert "256" in error["message"]


async def test_models_own_path_is_also_its_name() -> None:
    response = await post(FakeEngine(), COMPLETIONS, prompt="x", model=MODEL)
    assert response.status_code == 200
