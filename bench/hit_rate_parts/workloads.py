"""Generated traffic: chat, RAG, few-shot, tree of thought, agents; each with scans on request.

Every generator draws from one seeded stream, so a name and a seed give the same prompts and replies
always. Arrivals are Poisson; lengths and pauses are log-normal, given by their median and by sigma,
the standard deviation of the logarithm; popularity is Zipf.

*Scan pollution* (``...+scan``): prompts that come once and never again (summaries, evaluations,
crawls), about as many tokens as all the rest together.

*Cold requests* (``...+cold``): one request in ten shares nothing with any other. They are short, so
that the hit rate stays high, and find nothing: whoever serves the best hits first might starve
them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hit_rate_parts.prompts import Key, Piece, Prompt, as_trace
from hit_rate_parts.trace import MOONCAKE_BLOCK_TOKENS, Trace

HOUR_S = 3600.0
SCAN_SUFFIX = "+scan"
COLD_SUFFIX = "+cold"
REQUESTS_PER_COLD = 9
"""How many others come for each cold one."""


@dataclass(frozen=True, slots=True)
class Draw:
    """The random numbers that traffic is made of."""

    rng: np.random.Generator
    reply_rng: np.random.Generator
    """A stream of its own for replies that no prompt repeats: prompts do not depend on them."""

    def reply(self, name: Key, median: float, sigma: float) -> Piece:
        """A reply of log-normal length that is in no later prompt."""
        length = median * math.exp(sigma * self.reply_rng.standard_normal())
        return Piece(name, int(min(4096.0, max(1.0, length))))

    def tokens(self, median: float, sigma: float, *, most: int = 32_768) -> int:
        """A log-normal length, at least 8."""
        return int(min(most, max(8.0, median * math.exp(sigma * self.rng.standard_normal()))))

    def pause_s(self, median: float, sigma: float) -> float:
        """A log-normal pause."""
        return float(median * math.exp(sigma * self.rng.standard_normal()))

    def arrivals_s(self, number: int) -> list[float]:
        """``number`` Poisson arrivals within the hour, in order."""
        return sorted(float(time) for time in self.rng.uniform(0, HOUR_S, number))

    def zipf(self, number: int, exponent: float) -> Callable[[], int]:
        """A sampler of ranks ``0 .. number - 1``."""
        weights = np.arange(1, number + 1) ** -exponent
        bounds = np.cumsum(weights / weights.sum())
        return lambda: min(int(np.searchsorted(bounds, self.rng.random())), number - 1)


def chat(draw: Draw) -> Iterator[Prompt]:
    """Multi-turn chat: 1,500 conversations of 6 turns on average, under 20 system prompts.

    A prompt repeats the whole conversation. Pauses have a median of a minute, and a fat tail; one
    turn in twenty is asked again in other words.
    """
    app = draw.zipf(20, 1.0)
    systems = [draw.tokens(600, 0.8) for _ in range(20)]
    for talk, start in enumerate(draw.arrivals_s(1_500)):
        system = app()
        history = [Piece(("system", system), systems[system])]
        time = start
        for turn in range(int(draw.rng.geometric(1 / 6))):
            asked_s = time
            question = Piece(("question", talk, turn), draw.tokens(120, 1.2))
            time += draw.pause_s(60, 1.3)
            if draw.rng.random() < 0.05:
                discarded = draw.reply(("discarded", talk, turn), 350, 0.8)
                yield Prompt(asked_s, (*history, question), discarded)
                asked_s = time
                question = Piece(("again", talk, turn), draw.tokens(120, 1.2))
                time += draw.pause_s(60, 1.3)
            reply = Piece(("reply", talk, turn), draw.tokens(350, 0.8))
            yield Prompt(asked_s, (*history, question), reply)
            history += [question, reply]


def short_chat(draw: Draw) -> Iterator[Prompt]:
    """Short chat: 3,000 conversations of 3 turns on average under 40 system prompts of one or two
    sentences, a line asked and a few answered: prompts of under 200 tokens on average.

    What is not on a page's border is a large part of such prompts.
    """
    app = draw.zipf(40, 1.0)
    systems = [draw.tokens(35, 0.4) for _ in range(40)]
    for talk, start in enumerate(draw.arrivals_s(3_000)):
        system = app()
        history = [Piece(("system", system), systems[system])]
        time = start
        for turn in range(int(draw.rng.geometric(1 / 3))):
            question = Piece(("question", talk, turn), draw.tokens(15, 0.7))
            reply = Piece(("reply", talk, turn), draw.tokens(35, 0.6))
            yield Prompt(time, (*history, question), reply)
            history += [question, reply]
            time += draw.pause_s(60, 1.3)


def rag(draw: Draw) -> Iterator[Prompt]:
    """RAG: 6,000 questions, each behind 1 to 4 of 5,000 documents, Zipf with exponent 0.9.

    The best document comes first; the others are drawn near it, so pairs come back too.
    """
    best = draw.zipf(5_000, 0.9)
    lengths = [draw.tokens(1_500, 0.6) for _ in range(5_000)]
    order = draw.rng.permutation(5_000).tolist()
    for number, time in enumerate(draw.arrivals_s(6_000)):
        documents = [best()]
        for _ in range(int(draw.rng.integers(0, 4))):
            near = (documents[0] + int(draw.rng.geometric(0.4))) % 5_000
            if near not in documents:
                documents.append(near)
        pieces = [Piece(("system",), 400)]
        pieces += [Piece(("document", order[one]), lengths[order[one]]) for one in documents]
        pieces.append(Piece(("question", number), draw.tokens(60, 0.8)))
        yield Prompt(time, tuple(pieces), draw.reply(("answer", number), 200, 0.7))


def few_shot(draw: Draw) -> Iterator[Prompt]:
    """Few-shot: 8,000 short inputs behind one of 1,200 sets of examples, Zipf with exponent 0.8.

    Tasks come in campaigns: the set of tasks in use moves on in the course of the hour.
    """
    task = draw.zipf(400, 0.8)
    examples: dict[int, int] = {}
    for number, time in enumerate(draw.arrivals_s(8_000)):
        chosen = (task() * 7 + int(time / HOUR_S * 800)) % 1_200
        length = examples.setdefault(chosen, draw.tokens(3_000, 0.7))
        inputs = Piece(("input", number), draw.tokens(200, 0.9))
        label = draw.reply(("label", number), 20, 0.6)
        yield Prompt(time, (Piece(("examples", chosen), length), inputs), label)


def tree_of_thought(draw: Draw) -> Iterator[Prompt]:
    """Tree of thought: 500 problems, each searched 4 levels deep, 3 branches kept of each level.

    Every kept thought is expanded by 3 requests with the same prompt (n > 1), and scored by one
    that repeats it with a question behind it.
    """
    for problem, start in enumerate(draw.arrivals_s(500)):
        root = (Piece(("method",), 1_200), Piece(("problem", problem), draw.tokens(800, 0.9)))
        level: list[tuple[Piece, ...]] = [root]
        time = start
        for depth in range(4):
            offspring: list[tuple[Piece, ...]] = []
            for thought in level:
                for branch in range(3):
                    asked_s = time + float(draw.rng.uniform(0, 2))
                    name = ("thought", problem, depth, len(offspring), branch)
                    more = Piece(name, draw.tokens(250, 0.6))
                    yield Prompt(asked_s, thought, more)
                    offspring.append((*thought, more))
            time += draw.pause_s(12, 0.5)
            for index, thought in enumerate(offspring):
                score = Piece(("score",), 60)
                mark = draw.reply(("mark", problem, depth, index), 8, 0.3)
                yield Prompt(time + float(draw.rng.uniform(0, 2)), (*thought, score), mark)
            time += draw.pause_s(5, 0.5)
            kept = draw.rng.permutation(len(offspring))[:3].tolist()
            level = [offspring[index] for index in kept]


def agents(draw: Draw) -> Iterator[Prompt]:
    """Agent loops: 350 tasks of 15 steps on average under 12 tool prompts.

    A step repeats all before it and adds a call and its result, seconds after the last; one pause
    in eight is a user's, with a median of two minutes.
    """
    kind = draw.zipf(12, 0.8)
    tools = [draw.tokens(4_000, 0.5) for _ in range(12)]
    for task, start in enumerate(draw.arrivals_s(350)):
        chosen = kind()
        history = [Piece(("tools", chosen), tools[chosen])]
        history.append(Piece(("task", task), draw.tokens(500, 1.0)))
        time = start
        for step in range(int(draw.rng.geometric(1 / 15))):
            more = Piece(("step", task, step), draw.tokens(700, 1.0))
            # The call is the reply; its result, the larger part, comes from the tool.
            call = Piece(more.name, max(1, more.num_tokens // 4))
            yield Prompt(time, tuple(history), call)
            history.append(more)
            waits_for_user = draw.rng.random() < 1 / 8
            time += draw.pause_s(120, 1.0) if waits_for_user else draw.pause_s(6, 0.8)


def mixed(draw: Draw) -> Iterator[Prompt]:
    """A third of each of the others, at the same time."""
    for generator in (chat, rag, few_shot, tree_of_thought, agents):
        for index, prompt in enumerate(generator(draw)):
            # Whole conversations would be better thinned as such; pieces of one keep its prefix.
            if index % 3 == 0:
                yield prompt


def scans(draw: Draw, num_tokens: int) -> Iterator[Prompt]:
    """Prompts that share nothing with any other, ``num_tokens`` in all, in bursts of up to 30."""
    number = 0
    while num_tokens > 0:
        time = float(draw.rng.uniform(0, HOUR_S))
        for _ in range(int(draw.rng.integers(1, 31))):
            piece = Piece(("scan", number), draw.tokens(6_000, 0.8))
            yield Prompt(time, (piece,), draw.reply(("summary", number), 200, 0.6))
            time += draw.pause_s(1.5, 0.5)
            number += 1
            num_tokens -= piece.num_tokens


def cold(draw: Draw, num_requests: int) -> Iterator[Prompt]:
    """``num_requests`` short prompts that share nothing with any other, all over the hour."""
    for number, time in enumerate(draw.arrivals_s(num_requests)):
        piece = Piece(("cold", number), draw.tokens(400, 0.8))
        yield Prompt(time, (piece,), draw.reply(("cold reply", number), 350, 0.8))


GENERATORS: dict[str, Callable[[Draw], Iterator[Prompt]]] = {
    "chat": chat,
    "rag": rag,
    "few-shot": few_shot,
    "tree-of-thought": tree_of_thought,
    "agents": agents,
    "mixed": mixed,
    "short-chat": short_chat,
}
WORKLOADS = tuple(name + suffix for name in GENERATORS for suffix in ("", SCAN_SUFFIX, COLD_SUFFIX))


def generate_prompts(name: str, seed: int) -> list[Prompt]:
    """The prompts of that workload, one of ``WORKLOADS``, in order of time.

    *Raises* ``KeyError`` for another.
    """
    draw = Draw(np.random.default_rng(seed), np.random.default_rng([seed, 1]))
    prompts = list(GENERATORS[name.removesuffix(SCAN_SUFFIX).removesuffix(COLD_SUFFIX)](draw))
    if name.endswith(SCAN_SUFFIX):
        pieces = (piece for prompt in prompts for piece in prompt.pieces)
        prompts += scans(draw, sum(piece.num_tokens for piece in pieces))
    elif name.endswith(COLD_SUFFIX):
        prompts += cold(draw, len(prompts) // REQUESTS_PER_COLD)
    return sorted(prompts, key=lambda prompt: prompt.time_s)


def generate(name: str, seed: int, *, block_tokens: int = MOONCAKE_BLOCK_TOKENS) -> Trace:
    """That workload as a trace. *Raises* ``KeyError`` for a name not in ``WORKLOADS``."""
    return as_trace(name, generate_prompts(name, seed), block_tokens)
