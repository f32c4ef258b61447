"""Attributes of any subject, named by two words: a locker code, a badge colour, an invoice date.

They keep the model from learning a closed list of attributes: there are more pairs than it can
remember, and a sixth of them is in the held-out splits only.
"""

from functools import cache

from radixserve.demo.corpus.attribute import Attribute, Phrases
from radixserve.demo.corpus.grammar import capitalised
from radixserve.demo.corpus.pool import combinations
from radixserve.demo.corpus.setting import Setting

_OWNERS = (
    "locker badge parking insurance customer serial access backup emergency invoice contract "
    "member gate tax service garage cabinet visitor supply test repair checking storage alarm"
)
_VALUES = {
    "code": "code",
    "number": "extension",
    "colour": "colour",
    "date": "date",
    "fee": "small price",
    "city": "city",
    "word": "login word",
    "contact": "person",
    "day": "weekday",
    "limit": "count",
    "time": "time",
}
_PAIRS = combinations(" ".join(f"{owner}_" for owner in _OWNERS.split()), " ".join(_VALUES))


def draw_attribute(setting: Setting) -> Attribute:
    """An attribute that the setting's split may use."""
    return _attribute(setting.chance.pick(_PAIRS.words(setting.held_out)))


@cache
def _attribute(pair: str) -> Attribute:
    noun = pair.replace("_", " ")
    value = _VALUES[pair.partition("_")[2]]
    what = "who" if value == "person" else "what"
    return Attribute(
        key=noun,
        value=value,
        flags=frozenset(("shared",) if value in ("weekday", "colour") else ()),
        labels=(capitalised(noun), capitalised(noun), noun.title()),
        nouns=(noun,),
        facts=(f"has the {noun} {{v}}", f"has {{v}} as {{her}} {noun}", f"uses the {noun} {{v}}"),
        asks=Phrases(
            train=(
                f"What {noun} does {{x}} have?",
                f"Which {noun} does {{x}} use?",
                f"Which {noun} belongs to {{o}}?",
                f"{what.title()} is the right {noun} for {{o}}?",
                f"Which {noun} does {{x}} have?",
            ),
            held_out=(f"What {noun} does {{x}} use?", f"What {noun} belongs to {{o}}?"),
        ),
        clauses=Phrases(
            train=(f"which {noun} {{x}} has", f"{what} {{xs}} {noun} is", f"what {noun} {{x}} has"),
            held_out=(f"which {noun} {{x}} uses", f"{what} the {noun} of {{o}} is"),
        ),
    )
