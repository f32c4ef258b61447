"""Kinds of cached tokens that come back alike: what the return-time index distinguishes.

A class is four things, all known when a request lets go of the tokens:

- their *trait*: what is special about the page they lie in (below);
- their hits so far: 0, 1, 2, or more;
- how many tokens nobody had seen before their last request brought, by powers of two from 16 on.
  Tokens, not pages: so it means the same whatever the page size;
- the habit of the namespace that sent it (``return_habits.py``).

A new hint is a new trait: its tokens are then counted apart, and shrink towards those of the same
hits and size as long as there are few (``return_statistics.py``). A trait costs 156 rows of counts.
"""

from enum import IntEnum
from typing import Final

from radixserve.cache.return_habits import Habit


class Trait(IntEnum):
    """What is special about a page's place in the tree."""

    PLAIN = 0
    FORK = 1
    """Two prompts, or a few, went different ways behind it: often where a turn ended."""
    HUB = 2
    """More than MAX_FORK_CHILDREN did."""
    PARTIAL = 3
    """It is a leaf's last and not full."""


MAX_FORK_CHILDREN: Final = 4
MAX_HITS: Final = 3
NUM_HABITS: Final = len(Habit)
NUM_TRAITS: Final = len(Trait)
NUM_HITS: Final = MAX_HITS + 1
NUM_SIZES: Final = 13
NUM_CLASSES: Final = NUM_HABITS * NUM_TRAITS * NUM_HITS * NUM_SIZES


def trait_of_place(num_children: int, *, is_partial: bool) -> Trait:
    """The trait of a node's last page, by how many children the node has."""
    if not num_children:
        return Trait.PARTIAL if is_partial else Trait.PLAIN
    if num_children == 1:
        return Trait.PLAIN
    return Trait.FORK if num_children <= MAX_FORK_CHILDREN else Trait.HUB


def size_bucket(num_tokens: int) -> int:
    """0 below 16 tokens, 1 below 32, and so on; NUM_SIZES - 1 from 32,768 on."""
    return min((num_tokens >> 4).bit_length(), NUM_SIZES - 1)


def size_of(class_: int) -> int:
    """The size that a class stands for."""
    return class_ % NUM_SIZES


def class_index(habit: int, trait: int, hits: int, size: int) -> int:
    """The number of a class, below NUM_CLASSES. ``hits <= MAX_HITS``, ``size < NUM_SIZES``."""
    return ((habit * NUM_TRAITS + trait) * NUM_HITS + hits) * NUM_SIZES + size
