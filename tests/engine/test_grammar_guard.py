"""Grammars that would take a server with them, and the process that they take instead."""

import json
import logging
import threading
from collections.abc import Iterator

import pytest

from radixserve.engine import grammar_guard
from radixserve.engine.grammar_guard import GrammarGuard
from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.grammar_compiler import MAX_SOURCE_BYTES, GrammarError

TABLE = [bytes([byte]) for byte in range(255)]


def regex(source: str) -> GrammarSpec:
    return GrammarSpec(kind="regex", source=source)


def chain(length: int) -> GrammarSpec:
    """Every terminal contains the next one."""
    lines = [f'T{i}: "a" T{i + 1}' for i in range(length)]
    return GrammarSpec(kind="lark", source="\n".join(["start: T0", *lines, f'T{length}: "a"']))


ENDLESS = GrammarSpec(kind="json_schema", source='{"type": "integer", "multipleOf": 1000003}')
HUGE = GrammarSpec(
    kind="json_schema",
    source=json.dumps(
        {"type": "string", "allOf": [{"pattern": f"a{{{i},}}.*b"} for i in range(60)]}
    ),
)


@pytest.fixture(scope="module")
def guard() -> Iterator[GrammarGuard]:
    found = GrammarGuard(lambda: TABLE)
    yield found
    found.close()


def pid_of(guard: GrammarGuard) -> int | None:
    return None if guard._child is None else guard._child._process.pid


def test_good_and_bad_grammars_share_a_process(guard: GrammarGuard) -> None:
    guard.check(regex("a+"))
    pid = pid_of(guard)
    with pytest.raises(GrammarError, match="unclosed group") as caught:
        guard.check(regex("(a"))
    assert (caught.value.param, caught.value.code) == ("grammar", "invalid_grammar")
    guard.check(GrammarSpec(kind="lark", source='start: "zwölf\\n"\n'))
    guard.check(chain(100))
    assert pid_of(guard) == pid


def test_what_ends_the_process_is_refused(
    guard: GrammarGuard, caplog: pytest.LogCaptureFixture
) -> None:
    guard.check(regex("b"))
    pid = pid_of(guard)
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(GrammarError, match="recurses too deeply"),
    ):
        guard.check(chain(9000))
    assert pid_of(guard) is None
    guard.check(regex("c"))
    assert pid_of(guard) not in {pid, None}


def test_what_takes_too_long_is_refused() -> None:
    guard = GrammarGuard(lambda: TABLE, limit_s=0.3)
    with pytest.raises(GrammarError, match=r"takes more than 0\.3 s"):
        guard.check(ENDLESS)
    assert pid_of(guard) is None
    guard.close()


def test_what_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_guard, "LIMIT_BYTES", 64 << 20)
    guard = GrammarGuard(lambda: TABLE, limit_s=600.0)
    guard.check(regex("a"))
    with pytest.raises(GrammarError, match="too much memory"):
        guard.check(HUGE)
    guard.close()


def test_verdicts_are_kept(guard: GrammarGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = grammar_guard._Child.ask

    def noting(child: grammar_guard._Child, spec: GrammarSpec, limit_s: float) -> str | None:
        asked.append(spec.source)
        return ask(child, spec, limit_s)

    monkeypatch.setattr(grammar_guard._Child, "ask", noting)
    monkeypatch.setattr(grammar_guard, "MAX_VERDICTS", 2)
    for source in ("x", "(", "x", "(", "y", "x"):
        if source == "(":
            with pytest.raises(GrammarError):
                guard.check(regex(source))
        else:
            guard.check(regex(source))
    assert asked == ["x", "(", "y", "x"]


def test_who_is_known_does_not_wait(guard: GrammarGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    guard.check(regex("known"))
    entered, let_go = threading.Event(), threading.Event()

    def hold(child: grammar_guard._Child, spec: GrammarSpec, limit_s: float) -> str | None:
        entered.set()
        assert let_go.wait(60)
        return "held"

    def check_held() -> None:
        with pytest.raises(GrammarError, match="held"):
            guard.check(regex("slow"))

    monkeypatch.setattr(grammar_guard._Child, "ask", hold)
    thread = threading.Thread(target=check_held)
    thread.start()
    assert entered.wait(60)
    try:
        guard.check(regex("known"))
        assert guard.knows(regex("known"))
        assert not guard.knows(regex("slow"))
    finally:
        let_go.set()
        thread.join()
    with pytest.raises(GrammarError, match="held"):
        guard.knows(regex("slow"))


def test_long_sources_are_not_looked_at() -> None:
    guard = GrammarGuard(lambda: TABLE)
    with pytest.raises(GrammarError, match="at most"):
        guard.check(regex("a" * (MAX_SOURCE_BYTES + 1)))
    assert pid_of(guard) is None


def test_several_threads(guard: GrammarGuard) -> None:
    """Each hears the verdict on its own grammar."""
    verdicts: dict[int, bool] = {}

    def check(number: int) -> None:
        try:
            guard.check(regex("t" * number + "(" * (number % 2)))
            verdicts[number] = True
        except GrammarError:
            verdicts[number] = False

    threads = [threading.Thread(target=check, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {number: number % 2 == 0 for number in range(1, 9)}


def test_a_guard_that_is_forgotten_leaves_no_process() -> None:
    guard = GrammarGuard(lambda: TABLE)
    guard.check(regex("a"))
    assert guard._child is not None
    process = guard._child._process
    del guard
    assert process.returncode is not None


def test_a_table_that_cannot_be_had_is_told() -> None:
    def load() -> list[bytes]:
        raise OSError("the disk is gone")

    guard = GrammarGuard(load)
    with pytest.raises(OSError, match="the disk is gone"):
        guard.check(regex("a"))
