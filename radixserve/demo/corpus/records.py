"""Records: one block or line of labelled fields for each subject."""

from collections.abc import Callable, Sequence

from radixserve.demo.corpus.chance import Chance
from radixserve.demo.corpus.grammar import capitalised
from radixserve.demo.corpus.section import Section

Fields = Sequence[tuple[str, str]]
Layout = Callable[[str, Fields], str]


def _lines(name: str, fields: Fields) -> str:
    return "\n".join([f"Name: {name}", *(f"{label}: {value}" for label, value in fields)]) + "\n"


def _titled(name: str, fields: Fields) -> str:
    return "\n".join([name, *(f"{label}: {value}" for label, value in fields)]) + "\n"


def _bullets(name: str, fields: Fields) -> str:
    return "\n".join([f"### {name}", *(f"- {label}: {value}" for label, value in fields)]) + "\n"


def _nested(name: str, fields: Fields) -> str:
    return "\n".join([f"- {name}", *(f"  - {label}: {value}" for label, value in fields)])


def _stars(name: str, fields: Fields) -> str:
    lines = (f"* {label}: {value}" for label, value in fields)
    return "\n".join([f"**{name}**", *lines]) + "\n"


def _bold(name: str, fields: Fields) -> str:
    lines = (f"**{label}:** {value}" for label, value in fields)
    return "\n".join([f"## {name}", *lines]) + "\n"


def _indented(name: str, fields: Fields) -> str:
    return "\n".join([f"{name}:", *(f"  {label}: {value}" for label, value in fields)])


def _equals(name: str, fields: Fields) -> str:
    return "\n".join([f"[{name}]", *(f"{label} = {value}" for label, value in fields)]) + "\n"


def _dashed(name: str, fields: Fields) -> str:
    return "\n".join([name, *(f"{label} - {value}" for label, value in fields)]) + "\n"


def _brackets(name: str, fields: Fields) -> str:
    return f"{name} ({'; '.join(f'{label}: {value}' for label, value in fields)})"


def _bars(name: str, fields: Fields) -> str:
    return " | ".join([name, *(f"{label}: {value}" for label, value in fields)])


def _running(name: str, fields: Fields) -> str:
    return f"- {name}: " + ", ".join(f"{label.lower()} {value}" for label, value in fields)


def _sentences(name: str, fields: Fields) -> str:
    return f"{name}. " + " ".join(f"{label}: {value}." for label, value in fields)


LAYOUTS: tuple[Layout, ...] = (
    _lines,
    _titled,
    _bullets,
    _nested,
    _stars,
    _bold,
    _indented,
    _equals,
    _dashed,
    _brackets,
    _bars,
    _running,
    _sentences,
)


def records(chance: Chance, section: Section) -> str:
    """The section's facts as records, all in one layout and with the same labels."""
    layout = chance.pick(LAYOUTS)
    labels = {attribute.key: chance.pick(attribute.labels) for attribute in section.attributes}
    blocks = []
    for subject in section.subjects:
        fields = [(labels[key], value) for key, value in subject.facts.items()]
        blocks.append(layout(capitalised(subject.name), fields))
    return "\n".join(blocks).rstrip("\n")
