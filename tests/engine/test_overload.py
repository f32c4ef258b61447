"""What the engine does with more than it can do in time: refusals, deadlines, whose turn it is."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from radixserve import SamplingParams
from radixserve.config import EngineConfig, QueueLimits
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.interface import TextDelta
from radixserve.engine.request_stream import RequestStream
from radixserve.errors import (
    DeadlineError,
    EngineDeadError,
    InvalidRequestError,
    OverloadedError,
    RadixServeError,
)
from radixserve.types import MAX_DEADLINE_S, MAX_PRIORITY, EngineRequest
from tests.engine.in_process_client import client_of, is_sending, use_in_process_client

SETTINGS: dict[str, Any] = {
    "dtype": "float32",
    "num_pages": 60,
    "num_threads": 1,
    "max_running": 1,
}
LIMITS = QueueLimits(max_queued_requests=3, max_queued_tokens=100)
LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)


@pytest.fixture
async def engine(noise_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncEngine]:
    use_in_process_client(monkeypatch)
    config = EngineConfig(model=str(noise_dir), **SETTINGS)
    started = await AsyncEngine.start(config, LIMITS)
    yield started
    await started.aclose()


async def read(stream: RequestStream) -> list[TextDelta]:
    return [delta async for delta in stream]


async def rest(engine: AsyncEngine) -> None:
    """Let the engine end what it has; then nothing of it is left, here or there."""
    core = client_of(engine).core
    while is_sending(engine) or core.has_work:
        await asyncio.sleep(0)
    core.check_invariants()
    info = core.cache_info()
    assert info.in_use_pages == 0
    assert info.free_pages + info.cached_pages == info.total_pages
    assert len(engine._gate) == 0
    assert engine._streams == {}


async def running(engine: AsyncEngine) -> RequestStream:
    """A stream that has the only place."""
    stream = await engine.submit([72, 105], LONG)
    await anext(stream)
    assert len(engine._gate) == 0
    return stream


async def test_past_the_bound_requests_are_refused_and_nothing_is_left_of_them(
    engine: AsyncEngine,
) -> None:
    first = await running(engine)
    waiting = [await engine.submit([72, number], SHORT) for number in range(3)]
    for _ in range(5):
        with pytest.raises(OverloadedError, match="3 requests wait already") as caught:
            await engine.submit([1, 2, 3], SHORT)
        assert caught.value.retry_after_s >= 1
    assert len(engine._streams) == 4
    assert engine.stats.refused == {"requests": 5}
    await waiting[1].aclose()
    waiting[1] = await engine.submit([7, 8], SHORT)
    await first.aclose()
    answers = [await read(stream) for stream in waiting]
    assert all(deltas[-1].finish_reason == "length" for deltas in answers)
    await rest(engine)
    await read(await engine.submit([1, 2, 3], SHORT))
    await rest(engine)


async def test_tokens_that_wait_are_bounded_too(engine: AsyncEngine) -> None:
    first = await running(engine)
    await engine.submit([5] * 90, SHORT)
    with pytest.raises(OverloadedError, match="90 prompt tokens wait already, 11 more"):
        await engine.submit([5] * 11, SHORT)
    await engine.submit([5] * 10, SHORT)
    await first.aclose()
    await rest_after_abort(engine)


async def rest_after_abort(engine: AsyncEngine) -> None:
    for stream in tuple(engine._streams.values()):
        await stream.aclose()
    await rest(engine)


async def test_further_prompts_of_an_accepted_request_are_not_refused(engine: AsyncEngine) -> None:
    await running(engine)
    first = await engine.submit([5], SHORT)
    for number in range(8):
        await engine.submit([6, number], SHORT, follows=first.request_id)
    with pytest.raises(OverloadedError):
        await engine.submit([5], SHORT)
    await rest_after_abort(engine)


async def test_a_light_tenant_is_let_in_and_goes_first(engine: AsyncEngine) -> None:
    first = await running(engine)
    heavy = [await engine.submit([72, number], SHORT, tenant="heavy") for number in range(3)]
    with pytest.raises(OverloadedError):
        await engine.submit([72], SHORT, tenant="heavy")
    light = [await engine.submit([105, 9], SHORT, tenant="light")]
    await first.aclose()
    order = await in_order_of_their_ends(engine, {"h": heavy, "l": light})
    assert order in ("lhhh", "hlhh")
    await rest(engine)


async def test_the_smaller_priority_goes_first(engine: AsyncEngine) -> None:
    first = await running(engine)
    streams = {
        str(priority): [await engine.submit([72, priority + 10], SHORT, priority=priority)]
        for priority in (2, 1, -1)
    }
    await first.aclose()
    assert await in_order_of_their_ends(engine, streams) == "-112"
    await rest(engine)


async def in_order_of_their_ends(
    engine: AsyncEngine, streams: dict[str, list[RequestStream]]
) -> str:
    order: list[str] = []

    async def follow(name: str, stream: RequestStream) -> None:
        await read(stream)
        order.append(name)

    await asyncio.gather(*(follow(name, one) for name, own in streams.items() for one in own))
    return "".join(order)


async def test_when_the_time_is_up_the_reader_is_told_and_the_pages_come_back(
    engine: AsyncEngine,
) -> None:
    stream = await engine.submit([72, 105], LONG, deadline_s=1e-6)
    with pytest.raises(DeadlineError, match="the 1e-06 s that this request was given are up"):
        await read(stream)
    assert await read(stream) == []
    await stream.aclose()
    await rest(engine)
    assert engine.stats.generated_tokens < 20


async def test_what_came_before_the_deadline_is_read_first(engine: AsyncEngine) -> None:
    stream = await engine.submit([72, 105], LONG, deadline_s=1000.0)
    await anext(stream)
    while len(stream._deltas) < 3:
        await asyncio.sleep(0)
    stream._expire(1000.0)
    deltas = [await anext(stream) for _ in range(3)]
    with pytest.raises(DeadlineError):
        await anext(stream)
    assert all(delta.finish_reason is None for delta in deltas)
    await rest(engine)


async def test_a_waiting_request_can_run_out_of_time(engine: AsyncEngine) -> None:
    first = await running(engine)
    stream = await engine.submit([1, 2], SHORT, deadline_s=1e-6)
    with pytest.raises(DeadlineError):
        await anext(stream)
    assert len(engine._gate) == 0
    await first.aclose()
    await rest(engine)


async def test_a_request_that_ends_in_time_has_no_timer_left(engine: AsyncEngine) -> None:
    streams = [await engine.submit([72, number], SHORT, deadline_s=1000.0) for number in range(2)]
    await read(streams[0])
    await streams[1].aclose()
    for stream in streams:
        assert stream._deadline is not None
        assert stream._deadline.cancelled()
    await rest(engine)


@pytest.mark.parametrize("deadline_s", [0, -1.0, math.nan, math.inf, MAX_DEADLINE_S * 1.01])
async def test_deadlines_out_of_range(engine: AsyncEngine, deadline_s: float) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await engine.submit([72], SHORT, deadline_s=deadline_s)
    assert caught.value.param == "timeout"
    assert len(engine._gate) == 0


@pytest.mark.parametrize("priority", [-MAX_PRIORITY - 1, MAX_PRIORITY + 1, 2**70])
async def test_priorities_out_of_range(engine: AsyncEngine, priority: int) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await engine.submit([72], SHORT, priority=priority)
    assert caught.value.param == "priority"


async def test_who_is_refused_behind_the_gate_does_not_wait(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: EngineRequest) -> None:
        raise EngineDeadError(f"not {request.request_id}")

    monkeypatch.setattr(engine._supervisor, "submit", refuse)
    for _ in range(5):
        with pytest.raises(RadixServeError, match="not"):
            await engine.submit([72], SHORT)
    assert len(engine._gate) == 0


async def test_who_waits_while_the_engine_dies_is_counted_until_the_next_one_admits_it(
    engine: AsyncEngine,
) -> None:
    await running(engine)
    waiting = [await engine.submit([72, number], SHORT) for number in range(3)]
    client_of(engine).die()
    with pytest.raises(OverloadedError):
        await engine.submit([1, 2, 3], SHORT)
    for stream in tuple(engine._streams.values()):
        if stream not in waiting:
            await stream.aclose()
    for stream in waiting:
        assert (await read(stream))[-1].finish_reason == "length"
    await rest(engine)
