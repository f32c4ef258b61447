"""Streams over an engine: text as it comes, ends that arrive, and nothing left behind.

The engine runs in this process (``in_process_client.py``); what only a process can show is in
``test_engine_process.py``.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from radixserve import LLM, SamplingParams
from radixserve.config import EngineConfig
from radixserve.engine import supervisor
from radixserve.engine.async_engine import SERVING_ITL_STRETCH, AsyncEngine
from radixserve.engine.interface import TextDelta
from radixserve.engine.request_stream import RequestStream
from radixserve.errors import (
    ConfigError,
    InvalidRequestError,
    ShuttingDownError,
)
from radixserve.scheduler.plan import StepPlan, StepResult
from tests.engine.in_process_client import (
    InProcessClient,
    client_of,
    is_sending,
    use_in_process_client,
)
from tests.engine.reference import family_prompts

SETTINGS: dict[str, Any] = {"dtype": "float32", "num_pages": 60, "num_threads": 1}
PROMPTS = family_prompts(seed=3)


@pytest.fixture
async def engine(noise_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    use_in_process_client(monkeypatch)
    started = await AsyncEngine.start(EngineConfig(model=str(noise_dir), **SETTINGS))
    yield started
    await started.aclose()


async def read(stream: RequestStream) -> list[TextDelta]:
    return [delta async for delta in stream]


def joined(deltas: list[TextDelta], index: int = 0) -> tuple[str, list[int]]:
    own = [delta for delta in deltas if delta.index == index]
    return "".join(delta.text for delta in own), [id_ for delta in own for id_ in delta.token_ids]


async def settle(engine: AsyncEngine) -> None:
    """Let aborts that are on their way arrive, and the core finish what it has."""
    for _ in range(2000):
        if not is_sending(engine) and not client_of(engine).core.has_work:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"the engine does not come to rest: {engine.stats}")


async def assert_nothing_leaked(engine: AsyncEngine) -> None:
    await settle(engine)
    core = client_of(engine).core
    core.check_invariants()
    info = core.cache_info()
    assert info.in_use_pages == 0
    assert info.free_pages + info.cached_pages == info.total_pages
    assert engine._streams == {}
    # Nobody is left to wait for.
    await engine.drain(0.0)


async def test_streams_run_together_and_say_what_the_offline_api_says(
    engine: AsyncEngine, noise_dir: Path
) -> None:
    params = [
        SamplingParams(seed=row, temperature=1.0, max_tokens=20, n=1 + row % 3, logprobs=1)
        for row in range(12)
    ]
    with LLM(str(noise_dir), **SETTINGS) as llm:
        expected = llm.generate(PROMPTS[:12], params)
    streams = [
        await engine.submit(prompt, own) for prompt, own in zip(PROMPTS, params, strict=False)
    ]
    answers = await asyncio.gather(*map(read, streams))
    # Together: far fewer steps than one request after the other would have taken.
    assert engine.stats.num_steps < 12 * 20 / 2
    for deltas, output in zip(answers, expected, strict=True):
        for choice in output.choices:
            assert joined(deltas, choice.index) == (choice.text, choice.token_ids)
            own = [delta for delta in deltas if delta.index == choice.index]
            assert own[-1].finish_reason == choice.finish_reason
            assert all(delta.finish_reason is None for delta in own[:-1])
            logprobs = [entry for delta in own for entry in delta.logprobs or ()]
            assert [entry.token_id for entry in logprobs] == choice.token_ids
    await assert_nothing_leaked(engine)


async def test_cached_tokens_are_in_every_delta(engine: AsyncEngine) -> None:
    params = SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    await read(await engine.submit(PROMPTS[0], params))
    deltas = await read(await engine.submit(PROMPTS[0], params))
    assert {delta.num_cached_tokens for delta in deltas} == {len(PROMPTS[0]) - 1}


async def test_stop_string_aborts_the_rest_in_the_engine_though_nobody_reads(
    engine: AsyncEngine,
) -> None:
    params: dict[str, Any] = {"temperature": 0, "max_tokens": 500, "ignore_eos": True}
    whole, _ = joined(await read(await engine.submit([72, 105], SamplingParams(**params))))
    before = engine.stats.generated_tokens
    stop = whole[30:34]
    stream = await engine.submit([72, 105], SamplingParams(**params, stop=(stop,)))
    await settle(engine)
    # The abort is on its way while the next steps run.
    assert engine.stats.generated_tokens - before < 45
    deltas = await read(stream)
    assert joined(deltas)[0] == whole[: whole.index(stop)]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", stop)
    await assert_nothing_leaked(engine)


async def test_a_refused_request_starts_nothing(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidRequestError, match="prompt is empty"):
        await engine.submit([], SamplingParams())
    assert engine._streams == {}
    assert engine.stats.num_steps == 0
    assert engine.stats.cache.free_pages == engine.stats.cache.total_pages == 60


async def test_closing_a_stream_aborts_it_and_wakes_its_reader(engine: AsyncEngine) -> None:
    stream = await engine.submit([72, 105], SamplingParams(max_tokens=400, ignore_eos=True))
    first = await anext(stream)
    assert first.finish_reason is None
    reader = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    await stream.aclose()
    await stream.aclose()
    await reader
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    await assert_nothing_leaked(engine)
    assert engine.stats.generated_tokens < 50


async def test_closing_after_the_end_is_nothing(engine: AsyncEngine) -> None:
    stream = await engine.submit([72], SamplingParams(max_tokens=2))
    await settle(engine)
    await stream.aclose()
    # What came before is still there to be read.
    assert len(joined(await read(stream))[1]) == 2


@pytest.mark.parametrize("seed", range(3))
async def test_random_disconnects_leak_nothing(engine: AsyncEngine, seed: int) -> None:
    """Streams closed, readers cancelled and submissions cancelled, each at a random moment."""
    rng = random.Random(seed)
    whole = {}
    for row in range(6):
        params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
        whole[row] = joined(await read(await engine.submit(PROMPTS[row], params)))[1]

    async def client(number: int) -> str:
        row = number % 6
        params = SamplingParams(
            temperature=0, max_tokens=rng.randint(1, 12), ignore_eos=True, n=rng.choice([1, 1, 2])
        )
        stream = await engine.submit(PROMPTS[row], params)
        patience = rng.choice([0, 1, 3, 100])
        got: list[int] = []
        try:
            async for delta in stream:
                if delta.index == 0:
                    got += delta.token_ids
                if patience == 0:
                    return "left"
                patience -= 1
        finally:
            await stream.aclose()
        assert got == whole[row][: params.max_tokens]
        return "read"

    tasks = []
    for number in range(80):
        tasks.append(asyncio.create_task(client(number)))
        for _ in range(rng.randint(0, 3)):
            await asyncio.sleep(0)
        if rng.random() < 0.4:
            # The newest may still be submitting.
            rng.choice(tasks[-3:]).cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results.count("read") > 10
    assert results.count("left") > 5
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 10
    assert [r for r in results if isinstance(r, Exception)] == []
    await assert_nothing_leaked(engine)


async def test_a_failed_step_ends_every_choice_of_its_requests_and_nothing_else(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three choices are still one row when the first step fails: all three must hear of it."""

    def broken(plan: StepPlan) -> StepResult:
        raise MemoryError("too much")

    with monkeypatch.context() as patch:
        patch.setattr(client_of(engine).core._runner, "launch", broken)
        deltas = await read(await engine.submit([72], SamplingParams(n=3, max_tokens=4)))
    assert [delta.finish_reason for delta in deltas] == ["error"] * 3
    assert {delta.index for delta in deltas} == {0, 1, 2}
    assert all("too much" in (delta.error or "") for delta in deltas)
    fine = await read(await engine.submit([72], SamplingParams(max_tokens=4, ignore_eos=True)))
    assert fine[-1].finish_reason == "length"
    await assert_nothing_leaked(engine)


