"""Draws from a random stream, the same on every machine and every Python.

Built on ``random.Random.random()`` alone, the one method whose stream Python promises never to
change. It knows nothing of what is drawn.
"""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Chance:
    """A random stream with the draws that the corpus needs. *Mutates* the stream it wraps."""

    __slots__ = ("_random",)

    def __init__(self, rng: random.Random) -> None:
        self._random = rng.random

    def hits(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random() < probability

    def below(self, stop: int) -> int:
        """An integer with 0 <= it < stop."""
        return int(self._random() * stop)

    def between(self, low: int, high: int) -> int:
        """An integer with low <= it <= high."""
        return low + int(self._random() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, all equally likely."""
        return items[int(self._random() * len(items))]

    def weighted(self, weights: Sequence[tuple[T, float]]) -> T:
        """One of the items, each as likely as its weight says."""
        rest = self._random() * sum(weight for _, weight in weights)
        for item, weight in weights:
            rest -= weight
            if rest < 0:
                return item
        return weights[-1][0]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """``count`` of the items (all, if there are fewer) in random order, none twice."""
        rest = list(items)
        for place in range(min(count, len(rest))):
            other = place + self.below(len(rest) - place)
            rest[place], rest[other] = rest[other], rest[place]
        return rest[:count]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All the items in random order."""
        return self.sample(items, len(items))
