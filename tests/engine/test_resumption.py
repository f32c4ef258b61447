"""Streams whose engine dies under them say what they would have said (design: promise 7).

The engine runs in this process and dies between two steps, at any of them; what takes a process of
its own is in ``test_supervised_process.py``.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from radixserve import LLM, SamplingParams
from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.interface import TextDelta
from radixserve.engine.request_stream import RequestStream
from radixserve.engine.resumption import SETTLED_TOKENS, LiveRequest
from radixserve.errors import EngineDeadError
from radixserve.ids import Namespace, RequestId
from radixserve.sampling.params import SamplingDefaults
from radixserve.types import CacheReport, EngineRequest, ResumedChoice, TokenDelta
from tests.engine.in_process_client import client_of, use_in_process_client
from tests.engine.reference import SMALLEST_GAP, family_prompts, transformers_greedy

SETTINGS: dict[str, Any] = {"dtype": "float32", "num_pages": 60, "num_threads": 1}
PROMPTS = family_prompts(seed=3)
SALT = Namespace("salt")


@pytest.fixture
async def engine(loose_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    use_in_process_client(monkeypatch)
    started = await AsyncEngine.start(EngineConfig(model=str(loose_dir), **SETTINGS))
    yield started
    await started.aclose()


async def read(stream: RequestStream) -> list[TextDelta]:
    return [delta async for delta in stream]


def told(deltas: list[TextDelta], index: int = 0) -> tuple[Any, ...]:
    """All that a client learns of one choice."""
    own = [delta for delta in deltas if delta.index == index]
    assert all(delta.finish_reason is None for delta in own[:-1])
    return (
        "".join(delta.text for delta in own),
        [token_id for delta in own for token_id in delta.token_ids],
        [
            (entry.token_id, pytest.approx(entry.logprob, abs=1e-4), [one for one, _ in entry.top])
            for delta in own
            for entry in delta.logprobs or ()
        ],
        own[-1].finish_reason,
        own[-1].stop_reason,
    )


def told_ids(deltas: list[TextDelta]) -> list[int]:
    return [token_id for delta in deltas for token_id in delta.token_ids]


async def answers(
    engine: AsyncEngine, asked: Sequence[SamplingParams], deaths: Sequence[int] = ()
) -> list[list[TextDelta]]:
    """The answers to the first prompts; the engine dies after so many deltas altogether."""
    streams = [
        await engine.submit(prompt, params) for prompt, params in zip(PROMPTS, asked, strict=False)
    ]
    left = list(deaths)
    count = 0

    async def read_one(stream: RequestStream) -> list[TextDelta]:
        nonlocal count
        deltas = []
        async for delta in stream:
            deltas.append(delta)
            count += 1
            if left and count >= left[0]:
                left.pop(0)
                while not engine.health.is_up:
                    await asyncio.sleep(0)
                client_of(engine).die()
        return deltas

    result = await asyncio.gather(*map(read_one, streams))
    assert not left, "the engine did not die as often as it should"
    return result


KINDS = {
    "greedy": SamplingParams(temperature=0, max_tokens=30, ignore_eos=True),
    "seeded": SamplingParams(temperature=1.0, max_tokens=30, ignore_eos=True, top_p=0.95),
    "choices": SamplingParams(temperature=1.0, n=3, max_tokens=20, ignore_eos=True),
    "logprobs": SamplingParams(temperature=1.0, logprobs=3, max_tokens=20, ignore_eos=True),
    "penalties": SamplingParams(
        temperature=0.7,
        max_tokens=25,
        presence_penalty=0.8,
        frequency_penalty=0.9,
        repetition_penalty=1.3,
        ignore_eos=True,
    ),
    "min_tokens": SamplingParams(
        temperature=1.0, max_tokens=30, min_tokens=18, stop_token_ids=tuple(range(0, 256, 2))
    ),
    "bias": SamplingParams(temperature=1.0, max_tokens=20, logit_bias={65: 4.0, 66: 3.0}),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_goes_on_as_if_nothing_had_happened(engine: AsyncEngine, kind: str) -> None:
    asked = [replace(KINDS[kind], seed=number) for number in range(5)]
    undisturbed = await answers(engine, asked)
    assert engine.health.num_restarts == 0
    rng = random.Random(kind)
    for _ in range(2):
        total = sum(map(len, undisturbed))
        deaths = sorted(rng.randrange(1, total - 10) for _ in range(3))
        await engine.clear_cache()
        disturbed = await answers(engine, asked, deaths)
        for before, after, params in zip(undisturbed, disturbed, asked, strict=True):
            for index in range(params.n):
                assert told(after, index) == told(before, index)
    assert engine.health.num_restarts == 6
    assert engine.health.num_resumed_requests > 6
    core = client_of(engine).core
    core.check_invariants()
    assert core.cache_info().in_use_pages == 0


async def test_greedy_answers_are_those_of_transformers(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_in_process_client(monkeypatch)
    reference = transformers_greedy(tiny_dir, PROMPTS[:8], 24)
    assert reference.smallest_gap > SMALLEST_GAP
    engine = await AsyncEngine.start(EngineConfig(model=str(tiny_dir), **SETTINGS))
    try:
        greedy = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
        disturbed = await answers(engine, [greedy] * 8, [3, 40, 41, 120])
    finally:
        await engine.aclose()
    assert [told(deltas)[1] for deltas in disturbed] == reference.tokens


@pytest.mark.parametrize("enable_prefix_cache", [True, False])
async def test_a_pool_too_small_for_all_makes_no_difference(
    loose_dir: Path, monkeypatch: pytest.MonkeyPatch, enable_prefix_cache: bool
) -> None:
    """Preempted before, resumed after, preempted again."""
    use_in_process_client(monkeypatch)
    settings = SETTINGS | {"num_pages": 16, "enable_prefix_cache": enable_prefix_cache}
    asked = [
        SamplingParams(seed=number, temperature=1.0, n=1 + number % 2, max_tokens=40)
        for number in range(8)
    ]
    with LLM(str(loose_dir), **SETTINGS) as llm:
        expected = llm.generate(PROMPTS[:8], asked)
    engine = await AsyncEngine.start(EngineConfig(model=str(loose_dir), **settings))
    try:
        disturbed = await answers(engine, asked, [20, 90, 150])
        assert engine.stats.preemptions > 0
    finally:
        await engine.aclose()
    for deltas, output in zip(disturbed, expected, strict=True):
        for choice in output.choices:
            text, token_ids, _, reason, _ = told(deltas, choice.index)
            assert (text, token_ids) == (choice.text, choice.token_ids)
            assert reason == choice.finish_reason


async def test_what_the_first_admission_found_is_told_once_and_stays(engine: AsyncEngine) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, n=2)
    await read(await engine.submit(PROMPTS[0], params))
    stream = await engine.submit(PROMPTS[0], params)
    deltas = [await anext(stream)]
    before = engine.stats
    client_of(engine).die()
    deltas += await read(stream)
    num_cached = len(PROMPTS[0]) - 1
    assert {delta.num_cached_tokens for delta in deltas} == {num_cached}
    (report,) = [delta.cache_report for delta in deltas if delta.cache_report is not None]
    assert report.device_tokens == num_cached
    # Counted once, too, though another engine has counted since.
    after = engine.stats
    assert (after.prompt_tokens, after.cached_tokens) == (
        before.prompt_tokens,
        before.cached_tokens,
    )
    assert after.admissions == before.admissions
    assert after.generated_tokens >= before.generated_tokens
    assert after.generated_tokens - 2 * 12 - 2 * 12 <= 4, "at most what was lost, twice"


async def test_a_request_that_had_said_nothing_begins_anew(engine: AsyncEngine) -> None:
    """Its first admission is the second engine's, so that is what is told of it."""
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    await read(await engine.submit(PROMPTS[0], params))
    stream = await engine.submit(PROMPTS[0], params)
    client_of(engine).die()
    deltas = await read(stream)
    assert {delta.num_cached_tokens for delta in deltas} == {0}
    assert deltas[0].cache_report is not None
    assert deltas[0].cache_report.computed_tokens == len(PROMPTS[0])


