"""Who or what a document tells of: a name, the words that may stand for it, and its facts."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Subject:
    """One person or thing."""

    name: str
    """As headings and tables have it: "Velora kettle"."""
    article: str = ""
    """What a sentence puts before the name: "the " or nothing."""
    shorts: tuple[str, ...] = ()
    """What also names it in its document, article included: "Maria", "Ms Lopez", "the kettle"."""
    pronoun: str = "it"
    possessive: str = "its"
    facts: dict[str, str] = field(default_factory=dict)
    """What the document says of it: the value as written, by the attribute's key."""

    @property
    def full(self) -> str:
        """The name within a sentence."""
        return self.article + self.name
