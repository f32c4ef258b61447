"""What a document can say of a subject, and every way to say and to ask it: read from plain text.

A domain's text is a list of attributes. Each begins with ``[key: kind of value]``; then come lines
of a keyword and phrases between bars, going on where a line begins with a space:

    [city: city]
    labels  City | Lives in
    nouns   city | home town
    facts   lives in {v} | is based in {v}
    asks    Where does {x} live? | ~In which city does {x} live?
    clauses where {x} lives

``labels`` head fields and columns. ``nouns`` follow "the". ``facts`` are predicates, and the first
is the one of answers. ``asks`` are questions, ``clauses`` the same within a sentence. ``opposite``
are yes-or-no questions whose answer is no where the value is right ("Is {x} open on {v}?"), and
``otherwise`` is the fact as said before a yes to one of them ("is closed only on {v}s").

``{x}`` is the subject, ``{o}`` too, but where no pronoun may stand; ``{xs}`` is its possessive
("Maria's", "her"), ``{her}`` the possessive that points back at it, ``{v}`` the value, and ``{av}``
the value after "a" or "an". A leading ``~`` holds a phrase out: training never shows it.

Flags, after the kind: ``shared``, several subjects may have one value; ``first`` and ``last``, the
value is the part before or after the " to " of the attribute named in front of it.
"""

from dataclasses import dataclass

HELD_OUT_MARK = "~"


@dataclass(frozen=True, slots=True)
class Phrases:
    """Wordings of one thing: those of training, and those kept for the held-out split."""

    train: tuple[str, ...]
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attribute:
    """One kind of fact, as the module's text describes."""

    key: str
    value: str
    flags: frozenset[str]
    labels: tuple[str, ...]
    nouns: tuple[str, ...]
    facts: tuple[str, ...]
    asks: Phrases
    clauses: Phrases
    opposite: Phrases = Phrases(())
    otherwise: str = ""

    @property
    def is_part(self) -> bool:
        """Whether it is a part of another attribute's value: shown with it, asked by itself."""
        return "first" in self.flags or "last" in self.flags

    def is_part_with(self, other: "Attribute") -> bool:
        """Whether the two are parts of one value, or one is a part of the other."""
        mine = self.value if self.is_part else self.key
        return mine == (other.value if other.is_part else other.key)

    def part_of(self, facts: dict[str, str]) -> str | None:
        """The value within a subject's facts, or None where they lack it."""
        if not self.is_part:
            return facts.get(self.key)
        whole = facts.get(self.value)
        if whole is None:
            return None
        first, _, last = whole.partition(" to ")
        return first if "first" in self.flags else last


def phrases(text: str) -> Phrases:
    """The phrases of a text: one a line or several between bars, held out after a ``~``."""
    items = [item.strip() for line in text.splitlines() for item in line.split("|")]
    return Phrases(
        train=tuple(item for item in items if item and not item.startswith(HELD_OUT_MARK)),
        held_out=tuple(
            item.removeprefix(HELD_OUT_MARK).strip()
            for item in items
            if item.startswith(HELD_OUT_MARK)
        ),
    )


def attributes(text: str) -> tuple[Attribute, ...]:
    """The attributes that a domain's text describes."""
    return tuple(_attribute(block) for block in text.split("\n[")[1:])


def _attribute(block: str) -> Attribute:
    head, _, body = block.partition("]\n")
    key, _, rest = head.partition(": ")
    value, *flags = rest.split(", ")
    lines: dict[str, str] = {}
    keyword = ""
    for line in body.splitlines():
        if line and not line.startswith(" "):
            keyword, _, line = line.partition(" ")  # noqa: PLW2901
            assert keyword not in lines, (key, keyword)
            lines[keyword] = ""
        if line.strip():
            lines[keyword] += line + "\n"
    fields = {name: phrases(lines.pop(name, "")) for name in ("labels", "nouns", "facts")}
    for name, found in fields.items():
        assert found.train, (key, name)
        assert not found.held_out, (key, name)
    attribute = Attribute(
        key=key,
        value=value,
        flags=frozenset(flags),
        labels=fields["labels"].train,
        nouns=fields["nouns"].train,
        facts=fields["facts"].train,
        asks=phrases(lines.pop("asks")),
        clauses=phrases(lines.pop("clauses", "")),
        opposite=phrases(lines.pop("opposite", "")),
        otherwise=lines.pop("otherwise", "").strip(),
    )
    assert not lines, (key, lines)
    return attribute
