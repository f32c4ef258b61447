"""Tenants take turns at having their grammars tried."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from radixserve.config import NO_QUEUE_LIMITS
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.grammar_turns import MAX_WAITING, GrammarTurns
from radixserve.errors import DeadlineError, InvalidRequestError, OverloadedError, ShuttingDownError
from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.params import SamplingParams


class Line:
    """Functions that note in which order they are called; the first holds all others up."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.open = threading.Event()
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def holding(self) -> None:
        self.called.append("holding")
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self.open.wait(60)

    def noting(self, name: str) -> Callable[[], None]:
        return lambda: self.called.append(name)


async def settle() -> None:
    """Let everybody who can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_each_tenant_has_its_turn() -> None:
    turns, line = GrammarTurns(), Line()
    tasks = [asyncio.create_task(turns.take("heavy", line.holding))]
    await line.entered.wait()
    for number in range(3):
        function = line.noting(f"heavy {number}")
        tasks.append(asyncio.create_task(turns.take("heavy", function)))
    await settle()
    tasks.append(asyncio.create_task(turns.take("light", line.noting("light"))))
    await settle()
    line.open.set()
    await asyncio.gather(*tasks)
    assert line.called == ["holding", "heavy 0", "light", "heavy 1", "heavy 2"]
    # And again, after all lines have been empty.
    await turns.take("light", line.noting("later"))
    assert line.called[-1] == "later"


async def test_who_goes_away_is_not_tried() -> None:
    turns, line = GrammarTurns(), Line()
    first = asyncio.create_task(turns.take("a", line.holding))
    await line.entered.wait()
    gone = asyncio.create_task(turns.take("a", line.noting("gone")))
    stays = asyncio.create_task(turns.take("a", line.noting("stays")))
    await settle()
    first.cancel()
    gone.cancel()
    await asyncio.gather(first, gone, return_exceptions=True)
    # The thread is busy still, and nobody overtakes it.
    await settle()
    assert line.called == ["holding"]
    line.open.set()
    await stays
    assert line.called == ["holding", "stays"]


async def test_only_so_many_of_a_tenant_wait() -> None:
    turns, line = GrammarTurns(), Line()
    first = asyncio.create_task(turns.take("a", line.holding))
    await line.entered.wait()
    function = line.noting("a")
    waiting = [asyncio.create_task(turns.take("a", function)) for _ in range(MAX_WAITING)]
    await settle()
    with pytest.raises(OverloadedError, match="grammars to be checked"):
        await turns.take("a", function)
    other = asyncio.create_task(turns.take("b", line.noting("b")))
    await settle()
    line.open.set()
    await asyncio.gather(first, other, *waiting)
    assert sorted(line.called) == ["a"] * MAX_WAITING + ["b", "holding"]


async def test_what_goes_wrong_is_told_to_whom_it_concerns() -> None:
    def fail() -> None:
        raise InvalidRequestError("no good", param="grammar")

    turns, line = GrammarTurns(), Line()
    bad = asyncio.create_task(turns.take("a", fail))
    good = asyncio.create_task(turns.take("a", line.noting("good")))
    with pytest.raises(InvalidRequestError, match="no good"):
        await bad
    await good
    assert line.called == ["good"]


async def test_nobody_waits_for_ever() -> None:
    turns, line = GrammarTurns(), Line()
    tasks = [asyncio.create_task(turns.take("a", line.holding))]
    await line.entered.wait()
    tasks.append(asyncio.create_task(turns.take("b", line.noting("b"))))
    await settle()
    await turns.close()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ShuttingDownError] * 2
    line.open.set()


class SlowIntake:
    """Knows no grammar, and takes its time to look at one."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def knows_grammar(self, params: SamplingParams) -> bool:
        return False

    def check_grammar(self, params: SamplingParams) -> None:
        self._line.holding()


async def test_the_time_that_a_check_takes_is_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    engine = AsyncEngine(NO_QUEUE_LIMITS)
    monkeypatch.setattr(AsyncEngine, "_check_accepting", lambda engine: None)
    monkeypatch.setattr(engine, "_intake", SlowIntake(line), raising=False)
    params = SamplingParams(grammar=GrammarSpec(kind="regex", source="a"))
    with pytest.raises(DeadlineError, match=r"the 0\.01 s .* its grammar was still to be checked"):
        await engine.submit([1], params, deadline_s=0.01)
    line.open.set()
