"""A domain: one kind of subject, with its attributes and the words for a section about it."""

from dataclasses import dataclass

from radixserve.demo.corpus.attribute import Attribute


@dataclass(frozen=True, slots=True)
class Domain:
    """People, places, products: what a section of a document may be about."""

    key: str
    subjects: str
    """How its subjects are named: a key of ``names.SUBJECTS``."""
    kinds: tuple[tuple[str, str], ...]
    """What one of them is called and what several are; a section takes one pair."""
    headings: tuple[str, ...]
    """Titles of a section; ``{kinds}`` is what several of them are called."""
    intros: tuple[str, ...]
    """Sentences before the facts, which say nothing that is asked for."""
    asides: tuple[str, ...]
    """Sentences among the facts, to be read past."""
    attributes: tuple[Attribute, ...]
    is_people: bool = False
    """Whether one asks "who" instead of "which"."""
    names_say_kind: bool = False
    """Whether a subject's name has its kind in it: the Luna Cafe, train 4417."""
