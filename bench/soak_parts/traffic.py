"""What the clients do: every way of ending a request, at random, and what must come of each.

stay        a stream, read to its end              the whole answer
whole       one piece                              the whole answer
stop        a stream with a stop string            the answer up to it; aborted in the engine
leave       a stream, left after some events       what came is the answer's beginning
cancel      one piece, left after some time        nothing
deadline    a stream that is given little time     the whole answer; or its beginning and 504;
                                                   or 429, if it would not begin in that time
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from soak_parts.http import Answer, Http
from soak_parts.server import MODEL

KINDS = {"stay": 50, "whole": 10, "stop": 8, "leave": 14, "cancel": 8, "deadline": 10}
"""In percent."""
SMALLEST_GAP = 1e-3
"""Answers in which the two likeliest tokens are ever closer could be changed by rounding alone."""


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt and its undisturbed answer."""

    body: dict[str, Any]
    text: str


async def make_cases(http: Http, count: int, seed: int, num_tokens: int) -> list[Case]:
    """Prompts that share beginnings, and what the undisturbed server says to each.

    Only those whose answers no rounding can change. *Raises* ``RuntimeError`` if too few are.
    """
    rng = random.Random(seed)

    def draw(length: int) -> list[int]:
        return [rng.randrange(32, 127) for _ in range(length)]

    stems = [draw(length) for length in (96, 64, 40, 17, 0)]
    bodies = [
        {
            "model": MODEL,
            "prompt": rng.choice(stems) + draw(rng.randrange(1, 40)),
            "max_tokens": rng.randrange(num_tokens // 2, num_tokens + 1),
            "temperature": 0,
            "ignore_eos": True,
        }
        for _ in range(2 * count)
    ]
    cases: list[Case] = []
    for body in bodies:
        # One after the other: each alone in its batch.
        answer = await http.ask({**body, "logprobs": 2})
        if not answer.is_complete:
            raise RuntimeError(f"undisturbed, a request was answered with {answer}")
        if _smallest_gap(answer) > SMALLEST_GAP:
            cases.append(Case(body, answer.text))
            if len(cases) == count:
                return cases
    raise RuntimeError(f"only {len(cases)} of {len(bodies)} answers are safe from rounding")


def _smallest_gap(answer: Answer) -> float:
    (choice,) = answer.body["choices"]
    gaps = []
    for alternatives in choice["logprobs"]["top_logprobs"]:
        best = sorted(alternatives.values(), reverse=True)
        # Two tokens of the same text make one entry: nothing is known of their gap.
        gaps.append(best[0] - best[1] if len(best) > 1 else 0.0)
    return min(gaps)


class Clients:
    """Many at once, until told to stop. Counts what they did; ``violations`` is what went wrong."""

    def __init__(self, http: Http, cases: Sequence[Case], seed: int) -> None:
        self._http = http
        self._cases = cases
        self._seed = seed
        self._stopping = asyncio.Event()
        self.done: Counter[str] = Counter()
        """By kind; of the deadlines, what was too late, and what was refused at once, apart."""
        self.violations: list[str] = []

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()

    async def run(self, count: int) -> None:
        """``count`` clients; returns when all have ended what they had begun."""
        await asyncio.gather(*(self._client(number) for number in range(count)))

    async def _client(self, number: int) -> None:
        rng = random.Random(self._seed * 1_000_003 + number)
        while not self._stopping.is_set():
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            case = rng.choice(self._cases)
            try:
                problem = await self._act(kind, case, rng)
            except (OSError, asyncio.IncompleteReadError) as error:
                problem = f"the connection broke: {error!r}"
            if problem is not None:
                self.violations.append(f"{kind}: {problem}")
            self.done[kind] += 1

    async def _act(  # noqa: PLR0911  # a table of kinds
        self, kind: str, case: Case, rng: random.Random
    ) -> str | None:
        """Do one thing. Returns what was wrong with what came of it, if anything was."""
        match kind:
            case "leave":
                answer = await self._http.stream(case.body, leave_after=rng.randrange(1, 30))
                return None if case.text.startswith(answer.text) else _describe(answer, case.text)
            case "cancel":
                try:
                    async with asyncio.timeout(rng.uniform(0.0, 3.0)):
                        answer = await self._http.ask(case.body)
                except TimeoutError:
                    return None
                return _compare(answer, case.text, "length")
            case "stop":
                start = rng.randrange(len(case.text) - 4)
                stop = case.text[start : start + 4]
                answer = await self._http.stream({**case.body, "stop": stop})
                return _compare(answer, case.text[: case.text.index(stop)], "stop")
            case "deadline":
                body = {**case.body, "timeout": rng.uniform(0.02, 20.0)}
                answer = await self._http.stream(body)
                if answer.error_code == "deadline_exceeded":
                    self.done["deadline missed"] += 1
                    is_part = case.text.startswith(answer.text)
                    return None if is_part else _describe(answer, case.text)
                if answer.status == 429:
                    self.done["deadline refused"] += 1
                    return None
                return _compare(answer, case.text, "length")
            case "whole":
                return _compare(await self._http.ask(case.body), case.text, "length")
            case _:
                return _compare(await self._http.stream(case.body), case.text, "length")


def _compare(answer: Answer, text: str, finish_reason: str) -> str | None:
    is_right = answer.is_complete and (answer.text, answer.finish_reason) == (text, finish_reason)
    return None if is_right else _describe(answer, text)


def _describe(answer: Answer, text: str) -> str:
    return (
        f"status {answer.status}, error {answer.error_code}, complete {answer.is_complete}, "
        f"finish {answer.finish_reason}, got {answer.text[-60:]!r} (… {len(answer.text)} "
        f"characters), expected {text[-60:]!r} (… {len(text)})"
    )
