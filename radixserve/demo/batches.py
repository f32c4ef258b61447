"""What a step learns from: rows of dialogues, and the positions that count.

A batch is a function of the plan and the step's number and of nothing else: not of what ran before,
nor of which process makes it. So a training that goes on from a checkpoint sees what it would have
seen. Dialogues that are too long for their row are made again, never cut.
"""

import random
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from radixserve.demo.corpus.dialogue import Dialogue, Split
from radixserve.demo.corpus.generate import LEAST_CHARACTERS
from radixserve.demo.encoding import Encoded, encode_dialogue
from radixserve.demo.schedule import Plan
from radixserve.demo.tokenizer import PAD_ID


class DialogueMaker(Protocol):
    """What makes dialogues: ``corpus.generate.make_dialogue``, or another one in tests."""

    def __call__(self, rng: random.Random, *, split: Split, max_characters: int) -> Dialogue: ...


SHORTEST_ROW = 0.7
"""A dialogue is meant to fill so much of its row, or more, up to all of it."""
PER_BATCH_ROUNDING = 256
"""The number of positions is padded to a multiple of this: fewer shapes, fewer compilations."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's rows. ``n`` positions count."""

    ids: npt.NDArray[np.int64]
    """[rows, length], padded at the ends."""
    positions: npt.NDArray[np.int64]
    """[n], into the flattened rows: whose next token is learnt."""
    targets: npt.NDArray[np.int64]
    """[n]: these next tokens."""
    weights: npt.NDArray[np.float32]
    """[n]: how much each counts; 0 for what only pads."""
    is_answer: npt.NDArray[np.bool_]
    """[n]: whether it is part of an answer."""
    num_tokens: int
    """Without padding."""


def make_batch(plan: Plan, step: int, tokenizer: Tokenizer, make_dialogue: DialogueMaker) -> Batch:
    """The rows of this step. *Cost*: that of the dialogues; the rest is some milliseconds."""
    length = plan.length(step)
    rows = [
        _draw(plan, step, row, length, tokenizer, make_dialogue) for row in range(plan.rows(step))
    ]
    ids = np.full((len(rows), length), PAD_ID, np.int64)
    is_answer = np.zeros((len(rows), length), bool)
    is_counted = np.zeros((len(rows), length), bool)
    for row, encoded in enumerate(rows):
        ids[row, : len(encoded.ids)] = encoded.ids
        chance = np.random.default_rng([plan.seed, step, row])
        # The last token has none behind it.
        drawn = chance.random(len(encoded.ids) - 1) < plan.text_share
        is_counted[row, : len(drawn)] = drawn
        for answer in encoded.answers:
            # The token at a position is foretold at the one before.
            is_answer[row, answer.start - 1 : answer.stop - 1] = True
    positions = np.flatnonzero(is_answer | is_counted)
    of_answer = is_answer.reshape(-1)[positions]
    weights = np.where(of_answer, 1.0, plan.text_weight).astype(np.float32)
    targets = np.roll(ids.reshape(-1), -1)[positions]
    padding = -len(positions) % PER_BATCH_ROUNDING
    return Batch(
        ids=ids,
        positions=np.pad(positions, (0, padding)),
        targets=np.pad(targets, (0, padding)),
        weights=np.pad(weights, (0, padding)),
        is_answer=np.pad(of_answer, (0, padding)),
        num_tokens=sum(len(encoded.ids) for encoded in rows),
    )


def _draw(
    plan: Plan,
    step: int,
    row: int,
    length: int,
    tokenizer: Tokenizer,
    make_dialogue: DialogueMaker,
) -> Encoded:
    """This row's dialogue.

    One that is too long is made again, by the same chance and shorter: were another drawn instead,
    text of many tokens a character, such as tables of numbers, would be drawn less often. Where
    even the shortest is too long another is drawn.
    """
    for redraw in range(100):
        source = f"{plan.seed}/{step}/{row}/{redraw}"
        share = random.Random(f"{source}/length").uniform(SHORTEST_ROW, 1.0)
        characters = share * length * plan.characters_per_token
        while True:
            limit = max(LEAST_CHARACTERS, int(characters))
            dialogue = make_dialogue(random.Random(source), split=Split.TRAIN, max_characters=limit)
            encoded = encode_dialogue(tokenizer, dialogue)
            if len(encoded.ids) <= length and encoded.answers:
                return encoded
            if limit == LEAST_CHARACTERS:
                break
            characters *= min(0.95, length / len(encoded.ids))
    raise ValueError(
        f"100 dialogues in a row are longer than {length} tokens; the generator does not keep to "
        "the number of characters it is given"
    )
