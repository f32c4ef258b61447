"""Tables: a row for each subject, a column for each attribute."""

from collections.abc import Callable, Sequence

from radixserve.demo.corpus.chance import Chance
from radixserve.demo.corpus.grammar import capitalised
from radixserve.demo.corpus.section import Section

Rows = Sequence[Sequence[str]]
EMPTY_CELLS = ("-", "n/a", "?")


def _padded(rows: Rows) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]


def _markdown(rows: Rows) -> str:
    rule = ["---"] * len(rows[0])
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _aligned_markdown(rows: Rows) -> str:
    padded = _padded(rows)
    rule = "|".join("-" * (len(cell) + 2) for cell in padded[0])
    head, *body = [f"| {' | '.join(row)} |" for row in padded]
    return "\n".join([head, f"|{rule}|", *body])


def _columns(rows: Rows) -> str:
    return "\n".join("  ".join(row).rstrip() for row in _padded(rows))


def _commas(rows: Rows) -> str:
    return "\n".join(", ".join(row) for row in rows)


def _tight_commas(rows: Rows) -> str:
    return "\n".join(",".join(row) for row in rows)


def _semicolons(rows: Rows) -> str:
    return "\n".join("; ".join(row) for row in rows)


def _bars(rows: Rows) -> str:
    return "\n".join(" | ".join(row) for row in rows)


STYLES: tuple[tuple[Callable[[Rows], str], float], ...] = (
    (_markdown, 4.0),
    (_aligned_markdown, 2.0),
    (_columns, 1.5),
    (_commas, 1.5),
    (_tight_commas, 1.0),
    (_semicolons, 1.0),
    (_bars, 1.0),
)


def table(chance: Chance, section: Section) -> str:
    """The section's facts as a table. A fact that is missing leaves a dash."""
    style = chance.weighted(STYLES)
    empty = chance.pick(EMPTY_CELLS)
    first = chance.pick(("Name", capitalised(section.noun)))
    head = [first, *(chance.pick(attribute.labels) for attribute in section.attributes)]
    body = [
        [
            capitalised(subject.name),
            *(subject.facts.get(attribute.key, empty) for attribute in section.attributes),
        ]
        for subject in section.subjects
    ]
    return style([head, *body])
