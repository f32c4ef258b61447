"""A document: sections of facts under headings, of about a given length, nothing in it twice."""

from collections import Counter
from dataclasses import dataclass

from radixserve.demo.corpus.domains import DOMAINS
from radixserve.demo.corpus.prose import prose
from radixserve.demo.corpus.records import records
from radixserve.demo.corpus.section import Form, Section, draw_section
from radixserve.demo.corpus.setting import Setting
from radixserve.demo.corpus.tables import table

FORMS = ((Form.RECORDS, 0.28), (Form.PROSE, 0.34), (Form.TABLE, 0.38))
LENGTHS = {Form.RECORDS: (24, 22), Form.PROSE: (0, 40), Form.TABLE: (16, 13)}
"""About how many characters a subject takes by itself, and for each of its facts."""
MOST_SUBJECTS = {Form.RECORDS: 12, Form.PROSE: 9, Form.TABLE: 15}
MOST_ATTRIBUTES = {Form.RECORDS: 8, Form.PROSE: 7, Form.TABLE: 7}
WORTH_A_SECTION = 130
"""A section shorter than this many characters is not begun."""


@dataclass(frozen=True, slots=True)
class Document:
    """Its text and what is in it."""

    text: str
    sections: tuple[Section, ...]
    counts: Counter[str]
    """How often each value is a fact of the document."""


def draw_document(setting: Setting, max_characters: int) -> Document:
    """A document of at most about that many characters. *Mutates* the setting."""
    chance = setting.chance
    parts: list[str] = []
    sections: list[Section] = []
    domains = list(DOMAINS)
    left = max_characters
    while domains and (not sections or left >= WORTH_A_SECTION):
        domain = chance.weighted(domains)
        domains = [entry for entry in domains if entry[0] is not domain]
        form = chance.weighted(FORMS)
        # Long documents have many sections as well as long ones.
        room = left if chance.hits(0.4) else max(WORTH_A_SECTION, left * chance.between(3, 8) // 10)
        own, each = LENGTHS[form]
        most = min(MOST_ATTRIBUTES[form], max(1, (room - own) // each))
        num_attributes = chance.between(min(2, most), most)
        num_subjects = max(1, room // (own + each * num_attributes))
        num_subjects = min(num_subjects, MOST_SUBJECTS[form])
        section = draw_section(
            setting, domain, form, num_attributes=num_attributes, num_subjects=num_subjects
        )
        text = _written(setting, section)
        while len(text) > left and len(section.subjects) > 1:
            kept = max(1, len(section.subjects) * left // len(text))
            kept = min(kept, len(section.subjects) - 1)
            section = Section(
                domain,
                section.noun,
                section.nouns,
                form,
                section.attributes,
                section.subjects[:kept],
            )
            text = _written(setting, section)
        if sections and len(text) > left:
            break
        parts.append(text)
        sections.append(section)
        left -= len(text) + 2
    counts = Counter(v for s in sections for subject in s.subjects for v in subject.facts.values())
    return Document("\n\n".join(parts), tuple(sections), counts)


def _written(setting: Setting, section: Section) -> str:
    chance = setting.chance
    render = {Form.RECORDS: records, Form.PROSE: prose, Form.TABLE: table}[section.form]
    body = render(chance, section)
    domain = section.domain
    if chance.hits(0.4):
        intro = chance.pick(domain.intros)
        body = f"{intro} {body}" if section.form is Form.PROSE else f"{intro}\n\n{body}"
    if chance.hits(0.6):
        title = chance.pick(domain.headings).format(kinds=section.nouns)
        title = title[0].upper() + title[1:]
        mark = chance.pick(("# {}\n\n", "## {}\n\n", "{}\n\n", "{}:\n", "== {} ==\n", "**{}**\n\n"))
        body = mark.format(title) + body
    return body