async def test_drain_waits_for_what_runs_and_takes_no_more(engine: AsyncEngine) -> None:
    stream = await engine.submit([72], SamplingParams(max_tokens=15, ignore_eos=True))
    draining = asyncio.create_task(engine.drain(60.0))
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDownError):
        await engine.submit([72], SamplingParams())
    assert not draining.done()
    assert len(joined(await read(stream))[1]) == 15
    await draining
    assert engine.is_alive


async def test_drain_gives_up_when_the_time_is_up_and_close_ends_the_streams(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    stream = await engine.submit([72], SamplingParams(n=2, max_tokens=400, ignore_eos=True))
    await engine.drain(0.0)
    assert "1 requests were still running" in caplog.text
    await engine.aclose()
    await engine.aclose()
    deltas = await read(stream)
    ends = [delta for delta in deltas if delta.finish_reason is not None]
    assert sorted((delta.index, delta.finish_reason) for delta in ends) == [
        (0, "abort"),
        (1, "abort"),
    ]
    assert all("shutting down" in (delta.error or "") for delta in ends)
    assert not engine.is_alive
    with pytest.raises(ShuttingDownError):
        await engine.submit([72], SamplingParams())


async def test_an_abort_that_meets_a_dying_engine_is_not_an_error(engine: AsyncEngine) -> None:
    stream = await engine.submit([72], SamplingParams(max_tokens=400, ignore_eos=True))
    await anext(stream)
    await stream.aclose()
    assert is_sending(engine)
    client_of(engine).die()
    while is_sending(engine):
        await asyncio.sleep(0)


async def test_serving_paces_unless_told_otherwise(
    noise_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[EngineConfig] = []

    class Spy(InProcessClient):
        @classmethod
        async def start(cls, config: EngineConfig, **callbacks: Any) -> Any:
            seen.append(config)
            return await super().start(config, **callbacks)

    monkeypatch.setattr(supervisor, "EngineClient", Spy)
    for stretch in (None, 5.0):
        config = EngineConfig(model=str(noise_dir), max_itl_stretch=stretch, **SETTINGS)
        await (await AsyncEngine.start(config)).aclose()
    assert [config.max_itl_stretch for config in seen] == [SERVING_ITL_STRETCH, 5.0]


async def test_a_bad_chat_template_ends_the_engine_again(
    noise_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[InProcessClient] = []

    class Spy(InProcessClient):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            clients.append(self)

    monkeypatch.setattr(supervisor, "EngineClient", Spy)
    config = EngineConfig(model=str(noise_dir), chat_template="{% if %}", **SETTINGS)
    with pytest.raises(ConfigError):
        await AsyncEngine.start(config)
    assert [client.is_alive for client in clients] == [False]
