"""Puts a question into words: picks the phrases its split may use, fills them, and roughens them.

People greet, say please, forget the question mark and hit the wrong key; some of the questions do.
Names stay as they are, but for capitals; so do values, except those of yes-or-no questions.
"""

from dataclasses import dataclass

from radixserve.demo.corpus.attribute import Attribute, Phrases
from radixserve.demo.corpus.chance import Chance
from radixserve.demo.corpus.frames import CLAUSE_FRAMES, ENDINGS, NOUN_FRAMES, OPENINGS
from radixserve.demo.corpus.grammar import capitalised
from radixserve.demo.corpus.subject import Subject

WHO_FOR_PERSONS = (("What is ", "Who is "), ("What was ", "Who was "), ("what is ", "who is "))
OPENING_SHARE = 0.16
CONTRACTIONS = (("What is ", "What's "), ("Where is ", "Where's "), ("Who is ", "Who's "))


@dataclass(frozen=True, slots=True)
class Reference:
    """How a question calls its subject."""

    subject: str
    """In a sentence: "the Velora kettle", "Maria", "she"."""
    possessive: str
    """Before a noun: "Maria's", "her"."""
    own: str
    """For what the sentence has called its own: "her", "its"."""
    in_answer: str
    """What the answer calls it, within a sentence: as the question does, or, where that only points
    back, as the turn before did; with its article."""
    is_pronoun: bool = False


def called(subject: Subject, name: str) -> Reference:
    """The subject called by a name."""
    return Reference(
        subject=name,
        possessive=f"{name}'s",
        own=subject.possessive,
        in_answer=subject.full if name == subject.name else name,
    )


class Wording:
    """The phrases of one dialogue. *Mutates* the stream it draws from."""

    def __init__(self, chance: Chance, *, held_out: bool) -> None:
        self.chance = chance
        self.held_out = held_out
        """Whether every question is to be asked in a way that training never shows."""

    def phrase(self, phrases: Phrases) -> str:
        """A phrase that the split may use."""
        return self.chance.pick(phrases.held_out if self.held_out else phrases.train)

    def refer(self, subject: Subject) -> Reference:
        """The subject by its name, in full or in short."""
        chance = self.chance
        if subject.shorts and chance.hits(0.35):
            name = chance.pick(subject.shorts)
        elif subject.article and chance.hits(0.1):
            name = subject.name
        else:
            name = subject.full
        return called(subject, name)

    def pronoun(self, subject: Subject, name: str) -> Reference:
        """The subject by a word that points back at it; ``name``: what it was called before."""
        own = subject.possessive
        return Reference(
            subject=subject.pronoun, possessive=own, own=own, in_answer=name, is_pronoun=True
        )

    def ask(self, attribute: Attribute, reference: Reference, *, opening: str = "") -> str:
        """A question for the attribute's value, the opening words before it."""
        for _ in range(20):
            template = self._template(attribute)
            # "What is the price of it" and "It price?" are no English.
            if not (reference.is_pronoun and ("{o}" in template or template.startswith("{x}"))):
                break
        else:
            template = self.name(attribute, "What is {xs} {n}?")
        return self.put(template, reference, opening=opening)

    def _template(self, attribute: Attribute) -> str:
        chance = self.chance
        form = chance.weighted((("ask", 0.42), ("noun", 0.36), ("clause", 0.22)))
        if form == "ask":
            return self.phrase(attribute.asks)
        if form == "noun":
            return self.name(attribute, self.phrase(NOUN_FRAMES))
        frames, clauses = CLAUSE_FRAMES, attribute.clauses
        if not self.held_out:
            return chance.pick(frames.train).replace("{c}", chance.pick(clauses.train))
        # A new frame around a known clause, or a known frame around a new clause.
        if chance.hits(0.5):
            return chance.pick(frames.held_out).replace("{c}", chance.pick(clauses.train))
        return chance.pick(frames.train).replace("{c}", chance.pick(clauses.held_out))

    def name(self, attribute: Attribute, template: str) -> str:
        """The template with one of the attribute's nouns; one asks "who" for persons."""
        if attribute.value == "person":
            for what, who in WHO_FOR_PERSONS:
                template = template.replace(what, who)
        return template.replace("{n}", self.chance.pick(attribute.nouns))

    def put(
        self, template: str, reference: Reference | None = None, *, opening: str = "", **words: str
    ) -> str:
        """The template as a person types it, its places filled and the opening before it."""
        chance = self.chance
        starts_with_name = template.startswith(("{x", "{o"))
        if chance.hits(0.04):
            template = self._mistyped(template)
        if chance.hits(0.2):
            for long, short in CONTRACTIONS:
                template = template.replace(long, short)
        if reference is not None:
            template = self.fill(template, reference)
        for word, text in words.items():
            template = template.replace(f"{{{word}}}", text)
        if not opening and chance.hits(OPENING_SHARE):
            own = self.held_out and chance.hits(0.5)
            opening = chance.pick(OPENINGS.held_out if own else OPENINGS.train)
            if opening == "Please," and "please" in template:
                opening = "Hello,"
        return self._roughened(_opened(opening, template, keeps_capital=starts_with_name))

    def fill(self, template: str, reference: Reference) -> str:
        """The template with its subject named."""
        return (
            template.replace("{xs}", reference.possessive)
            .replace("{x}", reference.subject)
            .replace("{o}", reference.subject)
            .replace("{her}", reference.own)
        )

    def _mistyped(self, template: str) -> str:
        """Two letters change places, or one is lost, in one of the longer words."""
        chance = self.chance
        words = template.split(" ")
        long = [at for at, word in enumerate(words) if len(word) > 4 and word.isalpha()]
        if not long:
            return template
        at = chance.pick(long)
        word = words[at]
        place = chance.between(1, len(word) - 3)
        swapped = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        words[at] = swapped if chance.hits(0.6) else word[:place] + word[place + 1 :]
        return " ".join(words)

    def _roughened(self, question: str) -> str:
        """With a courtesy after it, or without its mark or its capitals, now and then."""
        chance = self.chance
        if chance.hits(0.06) and "lease" not in question:
            ending = chance.pick(ENDINGS)
            if ending.startswith(" T"):
                question += ending
            else:
                mark = "." if question.endswith(".") and not ending.endswith("?") else ""
                question = question.rstrip("?.") + ending + mark
        if chance.hits(0.08):
            return question.lower().rstrip("?.")
        if chance.hits(0.05):
            return question.lower()
        if chance.hits(0.06):
            question = question.rstrip("?.")
        return question if chance.hits(0.04) else capitalised(question)


def _opened(opening: str, question: str, *, keeps_capital: bool) -> str:
    """The question after its opening, in small letters where the sentence goes on."""
    if not opening:
        return question
    if opening.endswith((".", "!")):
        return f"{opening} {capitalised(question)}"
    if keeps_capital or question.startswith("I "):
        return f"{opening} {question}"
    return f"{opening} {question[:1].lower()}{question[1:]}"
