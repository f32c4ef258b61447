"""What may be shown in training, and what is kept for the held-out splits: two halves of a list.

Every sixth word of a list is held out, and so is every number that leaves 3 when divided by 7. A
held-out split draws from its own halves only, so each of its names and values is new to the model
in that place. (Some twenty of the words are in another list, too, where training may show them: a
flower that is also a street's name.)

Training also coins words: the front of one word and the back of another. Lists are short; a model
that has seen every word of them a thousand times spells what it has begun from memory, and a new
name wrongly. What is coined can only be copied.
"""

from dataclasses import dataclass

from radixserve.demo.corpus.chance import Chance

HELD_OUT_EVERY = 6
HELD_OUT_MODULUS, HELD_OUT_REST = 7, 3


LONGEST_COINED = 14
"""Letters."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Words in two parts that share none."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def words(self, held_out: bool) -> tuple[str, ...]:
        """The part that a split may use."""
        return self.held_out if held_out else self.train

    def coined(self, chance: Chance) -> str:
        """A word spliced from two of the training's, "Bruna" of "Bruno" and "Anna", or one of them.
        The back begins in a small letter.

        It may be a held-out word of any list: to refuse it is the caller's. *Mutates* the stream.
        """
        front, back = chance.pick(self.train), chance.pick(self.train)
        start = front[: chance.between(2, max(2, len(front) - 1))]
        end = back[chance.between(1, max(1, len(back) - 2)) :]
        # A capital within a word would be read as the beginning of another.
        end = end[:1].lower() + end[1:]
        # No space and no hyphen at the joint.
        is_joined = (start[-1:] + end[:1]).isalpha()
        return start + end if is_joined and len(start + end) <= LONGEST_COINED else front


def word_list(words: str) -> tuple[str, ...]:
    """The words and phrases of a text: one a line, or several between commas; none twice."""
    items = [item.strip() for line in words.splitlines() for item in line.split(",")]
    items = [item for item in items if item]
    assert len(set(items)) == len(items), sorted(i for i in items if items.count(i) > 1)
    return tuple(items)


def pool(words: str) -> Pool:
    """The pool of a text's words."""
    items = word_list(words)
    last = HELD_OUT_EVERY - 1
    return Pool(
        train=tuple(item for at, item in enumerate(items) if at % HELD_OUT_EVERY != last),
        held_out=tuple(item for at, item in enumerate(items) if at % HELD_OUT_EVERY == last),
    )


def combinations(fronts: str, backs: str) -> Pool:
    """All fronts joined to all backs: each part is trained on, and a sixth of the pairs is not."""
    ends = backs.split()
    pairs = [
        (f"{front}{back}", (at + row) % HELD_OUT_EVERY == 0)
        for row, front in enumerate(fronts.split())
        for at, back in enumerate(ends)
    ]
    held_out = tuple(word for word, kept in pairs if kept)
    seen = set(held_out)
    return Pool(tuple(word for word, kept in pairs if not kept and word not in seen), held_out)


def is_held_out(number: int) -> bool:
    """Whether training never shows a value made from this number."""
    return number % HELD_OUT_MODULUS == HELD_OUT_REST
