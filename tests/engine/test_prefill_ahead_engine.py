"""Prefixes that nobody has asked for, from the server's engine to the core and back."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.build import build_core
from radixserve.engine.core import EngineCore
from radixserve.engine.request_stream import RequestStream
from radixserve.errors import ContextLengthError, InvalidRequestError
from radixserve.ids import Namespace, RequestId
from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.params import SamplingDefaults, SamplingParams
from radixserve.types import EngineRequest
from tests.engine.in_process_client import client_of, is_sending, use_in_process_client

SETTINGS: dict[str, Any] = {"dtype": "float32", "num_pages": 160, "num_threads": 1}
PREFIX = [32 + position * 7 % 90 for position in range(400)]
NUM_TOKENS = 8


@pytest.fixture
async def engine(noise_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    use_in_process_client(monkeypatch)
    started = await AsyncEngine.start(EngineConfig(model=str(noise_dir), **SETTINGS))
    yield started
    core = client_of(started).core
    core.check_invariants()
    assert core.cache_info().in_use_pages == 0
    await started.aclose()


def core_of(engine: AsyncEngine) -> EngineCore:
    return client_of(engine).core


async def arrived(engine: AsyncEngine) -> None:
    """All messages are with the core; it has not stepped since, or once."""
    while is_sending(engine):
        await asyncio.sleep(0)


async def idle(engine: AsyncEngine) -> None:
    await arrived(engine)
    while (await engine.cache_stats()).engine.num_ahead:
        pass


async def ask(engine: AsyncEngine, namespace: str = "") -> tuple[int, list[int]]:
    """How much of prefix and question is cached, and what they are answered."""
    params = SamplingParams(temperature=0, max_tokens=NUM_TOKENS)
    stream = await engine.submit([*PREFIX, 63], params, namespace=Namespace(namespace))
    return await read(stream)


async def read(stream: RequestStream) -> tuple[int, list[int]]:
    deltas = [delta async for delta in stream]
    assert deltas[-1].finish_reason == "length"
    return deltas[0].num_cached_tokens, [id_ for delta in deltas for id_ in delta.token_ids]


async def test_a_prefix_is_warm_when_its_request_comes_and_answered_the_same(
    engine: AsyncEngine,
) -> None:
    cold = await ask(engine, "cold")
    engine.prefill_ahead(PREFIX, namespace=Namespace("warm"), tenant="a")
    await idle(engine)
    assert engine.stats.prefilled_tokens == len(PREFIX)
    assert await ask(engine, "warm") == (len(PREFIX), cold[1])
    assert (await ask(engine, "other"))[0] == 0


async def test_a_newcomer_need_not_wait_for_all_of_it(engine: AsyncEngine) -> None:
    cold = await ask(engine, "cold")
    engine.prefill_ahead(PREFIX, namespace=Namespace("warm"))
    # One step of it at most, and then the newcomer is there.
    num_cached, tokens = await ask(engine, "warm")
    assert num_cached in (0, 256)
    assert tokens == cold[1]
    # It was its own turn.
    await idle(engine)
    assert engine.stats.prefilled_tokens == num_cached
    assert engine.stats.num_running == 0


async def test_figures_are_told_while_it_is_computed(engine: AsyncEngine) -> None:
    engine.prefill_ahead(PREFIX)
    await arrived(engine)
    while engine.stats.prefilled_tokens < len(PREFIX):
        # Nobody asks: they come by themselves.
        await asyncio.sleep(0)
    assert engine.stats.num_ahead == 0


async def test_a_drain_does_not_wait_for_it(engine: AsyncEngine) -> None:
    engine.prefill_ahead(PREFIX)
    await arrived(engine)
    await engine.drain(0.0)
    # And takes no more.
    engine.prefill_ahead(PREFIX, namespace=Namespace("late"))
    assert not is_sending(engine)


async def test_what_no_prompt_could_begin_with_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidRequestError, match="vocabulary"):
        engine.prefill_ahead([10**6])
    with pytest.raises(ContextLengthError):
        engine.prefill_ahead([65] * 5000)
    with pytest.raises(InvalidRequestError, match="empty"):
        engine.prefill_ahead([])
    assert not is_sending(engine)


async def test_another_process_is_not_told_of_it(engine: AsyncEngine) -> None:
    engine.prefill_ahead(PREFIX)
    await idle(engine)
    engine.prefill_ahead(PREFIX, namespace=Namespace("lost"))
    await arrived(engine)
    client_of(engine).die()
    while not engine.health.is_up or engine.health.num_restarts == 0:
        # While there is no process it is nobody's: said to none, and no error.
        engine.prefill_ahead(PREFIX, namespace=Namespace("lost"))
        await asyncio.sleep(0.01)
    await idle(engine)
    # What was counted goes on.
    assert engine.stats.prefilled_tokens >= len(PREFIX)
    assert core_of(engine).stats().prefilled_tokens == 0
    assert (await ask(engine, "lost"))[0] == 0


async def test_a_cleared_namespace_stays_clear(engine: AsyncEngine) -> None:
    core = core_of(engine)
    for name in ("a", "b"):
        core.prefill_ahead(PREFIX, Namespace(name))
    core.step()
    core.clear_cache(Namespace("b"))
    while core.can_step:
        core.step()
    assert core.explain(PREFIX, Namespace("b")).matched_tokens == 0
    assert core.explain(PREFIX, Namespace("a")).matched_tokens == len(PREFIX) - 1
    core.prefill_ahead([*PREFIX, *PREFIX], Namespace("a"))
    core.clear_cache()
    assert not core.can_step


def test_it_gets_on_while_a_grammar_is_compiled(
    noise_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that would wait for the grammar does not, as long as there is this to do."""
    core = build_core(EngineConfig(model=str(noise_dir), **SETTINGS), progress=False)
    may_go_on = threading.Event()
    whole = core.grammars.compile

    def compile_late(grammar: GrammarSpec) -> Any:
        assert may_go_on.wait(20)
        return whole(grammar)

    monkeypatch.setattr(core.grammars, "compile", compile_late)
    spec = GrammarSpec(kind="regex", source="a+")
    params = SamplingParams(grammar=spec).resolve(SamplingDefaults(), max_tokens=2, seed=0)
    request = EngineRequest(
        request_id=RequestId("late"), prompt_ids=[65], params=params, end_token_ids=[]
    )
    core.add(request)
    core.prefill_ahead(PREFIX)
    while core.can_step:
        assert core.step() == []
    assert core.stats().prefilled_tokens == len(PREFIX)
    assert core.stats().num_waiting == 1
    may_go_on.set()
    deltas = []
    while core.has_work:
        deltas += core.step()
    assert [id_ for delta in deltas for id_ in delta.token_ids] == [97, 97]
    assert not core.can_step


def test_nobody_waits_for_it(noise_dir: Path) -> None:
    core = build_core(EngineConfig(model=str(noise_dir), **SETTINGS), progress=False)
    core.prefill_ahead(PREFIX)
    assert (core.has_work, core.can_step) == (False, True)
    while core.can_step:
        core.step()
    assert core.stats().prefilled_tokens == len(PREFIX)
