"""A section of a document: some subjects of one domain, and which of their facts it shows."""

from dataclasses import dataclass
from enum import StrEnum

from radixserve.demo.corpus.attribute import Attribute
from radixserve.demo.corpus.domains import Domain
from radixserve.demo.corpus.extra_attributes import draw_attribute
from radixserve.demo.corpus.names import SUBJECTS
from radixserve.demo.corpus.setting import Setting
from radixserve.demo.corpus.subject import Subject
from radixserve.demo.corpus.values import VALUES

GAP_SHARE = 0.06
"""How many fields of a section are left empty, where it has any gaps at all."""


EXTRA_SHARE = 0.1
"""How many of a section's attributes are not its domain's, but could be anything's."""


class Form(StrEnum):
    """How a section writes its facts; also the kind of the direct questions about them."""

    RECORDS = "record"
    PROSE = "prose"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Section:
    """What a section says, before it is put into words."""

    domain: Domain
    noun: str
    nouns: str
    form: Form
    attributes: tuple[Attribute, ...]
    """What it shows, in its order; none is a part of another."""
    subjects: tuple[Subject, ...]

    @property
    def asked(self) -> list[Attribute]:
        """What can be asked: what it shows, and the parts of it."""
        shown = {attribute.key for attribute in self.attributes}
        parts = (a for a in self.domain.attributes if a.is_part and a.value in shown)
        return [*self.attributes, *parts]

    @property
    def topic(self) -> str:
        """What the section is about, in a word that its text gives away."""
        return self.nouns if self.domain.names_say_kind else self.domain.kinds[0][1]


def draw_section(
    setting: Setting, domain: Domain, form: Form, *, num_attributes: int, num_subjects: int
) -> Section:
    """A section with new subjects and values. *Mutates* the setting."""
    chance = setting.chance
    noun, nouns = chance.pick(domain.kinds)
    open_ended = sum(chance.hits(EXTRA_SHARE) for _ in range(num_attributes))
    whole = [attribute for attribute in domain.attributes if not attribute.is_part]
    attributes = chance.sample(whole, num_attributes - open_ended)
    for _ in range(open_ended):
        extra = draw_attribute(setting)
        if extra not in attributes:
            attributes.append(extra)
    attributes = chance.shuffled(attributes)
    order_varies = form is Form.RECORDS and chance.hits(0.2)
    has_gaps = chance.hits(0.3)
    taken: dict[str, set[str]] = {attribute.key: set() for attribute in attributes}
    subjects: list[Subject] = []
    for _ in range(num_subjects):
        subject = SUBJECTS[domain.subjects](setting, noun)
        if not setting.claims(subject.name) and subjects:
            continue
        own_order = form is Form.PROSE or order_varies
        for attribute in chance.shuffled(attributes) if own_order else attributes:
            if has_gaps and subject.facts and chance.hits(GAP_SHARE):
                continue
            value = VALUES[attribute.value](setting)
            # Values that differ are what inverse questions need; short lists may run out of them.
            for _ in range(0 if "shared" in attribute.flags else 8):
                if value not in taken[attribute.key]:
                    break
                value = VALUES[attribute.value](setting)
            taken[attribute.key].add(value)
            subject.facts[attribute.key] = value
        subjects.append(subject)
    return Section(domain, noun, nouns, form, tuple(attributes), tuple(subjects))
