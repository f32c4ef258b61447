"""Turns about a document: each a question in words, its one right answer, and what it is about.

Every method returns None where the document has nothing of its kind: the caller tries another.
It knows nothing of the order of a conversation.
"""

from dataclasses import dataclass, replace

from radixserve.demo.corpus import frames
from radixserve.demo.corpus.attribute import Attribute
from radixserve.demo.corpus.dialogue import Turn
from radixserve.demo.corpus.document import Document
from radixserve.demo.corpus.domains.people import PEOPLE
from radixserve.demo.corpus.extra_attributes import draw_attribute
from radixserve.demo.corpus.grammar import capitalised, listed, plural_of, question_of
from radixserve.demo.corpus.inverse import inverse_answer, inverse_question
from radixserve.demo.corpus.names import SUBJECTS
from radixserve.demo.corpus.prose import predicate
from radixserve.demo.corpus.section import Section
from radixserve.demo.corpus.setting import TRIES, Setting
from radixserve.demo.corpus.subject import Subject
from radixserve.demo.corpus.values import VALUES
from radixserve.demo.corpus.wording import Reference, Wording, called

MOST_LISTED = 3


@dataclass(frozen=True, slots=True)
class Topic:
    """What a turn was about: where a question that refers back finds its subject."""

    section: Section
    subject: Subject
    attribute: Attribute
    name: str
    """What the conversation calls the subject, within a sentence."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A turn, and its topic if it has one subject and one attribute."""

    turn: Turn
    topic: Topic | None = None


