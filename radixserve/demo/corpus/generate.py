"""One dialogue of the corpus: a document, a system message around it, and talk about it.

The same random state gives the same text on every machine. It reads no files.
"""

import random

from radixserve.demo.corpus.chance import Chance
from radixserve.demo.corpus.conversation import Conversation
from radixserve.demo.corpus.dialogue import Dialogue, Split
from radixserve.demo.corpus.document import draw_document
from radixserve.demo.corpus.setting import Setting
from radixserve.demo.corpus.system_prompt import around, instruction
from radixserve.demo.corpus.wording import Wording

NO_DOCUMENT_SHARE = 0.04
TURN_CHARACTERS = 92
"""Of a dialogue, set aside for each turn that is wanted."""
MOST_TURNS = 36
LEAST_CHARACTERS = 300


def make_dialogue(rng: random.Random, *, split: Split, max_characters: int) -> Dialogue:
    """A dialogue of at most about ``max_characters``, most of them the document's.

    *Mutates* ``rng``. *Cost*: about a microsecond a character.
    """
    assert max_characters >= LEAST_CHARACTERS, max_characters
    chance = Chance(rng)
    setting = Setting(chance, held_out=split is not Split.TRAIN)
    wording = Wording(chance, held_out=split is Split.HELD_OUT_PHRASINGS)
    told = instruction(chance)
    if chance.hits(NO_DOCUMENT_SHARE):
        system = told if chance.hits(0.6) else ""
        talk = Conversation(setting, None, wording)
        most = chance.between(2, 8)
        return Dialogue(system, tuple(talk.turns(max_characters - len(system), most)))
    if max_characters < 700:
        told = told[: told.find(".") + 1]
    # At least one turn, at most half the characters: the document is to fill most of it.
    wanted = chance.between(6, MOST_TURNS)
    for_turns = min(wanted * TURN_CHARACTERS, max_characters * 45 // 100)
    document = draw_document(setting, max_characters - for_turns - len(told) - 20)
    system = around(chance, told, document.text)
    talk = Conversation(setting, document, wording)
    return Dialogue(system, tuple(talk.turns(max_characters - len(system), MOST_TURNS)))
