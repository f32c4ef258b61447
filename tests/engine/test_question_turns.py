"""Questions have a turn between two steps, and no more, however many there are."""

import os
import sys
import threading
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import zmq

from radixserve.engine import process
from radixserve.engine.messages import (
    Answer,
    Ask,
    CacheStatsRead,
    NotAnswered,
    ReadCacheStats,
    encode,
)
from radixserve.engine.wake import Wake


class Socket:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.mark.parametrize(("answer_s", "turns"), [(0.0, [7]), (0.0004, [3, 3, 1]), (0.002, [1] * 7)])
def test_a_turn_is_short_and_answers_the_oldest(
    monkeypatch: pytest.MonkeyPatch, answer_s: float, turns: list[int]
) -> None:
    now_s = 0.0

    def reply(_core: object, _question: object) -> CacheStatsRead:
        nonlocal now_s
        now_s += answer_s
        return CacheStatsRead(None)  # type: ignore[arg-type]  # nobody reads it

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(process, "_reply", reply)
    monkeypatch.setattr(process, "encode", lambda message: message)
    asked = deque(Ask(number, ReadCacheStats()) for number in range(7))
    socket = Socket()
    answered = []
    while asked:
        before = len(socket.sent)
        process._answer(None, socket, asked)  # type: ignore[arg-type]  # neither is looked at
        answered.append(len(socket.sent) - before)
    assert answered == turns
    assert all(isinstance(answer, Answer) for answer in socket.sent)
    assert [answer.number for answer in socket.sent] == list(range(7))


def test_an_idle_engine_answers_all_without_another_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not fall asleep over questions that its turn had no time for."""
    tree_feed = SimpleNamespace(has_news=False)
    core: Any = SimpleNamespace(
        has_work=False, can_step=False, tree_feed=tree_feed, take_cache_events=list
    )
    monkeypatch.setattr(process, "ANSWER_S", 0.0)
    monkeypatch.setattr(process, "_reply", lambda *_: NotAnswered("asked"))
    alive, life = os.pipe()
    with (
        os.fdopen(alive) as stdin,
        zmq.Context() as context,
        context.socket(zmq.PAIR) as theirs,
        context.socket(zmq.PAIR) as ours,
        Wake() as wake,
    ):
        monkeypatch.setattr(sys, "stdin", stdin)
        ours.bind("inproc://questions")
        theirs.connect("inproc://questions")
        for number in range(5):
            ours.send(encode(Ask(number, ReadCacheStats())))
        engine = threading.Thread(target=process._serve, args=(core, theirs, wake))
        engine.start()
        try:
            ours.setsockopt(zmq.RCVTIMEO, 10_000)
            answers = [msgspec.msgpack.decode(ours.recv()) for _ in range(5)]
        finally:
            os.close(life)
            engine.join()
    assert len(answers) == 5
