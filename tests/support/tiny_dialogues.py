"""A generator of small dialogues for tests: prices, and questions about them."""

import random
from functools import cache

from tokenizers import Tokenizer

from radixserve.demo.corpus.dialogue import Dialogue, Split, Turn
from radixserve.demo.tokenizer import train_tokenizer

_NAMES = ("Soap", "Blue tea", "Red lamp", "Chair", "Wide desk", "Map", "Tin box", "Novel")


def make_dialogue(rng: random.Random, *, split: Split, max_characters: int) -> Dialogue:
    """Lines of names and prices, at most about ``max_characters`` of text in all."""
    count = max(1, max_characters // 60)
    prices = {
        f"{rng.choice(_NAMES)} {rng.randrange(10, 100)}": f"{rng.randrange(1, 90)}.50 euros"
        for _ in range(count)
    }
    document = "".join(f"{name}: {price}\n" for name, price in prices.items())
    asked = rng.sample(list(prices), min(4, len(prices)))
    how = "How much is the" if split is not Split.HELD_OUT_PHRASINGS else "Tell me the price of the"
    turns = [Turn(f"{how} {name}?", f"It costs {prices[name]}.", "record") for name in asked]
    return Dialogue("Answer from the list.\n" + document, tuple(turns))


@cache
def tiny_tokenizer() -> Tokenizer:
    """A tokenizer of 320 tokens, learnt from such dialogues."""
    texts = []
    for index in range(200):
        dialogue = make_dialogue(random.Random(index), split=Split.TRAIN, max_characters=1000)
        texts.append(dialogue.system)
        texts += [text for turn in dialogue.turns for text in (turn.question, turn.answer)]
    return train_tokenizer(texts, size=320)
