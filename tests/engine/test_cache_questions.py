"""Asking the engine about its cache: through messages, in process, and of one that goes away."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from radixserve import LLM, SamplingParams
from radixserve.config import EngineConfig
from radixserve.engine import process
from radixserve.engine.asking import OpenQuestions
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.messages import (
    Answer,
    Ask,
    CacheEvents,
    CacheStatsRead,
    ClearCache,
    Cleared,
    NotAnswered,
    ReadCacheStats,
    WatchFailed,
)
from radixserve.errors import (
    ContextLengthError,
    EngineDeadError,
    InvalidRequestError,
    RadixServeError,
)
from radixserve.ids import Namespace
from radixserve.types import CacheExplanation, CacheReport
from tests.engine.driving import make_core
from tests.engine.in_process_client import client_of, use_in_process_client

SETTINGS: dict[str, Any] = {"dtype": "float32", "num_pages": 60, "num_threads": 1}
PROMPT = list(range(40, 80))
GREEDY = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
SALT = Namespace("salt")


@pytest.fixture
async def engine(noise_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    use_in_process_client(monkeypatch)
    started = await AsyncEngine.start(EngineConfig(model=str(noise_dir), **SETTINGS))
    yield started
    await started.aclose()


@pytest.fixture(scope="module")
def llm(noise_dir: Path) -> LLM:
    return LLM(str(noise_dir), **SETTINGS)


async def reports_of(engine: AsyncEngine, **settings: Any) -> list[CacheReport]:
    stream = await engine.submit(PROMPT, GREEDY, **settings)
    return [delta.cache_report async for delta in stream if delta.cache_report is not None]


def told(explanation: CacheExplanation) -> tuple[int, str, bool | None]:
    return explanation.matched_tokens, explanation.cause, explanation.in_other_namespaces


# -- over messages --------------------------------------------------------------------------------


async def test_a_stream_carries_one_report(engine: AsyncEngine) -> None:
    (first,) = await reports_of(engine)
    (again,) = await reports_of(engine)
    assert (first.computed_tokens, first.cause) == (40, "never_seen")
    assert (again.device_tokens, again.computed_tokens, again.cause) == (39, 1, "complete")


async def test_explain_clear_and_stats(engine: AsyncEngine) -> None:
    await reports_of(engine, namespace=SALT)
    assert told(await engine.explain(PROMPT)) == (0, "never_seen", None)
    everywhere = await engine.explain(PROMPT, looks_elsewhere=True)
    assert told(everywhere) == (0, "never_seen", True)
    own = await engine.explain(PROMPT, namespace=SALT, looks_elsewhere=True)
    assert told(own) == (39, "complete", False)
    stats = await engine.cache_stats()
    assert (stats.num_namespaces, stats.num_nodes) == (1, 1)
    assert stats.engine.admissions == {"never_seen": 1}
    assert stats.engine.cache.cached_pages == 3
    assert await engine.clear_cache(Namespace("another")) == 0
    assert await engine.clear_cache(SALT) == 3
    assert told(await engine.explain(PROMPT, namespace=SALT)) == (0, "never_seen", None)
    await reports_of(engine)
    assert await engine.clear_cache() == 3
    stats = await engine.cache_stats()
    assert (stats.num_namespaces, stats.num_nodes) == (0, 0)
    assert stats.eviction_policy
    # What it was told last is what metrics show, though no step has run since.
    assert engine.stats.cache.cached_pages == 0


async def test_what_a_running_request_uses_is_not_cleared(engine: AsyncEngine) -> None:
    stream = await engine.submit(PROMPT, SamplingParams(max_tokens=60, ignore_eos=True))
    first = await anext(aiter(stream))
    assert first.cache_report is not None
    assert await engine.clear_cache() == 0
    assert told(await engine.explain(PROMPT))[0] == 32
    assert sum([len(delta.token_ids) async for delta in stream]) + len(first.token_ids) == 60


async def test_many_ask_at_once_and_each_gets_its_own_answer(engine: AsyncEngine) -> None:
    await reports_of(engine)
    lengths = range(2, 40)
    found = await asyncio.gather(*(engine.explain(PROMPT[:length]) for length in lengths))
    assert [each.matched_tokens for each in found] == [length - 1 for length in lengths]


async def test_who_goes_away_while_asking_harms_nobody(engine: AsyncEngine) -> None:
    asking = asyncio.ensure_future(engine.cache_stats())
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert engine._questions._waiting == {}
    assert (await engine.cache_stats()).num_nodes == 0


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ([], InvalidRequestError),
        ([10**12], InvalidRequestError),
        ([-1], InvalidRequestError),
        ([1] * 10**6, ContextLengthError),
    ],
)
async def test_what_could_not_be_served_is_not_explained(
    engine: AsyncEngine, prompt: list[int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await engine.explain(prompt)


async def test_a_dead_engine_answers_nothing(engine: AsyncEngine) -> None:
    await engine._supervisor.aclose()
    for question in (engine.explain(PROMPT), engine.clear_cache(), engine.cache_stats()):
        with pytest.raises(EngineDeadError):
            await question


async def test_who_waits_for_an_engine_that_ends_is_told(engine: AsyncEngine) -> None:
    for end in ("die", "aclose"):
        client = client_of(engine)
        client._task.cancel()
        asking = asyncio.ensure_future(engine._questions.ask(ClearCache(None)))
        for _ in range(4):
            await asyncio.sleep(0)
        assert not asking.done()
        if end == "die":
            client.die()
        else:
            await engine.aclose()
        with pytest.raises(EngineDeadError):
            await asking
        if end == "die":
            while not engine.health.is_up:
                await asyncio.sleep(0)
            # Of the next one one can ask.
            assert await engine.clear_cache() == 0


async def test_a_question_that_cannot_be_answered_is_an_error_and_no_more() -> None:
    sent: list[Ask] = []

    async def send(ask: Ask) -> None:
        sent.append(ask)

    questions = OpenQuestions(send)
    asking = asyncio.ensure_future(questions.ask(ClearCache(None)))
    await asyncio.sleep(0)
    questions.feed(Answer(sent[0].number, NotAnswered("ValueError: no")))
    with pytest.raises(RadixServeError, match="could not answer: ValueError: no"):
        await asking


async def test_an_error_that_nobody_awaits_is_not_left_behind() -> None:
    """Regression: sending raised after ``fail`` had told the one who asked; asyncio complains of
    an exception that was never retrieved."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, found: complaints.append(found))

    async def send(ask: Ask) -> None:
        questions.fail("gone")
        raise EngineDeadError("gone")

    questions = OpenQuestions(send)
    with pytest.raises(EngineDeadError):
        await questions.ask(ClearCache(None))
    gc.collect()
    assert complaints == []


