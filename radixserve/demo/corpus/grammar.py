"""The little English that templates cannot carry: articles, verbs, lists, capitals.

It knows nothing of documents. A *predicate* is what follows a subject, its verb first, in the third
person singular: "lives in Turin", "is 34 years old", "was founded in 1987".
"""

from collections.abc import Sequence

_BE = {"is": "are", "was": "were", "has": "have", "does": "do", "goes": "go"}
_AUXILIARIES = frozenset(("is", "was", "can", "will", "must", "should", "may"))
_PARTICIPLES = frozenset(("been", "worked", "gone", "grown", "reached"))
_PAST = {
    "joined": "join",
    "started": "start",
    "opened": "open",
    "arrived": "arrive",
    "came": "come",
    "wrote": "write",
    "began": "begin",
    "moved": "move",
}
# "an hour", "a university", "a one-way ticket": letters that do not sound like themselves.
_VOWEL_SOUNDS = ("a", "e", "i", "o", "u", "hour", "honest")
_CONSONANT_SOUNDS = ("uni", "use", "eu", "one", "uk")


def with_article(noun: str) -> str:
    """The noun after "a" or "an"."""
    word = noun.lower()
    vowel = word.startswith(_VOWEL_SOUNDS) and not word.startswith(_CONSONANT_SOUNDS)
    return f"an {noun}" if vowel else f"a {noun}"


def capitalised(sentence: str) -> str:
    """The sentence with its first letter large and the others as they are."""
    return sentence[:1].upper() + sentence[1:]


def plain_verb(verb: str) -> str:
    """The infinitive of a verb in the third person singular or in the past."""
    if verb in _PAST:
        return _PAST[verb]
    if verb in _BE:
        return _BE[verb]
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    if verb.endswith(("ches", "shes", "sses", "xes", "zes", "oes")):
        return verb[:-2]
    return verb.removesuffix("s")


def question_of(predicate: str) -> str:
    """The yes-or-no question of a predicate, with ``{x}`` for its subject."""
    verb, _, rest = predicate.partition(" ")
    perfect = verb == "has" and rest.partition(" ")[0] in _PARTICIPLES
    if verb in _AUXILIARIES or perfect:
        return f"{capitalised(verb)} {{x}} {rest}?"
    do = "Did" if verb in _PAST else "Does"
    return f"{do} {{x}} {plain_verb(verb)} {rest}?"


def plural_of(predicate: str) -> str:
    """The predicate for several subjects: "live in Turin", "are 34 years old"."""
    verb, _, rest = predicate.partition(" ")
    return f"{verb if verb in _PAST else plain_verb(verb)} {rest}"


def listed(names: Sequence[str]) -> str:
    """The names as one phrase: "A", "A and B", "A, B and C"."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"
