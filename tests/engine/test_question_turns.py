"""Questions have a turn between two steps, and no more, however many there are."""

import time
from collections import deque
from typing import Any

import pytest

from radixserve.engine import process
from radixserve.engine.messages import Answer, Ask, CacheStatsRead, ReadCacheStats


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