class Questioner:
    """Asks about one document. *Mutates* the streams behind its setting and its wording."""

    def __init__(self, setting: Setting, document: Document, wording: Wording) -> None:
        self.setting = setting
        self.chance = setting.chance
        self.document = document
        self.wording = wording
        # A large section has more to ask about, but must not leave the others unasked.
        self._sections = [
            (section, len(section.subjects) ** 0.5 + len(section.attributes) ** 0.5)
            for section in document.sections
        ]
        self._done: set[tuple[str, str]] = set()
        self._turned: set[tuple[str, str]] = set()

    def direct(self) -> Asked | None:
        """A value by its subject and attribute."""
        topic = self._topic()
        if topic is None:
            return None
        reference = self.wording.refer(topic.subject)
        question = self.wording.ask(topic.attribute, reference)
        topic = replace(topic, name=reference.in_answer)
        return self._asked(question, topic, topic.section.form.value)

    def same_subject(self, topic: Topic) -> Asked | None:
        """Another attribute of the same subject, which the question only points at."""
        others = [
            attribute
            for attribute in topic.section.asked
            if attribute is not topic.attribute
            and attribute.part_of(topic.subject.facts) is not None
            and (topic.subject.name, attribute.key) not in self._done
        ]
        if not others or (topic.subject.pronoun != "it" and topic.attribute.value == "person"):
            return None
        attribute = self.chance.pick(others)
        reference = self.wording.pronoun(topic.subject, topic.name)
        if self.chance.hits(0.35):
            template = self.wording.phrase(frames.ELLIPTIC_FRAMES)
            question = self.wording.put(self.wording.name(attribute, template), reference)
        else:
            opening = "And" if self.chance.hits(0.3) else ""
            question = self.wording.ask(attribute, reference, opening=opening)
        return self._asked(question, replace(topic, attribute=attribute), "follow-up")

    def other_subject(self, topic: Topic) -> Asked | None:
        """The same attribute of another subject of the section."""
        others = [
            subject
            for subject in topic.section.subjects
            if subject is not topic.subject
            and (subject.name, topic.attribute.key) not in self._done
        ]
        if not others:
            return None
        template = self.wording.phrase(frames.OTHER_FRAMES)
        if self.chance.hits(0.06):
            stranger = self._stranger(topic.section)
            if stranger is None:
                return None
            return self._absent(self.wording.put(template, called(stranger, stranger.full)))
        subject = self.chance.pick(others)
        reference = self.wording.refer(subject)
        question = self.wording.put(template, reference)
        if topic.attribute.part_of(subject.facts) is None:
            return self._untold(question, reference)
        topic = replace(topic, subject=subject, name=reference.in_answer)
        return self._asked(question, topic, "follow-up")

    def double(self) -> Asked | None:
        """Two attributes of a subject in one question."""
        topic = self._topic()
        if topic is None:
            return None
        others = [
            attribute
            for attribute in topic.section.asked
            if attribute is not topic.attribute
            and attribute.part_of(topic.subject.facts) is not None
            and not topic.attribute.is_part_with(attribute)
        ]
        if not others or topic.attribute.value == "person":
            return None
        reference = self.wording.refer(topic.subject)
        second = replace(topic, attribute=self.chance.pick(others), name=reference.in_answer)
        one = self.chance.pick(topic.attribute.asks.train)
        other = self.chance.pick(second.attribute.asks.train)
        if "{o}" in other:
            other = self.wording.name(second.attribute, "what is {xs} {n}?")
        other = self.wording.fill(other, self.wording.pronoun(topic.subject, reference.in_answer))
        template = self.wording.phrase(frames.DOUBLE_FRAMES).replace("{a}", one.rstrip("?"))
        template = template.replace("{b}", f"{other[:1].lower()}{other[1:]}".rstrip("?"))
        question = self.wording.put(template, reference)
        answer = f"{second.name} {self._canonical(topic)} and {self._canonical(second)}."
        return Asked(Turn(question, capitalised(answer), "two facts"), second)

    def inverse(self) -> Asked | None:
        """The one subject that has a value."""
        topic = self._topic(unasked=False)
        if topic is None or topic.attribute.is_part:
            return None
        value = topic.subject.facts[topic.attribute.key]
        if self._times_told(value) != 1 or (topic.subject.name, value) in self._turned:
            return None
        self._turned.add((topic.subject.name, value))
        question = inverse_question(self.wording, topic.section, topic.attribute, value)
        answer = inverse_answer(topic.section, topic.attribute, value, topic.subject.full)
        self._done.add((topic.subject.name, topic.attribute.key))
        return Asked(Turn(question, answer, "inverse"), topic)

    def check(self) -> Asked | None:
        """Whether a subject has a value: the one it has, or another that it could have.

        The fact comes first and the yes or no behind it, as one finds them.
        """
        topic = self._topic(unasked=False)
        if topic is None or topic.attribute.is_part:
            return None
        subject, attribute = topic.subject, topic.attribute
        if (subject.name, attribute.key) in self._turned:
            return None
        self._turned.add((subject.name, attribute.key))
        right = subject.facts[attribute.key]
        value = right if self.chance.hits(0.5) else self._other_value(topic, right)
        reference = self.wording.refer(subject)
        topic = replace(topic, name=reference.in_answer)
        name = capitalised(topic.name)
        yes = value == right
        if attribute.otherwise and self.chance.hits(0.7):
            question = self.wording.put(self.wording.phrase(attribute.opposite), reference, v=value)
            if yes:
                answer = f"{name} {self._canonical(topic)}, so no."
            else:
                answer = f"{name} {attribute.otherwise.replace('{v}', right)}, so yes."
            return Asked(Turn(question, answer, "yes-no"), topic)
        # "Is it true that it does not open" asks for a no that means yes.
        positive = [fact for fact in attribute.facts if not fact.startswith("does not")]
        fact = predicate(self.chance.pick(positive), subject.possessive, value)
        template = self.wording.phrase(frames.CHECK_FRAMES)
        template = template.replace("{q}", question_of(fact)).replace("{f}", fact)
        question = self.wording.put(template, reference)
        answer = f"{name} {self._canonical(topic)}, so {'yes' if yes else 'no'}."
        return Asked(Turn(question, answer, "yes-no"), topic)

    def several(self) -> Asked | None:
        """The two or three subjects that share a value."""
        shared = [
            (section, attribute)
            for section in self.document.sections
            for attribute in section.attributes
            if "shared" in attribute.flags
        ]
        if not shared:
            return None
        section, attribute = self.chance.pick(shared)
        groups: dict[str, list[str]] = {}
        for subject in section.subjects:
            if attribute.key in subject.facts:
                groups.setdefault(subject.facts[attribute.key], []).append(subject.full)
        groups = {
            value: names
            for value, names in groups.items()
            if 2 <= len(names) == self.document.counts[value] <= MOST_LISTED
        }
        if not groups:
            return None
        value = self.chance.pick(list(groups))
        having = groups[value]
        fact = predicate(self.chance.pick(attribute.facts), "their", value)
        template = self.wording.phrase(frames.LIST_FRAMES)
        question = self.wording.put(template, fs=plural_of(fact), nouns=section.nouns)
        told = plural_of(predicate(attribute.facts[0], "their", value))
        answer = f"The {section.nouns} that {told} are {listed(having)}."
        return Asked(Turn(question, answer, "list"))

    def summary(self) -> Asked | None:
        """The first two facts that the document has of a subject."""
        section = self.chance.weighted(self._sections)
        subject = self.chance.pick(section.subjects)
        by_key = {attribute.key: attribute for attribute in section.attributes}
        keys = list(subject.facts)[:2]
        if len(keys) < 2:
            return None
        facts = [
            predicate(by_key[key].facts[0], subject.possessive, subject.facts[key]) for key in keys
        ]
        template = self.wording.phrase(frames.SUMMARY_FRAMES)
        reference = self.wording.refer(subject)
        question = self.wording.put(template, reference)
        topic = Topic(section, subject, by_key[keys[1]], reference.in_answer)
        answer = f"{capitalised(topic.name)} {facts[0]} and {facts[1]}."
        return Asked(Turn(question, answer, "summary"), topic)

    def contents(self) -> Asked | None:
        """What the document is about."""
        topics = [section.topic for section in self.document.sections]
        if len(topics) > MOST_LISTED:
            return None
        question = self.wording.put(self.wording.phrase(frames.TOPIC_QUESTIONS))
        return Asked(Turn(question, f"The document is about {listed(topics)}.", "contents"))

    def unknown_subject(self) -> Asked | None:
        """Somebody or something that the document does not have."""
        section = self.chance.weighted(self._sections)
        attributes = section.asked
        people = self._mentioned_people()
        if people and self.chance.hits(0.25):
            # Named as an owner or a manager, but nothing is said of them.
            name, attributes = self.chance.pick(people), list(PEOPLE.attributes)
            subject = Subject(name, shorts=(name.partition(" ")[0],), possessive="their")
        else:
            stranger = self._stranger(section)
            if stranger is None:
                return None
            subject = stranger
        first = subject.shorts and section.domain.is_people and self.chance.hits(0.25)
        reference = called(subject, subject.shorts[0] if first else subject.full)
        return self._absent(self.wording.ask(self.chance.pick(attributes), reference))

    def unknown_value(self) -> Asked | None:
        """Who has a value that nobody has."""
        section = self.chance.weighted(self._sections)
        attribute = self.chance.pick(section.attributes)
        value = VALUES[attribute.value](self.setting)
        if self._times_told(value):
            return None
        question = inverse_question(self.wording, section, attribute, value)
        answer = inverse_answer(section, attribute, value, frames.UNKNOWN_VALUE)
        return Asked(Turn(question, answer, "absent"))

    def missing_attribute(self) -> Asked | None:
        """Something that the document leaves out about a subject it has."""
        section = self.chance.weighted(self._sections)
        subject = self.chance.pick(section.subjects)
        shown = {question for a in section.asked for question in a.asks.train + a.asks.held_out}
        missing = [
            attribute
            for attribute in section.domain.attributes
            if attribute.part_of(subject.facts) is None
            # "How much is it?" may mean the price or the fee: ask only what one attribute answers.
            and not shown.intersection(attribute.asks.train + attribute.asks.held_out)
        ]
        missing = [a for a in missing if not _is_near(a, section)]
        extra = draw_attribute(self.setting)
        if not missing or (extra not in section.attributes and self.chance.hits(0.3)):
            missing = [extra]
        if extra in section.attributes:
            return None
        reference = self.wording.refer(subject)
        return self._untold(self.wording.ask(self.chance.pick(missing), reference), reference)

    def _stranger(self, section: Section) -> Subject | None:
        """A subject that the section lacks, if there is one; at times half its name is known."""
        names = {subject.name for subject in section.subjects}
        # A long document may have all that a short list allows.
        for _ in range(TRIES):
            stranger = SUBJECTS[section.domain.subjects](self.setting, section.noun)
            if stranger.name not in names:
                break
        else:
            return None
        known = self.chance.pick(section.subjects)
        one, other = stranger.name.split(" ", 1), known.name.split(" ", 1)
        if not self.chance.hits(0.25) or len(one) != 2 or len(other) != 2 or one[0] == other[0]:
            return stranger
        mixed = f"{one[0]} {other[1]}"
        if mixed in names:
            return stranger
        return replace(stranger, name=mixed)

    def _mentioned_people(self) -> list[str]:
        return [
            subject.facts[attribute.key]
            for section in self.document.sections
            for attribute in section.attributes
            if attribute.value == "person"
            for subject in section.subjects
            if attribute.key in subject.facts
        ]

    def _topic(self, *, unasked: bool = True) -> Topic | None:
        for _ in range(8):
            section = self.chance.weighted(self._sections)
            subject = self.chance.pick(section.subjects)
            attribute = self.chance.pick(section.asked)
            if attribute.part_of(subject.facts) is None:
                continue
            if not (unasked and (subject.name, attribute.key) in self._done):
                return Topic(section, subject, attribute, subject.full)
        return None

    def _times_told(self, value: str) -> int:
        """How many facts have the value, be it as a part: "red" is told where "dark red" is."""
        words = f" {value} "
        return sum(count for v, count in self.document.counts.items() if words in f" {v} ")

    def _canonical(self, topic: Topic) -> str:
        subject, attribute = topic.subject, topic.attribute
        value = attribute.part_of(subject.facts)
        assert value is not None, (subject, attribute.key)
        return predicate(attribute.facts[0], subject.possessive, value)

    def _asked(self, question: str, topic: Topic, kind: str) -> Asked:
        self._done.add((topic.subject.name, topic.attribute.key))
        answer = f"{capitalised(topic.name)} {self._canonical(topic)}."
        return Asked(Turn(question, answer, kind), topic)

    def _absent(self, question: str) -> Asked:
        return Asked(Turn(question, frames.ABSENT_ANSWER, "absent"))

    def _untold(self, question: str, reference: Reference) -> Asked:
        answer = frames.UNTOLD_ANSWER.replace("{x}", capitalised(reference.in_answer))
        return Asked(Turn(question, answer, "absent"))

    def _other_value(self, topic: Topic, right: str) -> str:
        """A wrong value: most often one that another subject has."""
        key = topic.attribute.key
        others = [s.facts[key] for s in topic.section.subjects if s.facts.get(key, right) != right]
        if others and self.chance.hits(0.7):
            return self.chance.pick(others)
        for _ in range(20):
            value = VALUES[topic.attribute.value](self.setting)
            if value != right:
                return value
        return right


def _is_near(attribute: Attribute, section: Section) -> bool:
    """Whether a question for the attribute could be taken for one about something shown."""
    near = (
        {"date", "time", "day", "begins"},
        {"address", "city", "desk", "team", "cage", "place", "room", "classroom"},
        {"departure", "arrival", "duration"},
        {"extension", "phone", "number"},
        {"year", "planted", "founded", "age", "since"},
        {"rate", "fee", "price", "total", "fare"},
        {"until", "due"},
        {"status", "address", "delivery"},
        {"hobby", "food"},
        {"closed", "hours"},
        {"code", "number"},
    )
    shown = {other.key for other in section.asked}
    return any(attribute.key in group and shown & group for group in near)
