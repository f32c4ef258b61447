"""Requests whose grammars are being compiled, while everybody else gets on."""

import select
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from radixserve.config import EngineConfig
from radixserve.engine.async_engine import AsyncEngine
from radixserve.engine.core import EngineCore
from radixserve.engine.wake import Wake
from radixserve.errors import InvalidRequestError
from radixserve.ids import RequestId
from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.grammar_compiler import CompiledGrammar, GrammarCompiler
from radixserve.sampling.params import SamplingParams
from radixserve.types import EngineRequest, ResumedChoice
from tests.engine.driving import Driver, make_core, make_request

END = 259
HELD = GrammarSpec(kind="regex", source="held")


class Gate:
    """Holds up the compiling of ``HELD`` until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        compile_now = GrammarCompiler.compile

        def compile_late(compiler: GrammarCompiler, spec: GrammarSpec) -> CompiledGrammar:
            if spec == HELD:
                self.entered.release()
                assert self.open.wait(60)
            return compile_now(compiler, spec)

        monkeypatch.setattr(GrammarCompiler, "compile", compile_late)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate(monkeypatch)
    yield found
    # No thread is to wait for ever, whatever the test has found.
    found.open.set()


@pytest.fixture
def core(tiny_dir: Path) -> EngineCore:
    return make_core(tiny_dir)


def held(name: str, *, n: int = 1) -> EngineRequest:
    return make_request(name, [1, 2, 3], 9, end_token_ids=(END,), grammar=HELD, n=n)


def test_others_get_on_meanwhile(core: EngineCore, gate: Gate) -> None:
    woken = threading.Event()
    core.call_when_ready(woken.set)
    driver = Driver(core)
    driver.add(held("late"))
    driver.add(make_request("free", [1, 2], 5))
    other = GrammarSpec(kind="regex", source="other")
    driver.add(make_request("early", [1, 2], 9, end_token_ids=(END,), grammar=other))
    assert gate.entered.acquire(timeout=60)
    assert core.stats().num_waiting == 3
    while len(driver.ends) < 2:
        driver.step()
    assert driver.ends.keys() == {("free", 0), ("early", 0)}
    # Nothing to do, but somebody waits: who polls sleeps, and is woken.
    assert (core.has_work, core.can_step, core.stats().num_waiting) == (True, False, 1)
    woken.clear()
    gate.open.set()
    assert woken.wait(60)
    assert (core.has_work, core.can_step) == (True, True)
    driver.run()
    assert bytes(driver.tokens["late", 0][:-1]) == b"held"
    assert driver.ends["late", 0].finish_reason == "stop"
    driver.assert_nothing_leaked()


def test_a_step_waits_where_there_is_nothing_else_to_do(core: EngineCore, gate: Gate) -> None:
    driver = Driver(core)
    driver.add(held("late"))
    steps = []

    def run() -> None:
        while core.has_work:
            driver.step()
            steps.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    assert gate.entered.acquire(timeout=60)
    gate.open.set()
    thread.join(60)
    # The prompt, "held", its end; nobody spun.
    assert len(steps) <= 7
    assert driver.ends["late", 0].finish_reason == "stop"
    driver.assert_nothing_leaked()


@pytest.mark.parametrize("n", [1, 3])
def test_abort_while_compiling(core: EngineCore, gate: Gate, n: int) -> None:
    driver = Driver(core)
    driver.add(held("gone", n=n))
    assert gate.entered.acquire(timeout=60)
    if n > 1:
        # Its choices do not exist yet.
        driver.abort("gone", 1)
        assert not driver.ends
    driver.abort("nobody")
    driver.abort("gone", 0 if n == 1 else None)
    assert {key: end.finish_reason for key, end in driver.ends.items()} == {
        ("gone", index): "abort" for index in range(n)
    }
    assert not core.has_work
    # The id is free again, and what is compiled for the one that went is not for the other.
    again = make_request("gone", [5, 6], 3)
    driver.ends, driver.tokens = {}, {}
    driver.add(again)
    gate.open.set()
    driver.run()
    assert len(driver.tokens["gone", 0]) == 3
    driver.assert_nothing_leaked()


def test_what_is_compiled_for_nobody_keeps_nobody_awake(core: EngineCore, gate: Gate) -> None:
    woken = threading.Event()
    core.call_when_ready(woken.set)
    driver = Driver(core)
    driver.add(held("gone"))
    assert gate.entered.acquire(timeout=60)
    driver.abort("gone")
    gate.open.set()
    assert woken.wait(60)
    # Who polls may step once for it, and then sleeps.
    if core.can_step:
        driver.step()
    assert (core.has_work, core.can_step) == (False, False)


def test_who_waits_for_a_grammar_does_not_wait_for_room(core: EngineCore, gate: Gate) -> None:
    driver = Driver(core)
    driver.add(held("late"))
    assert (core.stats().num_waiting, core.stats().num_deferred) == (1, 1)
    gate.open.set()
    driver.run()
    assert (core.stats().num_waiting, core.stats().num_deferred) == (0, 0)


def test_an_id_used_again_while_the_thread_is_busy(core: EngineCore, gate: Gate) -> None:
    driver = Driver(core)
    driver.add(held("same"))
    assert gate.entered.acquire(timeout=60)
    driver.abort("same")
    driver.ends, driver.tokens = {}, {}
    bad = GrammarSpec(kind="regex", source="(")
    driver.add(make_request("same", [1], 3, grammar=bad))
    gate.open.set()
    driver.run()
    assert driver.ends["same", 0].finish_reason == "error"
    assert "unclosed group" in (driver.ends["same", 0].error or "")
    driver.assert_nothing_leaked()


def test_choices_that_go_on_end_one_by_one(core: EngineCore, gate: Gate) -> None:
    driver = Driver(core)
    said = list(b"he")
    resumed = [ResumedChoice(index=index, token_ids=said) for index in (0, 2)]
    driver.add(replace(held("old", n=3), resumed=resumed))
    assert gate.entered.acquire(timeout=60)
    driver.abort("old", 1)
    driver.abort("old", 0)
    assert {key: end.finish_reason for key, end in driver.ends.items()} == {("old", 0): "abort"}
    gate.open.set()
    driver.run()
    assert bytes(driver.tokens["old", 2][:-1]) == b"ld"
    driver.assert_nothing_leaked()


def test_the_last_choice_that_goes_on_ends(core: EngineCore, gate: Gate) -> None:
    driver = Driver(core)
    resumed = [ResumedChoice(index=1, token_ids=list(b"h"))]
    driver.add(replace(held("old", n=2), resumed=resumed))
    driver.abort("old", 1)
    assert driver.ends.keys() == {("old", 1)}
    assert not core.has_work
    gate.open.set()
    driver.assert_nothing_leaked()


def test_a_bad_grammar_ends_its_request_alone(core: EngineCore) -> None:
    driver = Driver(core)
    bad = GrammarSpec(kind="lark", source="start: nobody")
    driver.add(make_request("bad", [1, 2], 5, grammar=bad, n=2))
    driver.add(make_request("free", [1, 2], 5))
    driver.run()
    for index in range(2):
        end = driver.ends["bad", index]
        assert (end.finish_reason, end.token_ids, end.cache_report) == ("error", [], None)
        assert "unknown name" in (end.error or "")
    assert driver.ends["free", 0].finish_reason == "length"
    driver.assert_nothing_leaked()


def test_whatever_goes_wrong_while_compiling_is_told(
    core: EngineCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(compiler: GrammarCompiler, spec: GrammarSpec) -> CompiledGrammar:
        raise BaseException("out of order")

    monkeypatch.setattr(GrammarCompiler, "compile", panic)
    driver = Driver(core)
    driver.add(held("unlucky"))
    driver.run()
    assert "out of order" in (driver.ends["unlucky", 0].error or "")


def test_ids_are_not_used_twice(core: EngineCore, gate: Gate) -> None:
    core.add(held("one"))
    core.add(make_request("two", [1], 3))
    for again in (make_request("one", [1], 3), held("one"), held("two")):
        with pytest.raises(ValueError, match="already in use"):
            core.add(again)
    core.abort(RequestId("one"))
    core.abort(RequestId("two"))


def test_a_bell_rings_until_it_is_heard() -> None:
    with Wake() as wake:
        poll = select.poll()
        poll.register(wake.fd, select.POLLIN)
        assert not poll.poll(0)
        for _ in range(100_000):
            wake.ring()
        assert poll.poll(0)
        wake.clear()
        assert not poll.poll(0)
        wake.ring()
        assert poll.poll(0)


async def test_a_server_with_grammars(tiny_dir: Path) -> None:
    """In processes of their own, nothing else being asked: the engine sleeps while it compiles,
    and wakes."""
    config = EngineConfig(model=str(tiny_dir), dtype="float32", num_threads=1, num_pages=100)
    engine = await AsyncEngine.start(config)
    try:
        params = SamplingParams(
            max_tokens=20, grammar=GrammarSpec(kind="regex", source="(so|as){2} expected")
        )
        for _ in ("compiled", "compiled before"):
            stream = await engine.submit([1, 2, 3], params)
            text = "".join([delta.text async for delta in stream])
            assert text in {f"{a}{b} expected" for a in ("so", "as") for b in ("so", "as")}
        bad = GrammarSpec(kind="regex", source="(")
        with pytest.raises(InvalidRequestError, match="unclosed group") as caught:
            await engine.submit([1, 2, 3], SamplingParams(grammar=bad))
        assert (caught.value.param, caught.value.code) == ("grammar", "invalid_grammar")
        assert engine.is_alive
    finally:
        await engine.aclose()