async def test_a_stop_string_across_a_death_is_seen(engine: AsyncEngine) -> None:
    params: dict[str, Any] = {"temperature": 0, "max_tokens": 40, "ignore_eos": True}
    whole, *_ = told(await read(await engine.submit(PROMPTS[3], SamplingParams(**params))))
    stop = whole[6:12]
    stream = await engine.submit(PROMPTS[3], SamplingParams(**params, stop=(stop,)))
    deltas: list[TextDelta] = []
    # So far that the stop string's beginning is held back.
    while len(told_ids(deltas)) < len(whole[: whole.index(stop) + 2]):
        deltas.append(await anext(stream))
    client_of(engine).die()
    deltas += await read(stream)
    assert told(deltas)[0] == whole[: whole.index(stop)]
    assert deltas[-1].stop_reason == stop


async def test_choices_that_have_ended_are_not_resumed(engine: AsyncEngine) -> None:
    """One by a stop token, one by a stop string; the third goes on."""
    params = SamplingParams(temperature=1.0, n=3, seed=5, max_tokens=30, ignore_eos=True)
    undisturbed = await read(await engine.submit(PROMPTS[5], params))
    ids = [told(undisturbed, index)[1] for index in range(3)]
    stop_id = next(one for one in ids[0][3:8] if one not in ids[1] + ids[2])
    params = replace(params, stop_token_ids=(stop_id,))
    expected = await read(await engine.submit(PROMPTS[5], params))
    stream = await engine.submit(PROMPTS[5], params)
    deltas: list[TextDelta] = []
    while not deltas or deltas[-1].finish_reason is None:
        deltas.append(await anext(stream))
    assert deltas[-1].index == 0
    client_of(engine).die()
    deltas += await read(stream)
    for index in range(3):
        assert told(deltas, index) == told(expected, index)


