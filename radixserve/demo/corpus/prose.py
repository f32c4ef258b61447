"""Prose: the facts of a section in sentences, with pronouns, joining words and asides.

A pronoun stands only where it can mean one subject: never right after a sentence that names another
person.
"""

from collections.abc import Sequence

from radixserve.demo.corpus.attribute import Attribute
from radixserve.demo.corpus.chance import Chance
from radixserve.demo.corpus.grammar import capitalised, with_article
from radixserve.demo.corpus.section import Section
from radixserve.demo.corpus.subject import Subject

ASIDE_SHARE = 0.12
JOINERS = (
    "Besides, ",
    "Also, ",
    "By the way, ",
    "As everybody knows, ",
    "In fact, ",
    "What is more, ",
)
LIGHT_VERBS = frozenset(("is", "was", "will", "can", "must", "should", "may"))
STARTS = ("As for {x}, {s} ", "Then there is {x}: {s} ", "Now to {x}: {s} ", "About {x}: {s} ")


def predicate(template: str, possessive: str, value: str) -> str:
    """A fact without its subject: "lives in Turin", "has her home in Turin"."""
    filled = template.replace("{her}", possessive)
    if "{av}" in filled:
        filled = filled.replace("{av}", with_article(value))
    return filled.replace("{v}", value)


class _Writer:
    """Sentences about one section's subjects, in order. *Mutates* the random stream."""

    def __init__(self, chance: Chance, section: Section) -> None:
        self.chance = chance
        self.section = section
        self.pronoun_is_clear = False
        self.is_first = True
        """Whether the next sentence is the first about its subject."""

    def fact(self, subject: Subject, attribute: Attribute) -> str:
        template = self.chance.pick(attribute.facts)
        return predicate(template, subject.possessive, subject.facts[attribute.key])

    def facts(self, subject: Subject, group: Sequence[Attribute]) -> list[str]:
        """The facts of a group, each with a verb of its own where that can be had."""
        facts: list[str] = []
        for attribute in group:
            fact = self.fact(subject, attribute)
            for _ in range(3):
                if all(fact.partition(" ")[0] != other.partition(" ")[0] for other in facts):
                    break
                fact = self.fact(subject, attribute)
            facts.append(fact)
        return facts

    def mention(self, subject: Subject) -> str:
        """The subject of a sentence: a pronoun where that is clear."""
        if self.pronoun_is_clear and self.chance.hits(0.65):
            return subject.pronoun
        if self.pronoun_is_clear and subject.shorts and self.chance.hits(0.5):
            return self.chance.pick(subject.shorts)
        return subject.full

    def sentence(self, subject: Subject, group: Sequence[Attribute]) -> str:
        """One sentence with the group's facts."""
        chance = self.chance
        name = self.mention(subject)
        who = "who" if subject.pronoun != "it" else "which"
        if len(group) == 1:
            attribute = group[0]
            if chance.hits(0.3):
                text = self._owned(subject, name, attribute)
            elif self.is_first and chance.hits(0.2):
                start = chance.pick(STARTS).format(x=subject.full, s=subject.pronoun)
                text = start + self.fact(subject, attribute)
            else:
                also = "also " if self.pronoun_is_clear and chance.hits(0.15) else ""
                fact = self.fact(subject, attribute)
                # "She is also a baker", but "she also lives in Turin".
                verb, _, rest = fact.partition(" ")
                stays = verb not in LIGHT_VERBS
                text = f"{name} {also}{fact}" if stays else f"{name} {verb} {also}{rest}"
        else:
            facts = self.facts(subject, group)
            if len(facts) == 2 and name != subject.pronoun and chance.hits(0.3):
                text = f"{name}, {who} {facts[0]}, {facts[1]}"
            elif len(facts) == 2 and chance.hits(0.2):
                text = f"{name} {facts[0]}, and {subject.pronoun} {facts[1]}"
            elif len(facts) == 2:
                text = f"{name} {facts[0]} and {facts[1]}"
            else:
                text = f"{name} {facts[0]}, {facts[1]} and {facts[2]}"
        if self.pronoun_is_clear and " also " not in text and chance.hits(0.12):
            text = chance.pick(JOINERS) + text
        self.is_first = False
        self.pronoun_is_clear = all(attribute.value != "person" for attribute in group)
        return capitalised(text) + "."

    def _owned(self, subject: Subject, name: str, attribute: Attribute) -> str:
        """ "Her extension is 4417", "The price of the kettle is 12 euros"."""
        value = subject.facts[attribute.key]
        if attribute.facts[0].endswith(" {av}") and attribute.key != "job":
            value = with_article(value)
        elif attribute.facts[0].endswith(" the {v}"):
            value = f"the {value}"
        noun = self.chance.pick(attribute.nouns)
        if name == subject.pronoun:
            return f"{subject.possessive} {noun} is {value}"
        if self.chance.hits(0.5):
            return f"the {noun} of {name} is {value}"
        return f"{name}'s {noun} is {value}"

    def contrast(self, one: Subject, other: Subject, attribute: Attribute) -> str:
        """One sentence about two subjects: "While Maria lives in Turin, Bruno lives in Milan."."""
        template = self.chance.pick(attribute.facts)
        first, second = (
            f"{s.full} {predicate(template, s.possessive, s.facts[attribute.key])}"
            for s in (one, other)
        )
        self.pronoun_is_clear = False
        form = self.chance.pick(("{}, while {}.", "{}, but {}.", "{}, and {}.", "While {}, {}."))
        return capitalised(form.format(first, second))


def prose(chance: Chance, section: Section) -> str:
    """The section's facts as text: a paragraph for each subject, or one for all.

    *Mutates* the order of the subjects' facts: it becomes that of the text.
    """
    writer = _Writer(chance, section)
    told: set[tuple[str, str]] = set()
    opening = ""
    if len(section.subjects) > 1 and chance.hits(0.25):
        one, other = chance.sample(section.subjects, 2)
        both = [
            attribute
            for attribute in section.attributes
            if one.facts.get(attribute.key, "") != other.facts.get(attribute.key, "")
            and attribute.key in one.facts
            and attribute.key in other.facts
        ]
        if both:
            attribute = chance.pick(both)
            opening = writer.contrast(one, other, attribute)
            for subject in (one, other):
                # What is told first is first among the facts, too.
                value = subject.facts.pop(attribute.key)
                rest = dict(subject.facts)
                subject.facts.clear()
                subject.facts.update({attribute.key: value}, **rest)
            told = {(one.name, attribute.key), (other.name, attribute.key)}
    by_key = {attribute.key: attribute for attribute in section.attributes}
    paragraphs = []
    asides = chance.shuffled(section.domain.asides)
    for subject in section.subjects:
        facts = [by_key[key] for key in subject.facts if (subject.name, key) not in told]
        writer.pronoun_is_clear = False
        writer.is_first = True
        sentences = []
        while facts:
            size = min(chance.weighted(((1, 0.45), (2, 0.4), (3, 0.15))), len(facts))
            sentences.append(writer.sentence(subject, facts[:size]))
            facts = facts[size:]
            if facts and asides and chance.hits(ASIDE_SHARE):
                sentences.append(asides.pop())
                writer.pronoun_is_clear = False
        paragraphs.append(" ".join(sentences))
    if opening:
        paragraphs.insert(0, opening)
    joint = "\n\n" if chance.hits(0.4) else " " if chance.hits(0.5) else "\n"
    return joint.join(paragraph for paragraph in paragraphs if paragraph)
