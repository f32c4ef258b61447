"""What one document has settled: its split, its ways to write prices and times, names in use.

Every name and value of a document is drawn here or through here, so that nothing of the other split
slips in and no name comes twice. It knows nothing of questions.
"""

from collections.abc import Callable

from radixserve.demo.corpus.chance import Chance
from radixserve.demo.corpus.pool import Pool, is_held_out
from radixserve.demo.corpus.words import HELD_OUT

PRICE_STYLES = (
    "{} euros",
    "{} dollars",
    "{} pounds",
    "{} francs",
    "{} crowns",
    "{} EUR",
    "{} USD",
    "${}",
    "€{}",
    "£{}",
)
COINED_SHARE = 0.4
"""So many of the words that training shows are in no list."""
TRIES = 40
"""After this many draws in vain a value may repeat: short lists run out in long tables."""


class Setting:
    """One document's stock of names and values. *Mutates* the stream and its own record of use."""

    def __init__(self, chance: Chance, *, held_out: bool) -> None:
        self.chance = chance
        self.held_out = held_out
        self.price_style = chance.pick(PRICE_STYLES)
        self.clock_has_24_hours = chance.hits(0.6)
        self.day_comes_first = chance.hits(0.7)
        self._used: set[str] = set()
        self._subjects: set[str] = set()

    def word(self, pool: Pool) -> str:
        """A word of the pool's part that this split may use, or a coined one; it may come again."""
        if not self.held_out and self.chance.hits(COINED_SHARE):
            word = pool.coined(self.chance)
            if HELD_OUT.isdisjoint((word, *word.split())):
                return word
        return self.chance.pick(pool.words(self.held_out))

    def fresh(self, make: Callable[[], str]) -> str:
        """What ``make`` gives, not yet used in this document where that can be had."""
        for _ in range(TRIES):
            name = make()
            if name not in self._used:
                break
        self._used.add(name)
        return name

    def claims(self, name: str) -> bool:
        """Whether the name was free for a subject of this document; it is taken from now on."""
        is_free = name not in self._subjects
        self._subjects.add(name)
        return is_free

    def fresh_word(self, pool: Pool) -> str:
        """A word of the pool that this document does not use yet, where one is left."""
        return self.fresh(lambda: self.word(pool))

    def number(self, low: int, high: int) -> int:
        """A number of this split with low <= it <= high; the range spans at least 14 numbers."""
        assert high - low >= 13, (low, high)
        while True:
            number = self.chance.between(low, high)
            if is_held_out(number) == self.held_out:
                return number