async def test_late_and_foreign_answers_find_nobody() -> None:
    sent: list[Ask] = []

    async def send(ask: Ask) -> None:
        sent.append(ask)

    questions = OpenQuestions(send)
    asking = asyncio.ensure_future(questions.ask(ClearCache(None)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    (ask,) = sent
    questions.feed(Answer(ask.number + 1, Cleared(9)))
    questions.feed(Answer(ask.number, Cleared(7)))
    questions.feed(Answer(ask.number, Cleared(8)))
    questions.fail("too late to matter")
    assert await asking == Cleared(7)
    questions.feed(Answer(ask.number, Cleared(8)))


async def test_a_fault_in_an_answer_does_not_end_the_engine_process(
    noise_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Regression: an exception in a question, or in a snapshot, was the end of every stream."""
    core = make_core(noise_dir)

    def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    for name in ("clear_cache", "watch_cache"):
        monkeypatch.setattr(core, name, broken)
    assert process._reply(core, ClearCache(None)) == NotAnswered("ZeroDivisionError: oh")
    assert isinstance(process._reply(core, ReadCacheStats()), CacheStatsRead)
    assert process._watch(core, 1) == WatchFailed()
    assert caplog.text.count("Traceback") == 2
    monkeypatch.undo()
    watched = process._watch(core, 2)
    assert isinstance(watched, CacheEvents)
    assert (watched.events[0].kind, watched.snapshot) == ("snapshot", 2)


# -- in this process ------------------------------------------------------------------------------


def test_the_offline_api_explains_and_clears(llm: LLM) -> None:
    llm.clear_cache()
    assert told(llm.explain(PROMPT)) == (0, "never_seen", False)
    (first,) = llm.generate([PROMPT], GREEDY)
    (again,) = llm.generate([PROMPT], GREEDY, namespace=SALT)
    (third,) = llm.generate([PROMPT], GREEDY)
    assert [each.cache_report.cause for each in (first, again, third)] == [
        "never_seen",
        "never_seen",
        "complete",
    ]
    assert third.cache_report.matched_tokens == third.num_cached_tokens == 39
    assert told(llm.explain(PROMPT)) == (39, "complete", False)
    assert told(llm.explain([*PROMPT[:20], 1, 2, 3])) == (20, "diverged", False)
    assert llm.cache_stats().num_namespaces == 2
    assert llm.clear_cache(SALT) == 3
    assert told(llm.explain(PROMPT, namespace=SALT)) == (0, "never_seen", True)
    assert llm.clear_cache() == 3


def test_the_offline_api_takes_text(llm: LLM) -> None:
    explanation = llm.explain("Once upon a time")
    assert explanation.num_prompt_tokens == len(llm.tokenizer.encode("Once upon a time"))


def test_requests_that_come_together_tell_of_each_other(llm: LLM) -> None:
    llm.clear_cache()
    outputs = llm.generate([PROMPT, PROMPT], GREEDY)
    first, second = (output.cache_report for output in outputs)
    assert first.computed_tokens == 40
    assert second.device_tokens == 0
    assert second.in_flight_tokens >= 32
    assert second.in_flight_tokens + second.computed_tokens == 40
