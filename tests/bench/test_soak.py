"""The soak in short: real HTTP, an engine that is killed, a small pool. And that it can fail."""

import asyncio
import json
import random
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any, cast

import pytest

import soak
from soak_parts.http import Answer, Http
from soak_parts.server import ServerProcess, running
from soak_parts.traffic import Case, Clients, make_cases

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def test_a_short_soak_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--minutes", "0.1", "--streams", "30", "--kills", "1", "--prompts", "10"]
    assert soak.main([*short, "--tokens", "150", "--num-pages", "24"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["violations"] == 0
    assert figures["engine_restarts"] == 1
    assert figures["num_preemptions"] > 0
    assert figures["done"]["stay"] > 0


class Scripted:
    """Answers every request with the same."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def stream(self, body: dict[str, Any], leave_after: int | None = None) -> Answer:
        # Let others run, as a network would.
        await asyncio.sleep(0)
        return self.answer

    async def ask(self, body: dict[str, Any]) -> Answer:
        await asyncio.sleep(0)
        return self.answer


TEXT = "what the undisturbed server said"
GOOD = Answer(status=200, text=TEXT, finish_reason="length", is_complete=True)


def problem_with(answer: Answer, kind: str) -> str | None:
    """What a client that does this kind of thing says of an answer."""
    case = Case({}, TEXT)
    clients = Clients(cast(Http, Scripted(answer)), [case], seed=0)
    return asyncio.run(clients._act(kind, case, random.Random(0)))


@pytest.mark.parametrize("kind", ["stay", "whole", "cancel", "deadline", "leave"])
def test_the_right_answer_is_no_violation(kind: str) -> None:
    assert problem_with(GOOD, kind) is None


@pytest.mark.parametrize("kind", ["stay", "whole", "stop", "cancel", "deadline"])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=200, text=TEXT, finish_reason="length"),
        Answer(status=200, text=TEXT[:-1], finish_reason="length", is_complete=True),
        Answer(status=200, text=TEXT + "x", finish_reason="length", is_complete=True),
        Answer(status=200, text=TEXT, finish_reason="abort", is_complete=True),
        Answer(status=200, text=TEXT[:5], error_code="shutting_down"),
        Answer(status=503, error_code="engine_dead"),
        Answer(),
    ],
)
def test_a_wrong_answer_is_one(kind: str, answer: Answer) -> None:
    problem = problem_with(answer, kind)
    assert problem is not None
    assert f"status {answer.status}" in problem


def test_what_a_deadline_cuts_off_must_be_right_so_far() -> None:
    for text, is_right in ((TEXT[:7], True), (TEXT[1:7], False)):
        late = Answer(status=200, text=text, error_code="deadline_exceeded")
        assert (problem_with(late, "deadline") is None) == is_right
    refused = Answer(status=429, error_code="overloaded")
    assert problem_with(refused, "deadline") is None
    assert problem_with(refused, "stay") is not None


def test_what_a_leaver_saw_must_be_right() -> None:
    assert problem_with(Answer(status=200, text=TEXT[:4]), "leave") is None
    assert problem_with(Answer(status=200, text="something else"), "leave") is not None


def test_clients_do_as_they_are_told_and_count() -> None:
    clients = Clients(cast(Http, Scripted(Answer())), [Case({}, TEXT)], seed=0)

    async def run() -> None:
        running = asyncio.create_task(clients.run(3))
        while clients.done.total() < 100:
            await asyncio.sleep(0)
        clients.stop()
        await running

    asyncio.run(run())
    assert clients.done.total() >= 100
    # Whoever leaves at once has seen nothing wrong in nothing.
    assert len(clients.violations) == clients.done.total() - clients.done["leave"]


def test_answers_that_rounding_could_change_are_not_used() -> None:
    def with_gap(gap: float) -> Answer:
        logprobs = {"top_logprobs": [{"a": -0.5, "b": -0.9}, {"a": -0.5, "b": -0.5 - gap}]}
        return Answer(
            status=200, text=TEXT, is_complete=True, body={"choices": [{"logprobs": logprobs}]}
        )

    near, far = with_gap(0.0009), with_gap(0.0011)
    assert len(asyncio.run(make_cases(cast(Http, Scripted(far)), 5, 0, 20))) == 5
    with pytest.raises(RuntimeError, match="only 0 of 10 answers"):
        asyncio.run(make_cases(cast(Http, Scripted(near)), 5, 0, 20))


@pytest.mark.parametrize(("end_mib", "minutes", "count"), [(110, 2, 0), (120, 2, 1), (120, 1, 0)])
def test_memory_that_grows_is_told(end_mib: int, minutes: float, count: int) -> None:
    class NoServer:
        url = "http://127.0.0.1:1"

    options = Namespace(minutes=minutes, seed=0)
    judge = soak.Soak(cast(ServerProcess, NoServer()), options)
    for share in range(100):
        size = 100 if share < 80 else end_mib
        judge.samples.server.append((share / 100 * minutes * 60, size * 2**20))
    judge.samples.engine = [(at_s, 50 * 2**20) for at_s, _ in judge.samples.server]
    judge._judge_memory()
    assert len(judge.violations) == count


def test_the_log_of_a_server_that_does_not_start_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="page_size"), running(tmp_path, "--page-size", "0"):
        pass