async def test_while_there_is_no_engine_requests_wait_and_may_be_aborted(
    engine: AsyncEngine,
) -> None:
    params = SamplingParams(temperature=0, max_tokens=9, ignore_eos=True)
    running = await engine.submit(PROMPTS[1], params)
    await anext(running)
    client_of(engine).die()
    while engine._supervisor._trials.num_inside:
        await asyncio.sleep(0)
    assert not engine.health.is_up
    assert not engine.health.is_ready
    assert engine.is_alive
    with pytest.raises(EngineDeadError, match="being restarted"):
        await engine.cache_stats()
    gone, stays = await engine.submit(PROMPTS[2], params), await engine.submit(PROMPTS[0], params)
    assert engine.stats.num_waiting == 3
    await gone.aclose()
    await running.aclose()
    assert engine.stats.num_waiting == 1
    assert len(told(await read(stays))[1]) == 9
    assert engine.stats.computed_tokens < len(PROMPTS[0]) + len(PROMPTS[1]) + 2 * 9 + 9
    assert engine._streams == {}
    assert len(engine._supervisor._requests) == 0


async def test_a_shutdown_during_a_restart_ends_the_streams(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = await engine.submit(PROMPTS[1], SamplingParams(max_tokens=400, ignore_eos=True))
    await anext(stream)

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(type(client_of(engine)), "start", never)
    client_of(engine).die()
    for _ in range(5):
        await asyncio.sleep(0)
    await engine.drain(0.0)
    await engine.aclose()
    deltas = await read(stream)
    assert deltas[-1].finish_reason == "abort"


# -- what is known of one request -----------------------------------------------------------------


def request_of(n: int = 1, max_tokens: int = 8) -> EngineRequest:
    params = SamplingParams(n=n, seed=1).resolve(SamplingDefaults(), max_tokens=max_tokens, seed=1)
    return EngineRequest(
        request_id=RequestId("r"), prompt_ids=[1, 2], params=params, end_token_ids=[0]
    )


def delta_of(index: int, *token_ids: int, **more: Any) -> TokenDelta:
    return TokenDelta(request_id=RequestId("r"), index=index, token_ids=list(token_ids), **more)


REPORT = CacheReport(device_tokens=5, in_flight_tokens=0, computed_tokens=2, cause="never_seen")


def test_only_living_choices_are_resumed_each_with_all_that_was_delivered() -> None:
    live = LiveRequest(request_of(n=3))
    assert live.begin() == live.request
    for index in range(3):
        live.take(delta_of(index, 10 + index, num_cached_tokens=5))
    live.take(delta_of(1, 0, finish_reason="stop"))
    live.end(2)
    live.end(2)
    live.take(delta_of(0, 20))
    assert live.take(delta_of(1, 33)) is None, "it has ended"
    assert live.begin().resumed == [ResumedChoice(index=0, token_ids=[10, 20])]
    live.take(delta_of(0, 30))
    assert live.begin().resumed == [ResumedChoice(index=0, token_ids=[10, 20, 30])]
    assert not live.is_finished
    live.take(delta_of(0, finish_reason="error"))
    assert live.is_finished


def test_later_admissions_are_not_told() -> None:
    live = LiveRequest(request_of())
    live.begin()
    first = delta_of(0, 1, num_cached_tokens=5, cache_report=REPORT, prompt_logprobs=[None, None])
    assert live.take(first) == first
    live.begin()
    again = delta_of(0, 2, cache_report=REPORT, prompt_logprobs=[None, None])
    assert live.take(again) == delta_of(0, 2, num_cached_tokens=5)


def test_a_request_has_settled_when_every_choice_has_got_on() -> None:
    live = LiveRequest(request_of(n=2, max_tokens=99))
    live.begin()
    verdicts = []
    for delta in (
        *[delta_of(0, 1)] * SETTLED_TOKENS,
        delta_of(1, *[1] * (SETTLED_TOKENS - 1)),
        delta_of(1, 0, finish_reason="stop"),
    ):
        live.take(delta)
        verdicts.append(live.has_settled)
    # Not before the other choice has, or has ended.
    assert verdicts == [False] * (SETTLED_TOKENS + 1) + [True]
    live.begin()
    assert not live.has_settled, "in this engine it has not"


@pytest.mark.parametrize(
    ("n", "deltas"),
    [
        (1, [delta_of(0, *range(1, 9))]),
        (1, [delta_of(0, 3, 0)]),
        (2, [delta_of(0, 3)]),
    ],
)
def test_what_cannot_be_is_not_sent_to_an_engine(n: int, deltas: list[TokenDelta]) -> None:
    """As long as it may be, ended by a stop token, or half begun: the engine has said otherwise."""
    live = LiveRequest(request_of(n=n))
    live.begin()
    for delta in deltas:
        live.take(delta)
    with pytest.raises(AssertionError):
        live.begin()
