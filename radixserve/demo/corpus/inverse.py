"""Inverse questions: which subject has a value, asked in words and answered.

The answer says first what was asked and then what was found: "The one who lives in Ghent is Maria
Lopez.". A small model may have found the place by the time it comes to the name.
"""

from radixserve.demo.corpus import frames
from radixserve.demo.corpus.attribute import Attribute
from radixserve.demo.corpus.grammar import with_article
from radixserve.demo.corpus.prose import predicate
from radixserve.demo.corpus.section import Section
from radixserve.demo.corpus.wording import Wording


def inverse_question(wording: Wording, section: Section, attribute: Attribute, value: str) -> str:
    """Who or what of the section has the value. *Mutates* the wording's stream."""
    chance = wording.chance
    noun = section.noun
    if section.domain.is_people:
        words = {"who": "who", "one": "the person who", "aone": "somebody who"}
        words |= {"whose": "whose", "whom": "whom"}
    else:
        bare = "what" if section.subjects[0].pronoun == "it" else "who"
        which = f"which {noun}" if chance.hits(0.7) else bare
        words = {"who": which, "one": f"the {noun} that", "aone": f"{with_article(noun)} that"}
        words |= {"whose": f"which {noun}'s", "whom": f"which {noun}"}
    if chance.hits(0.3):
        template = wording.phrase(frames.INVERSE_NOUN_FRAMES)
        words |= {"n": chance.pick(attribute.nouns), "v": value}
    else:
        template = wording.phrase(frames.INVERSE_FRAMES)
        words["f"] = predicate(chance.pick(attribute.facts), _their(section), value)
    return wording.put(template, None, opening="", **words)


def inverse_answer(section: Section, attribute: Attribute, value: str, found: str) -> str:
    """``found``: the subject within a sentence, or ``frames.UNKNOWN_VALUE``."""
    who = "who" if section.domain.is_people else "that"
    return f"The one {who} {predicate(attribute.facts[0], _their(section), value)} is {found}."


def _their(section: Section) -> str:
    return "their" if section.domain.is_people else "its"
