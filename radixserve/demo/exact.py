"""How many answers the network gets exactly right: the quick measurement while it trains.

One pass over a dialogue judges every answer in it. That is no approximation: with the true history
before it, a greedy answer is the right one if and only if each of the right answer's tokens, the
one that ends it included, is the likeliest behind those before it. (``bench/demo_accuracy.py``
generates, through the server's engine.) One difference is left: an answer spelt alike in other
tokens counts as wrong here.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from radixserve.demo.batches import DialogueMaker
from radixserve.demo.corpus.dialogue import Dialogue, Split
from radixserve.demo.corpus.generate import LEAST_CHARACTERS
from radixserve.demo.encoding import Encoded, encode_dialogue
from radixserve.demo.network import Network
from radixserve.demo.schedule import Plan
from radixserve.demo.tokenizer import PAD_ID

SPLITS = (Split.HELD_OUT_VALUES, Split.HELD_OUT_PHRASINGS)


@dataclass(frozen=True, slots=True)
class Score:
    """Answers of one kind, split and length."""

    split: str
    length: int
    kind: str
    num_right: int
    num_answers: int


@dataclass(frozen=True, slots=True)
class _Exam:
    split: Split
    length: int
    dialogues: list[Dialogue]
    encoded: list[Encoded]


class Examination:
    """Dialogues of the held-out splits, the same ones at every call. ``per_cell`` of each split and
    length, and more of short ones."""

    def __init__(
        self, plan: Plan, tokenizer: Tokenizer, make_dialogue: DialogueMaker, *, per_cell: int
    ) -> None:
        self._exams = []
        for split in SPLITS:
            for length in plan.exam_lengths:
                found = held_out(
                    tokenizer,
                    make_dialogue,
                    split,
                    length,
                    count=num_dialogues(per_cell, length),
                    max_tokens=plan.shape.max_positions,
                    characters_per_token=plan.characters_per_token,
                    seed=plan.seed,
                )
                self._exams.append(
                    _Exam(split, length, [one for one, _ in found], [two for _, two in found])
                )

    @torch.no_grad()
    def run(self, network: Network) -> list[Score]:
        """Let the network answer. *Cost*: a forward pass over everything, four rows at a time."""
        scores = []
        for exam in self._exams:
            found: dict[str, list[int]] = {}
            for begun in range(0, len(exam.encoded), 4):
                part = slice(begun, begun + 4)
                right = _right(network, exam.encoded[part])
                for dialogue, answers in zip(exam.dialogues[part], right, strict=True):
                    for turn, is_right in zip(dialogue.turns, answers, strict=True):
                        found.setdefault(turn.kind, []).append(is_right)
            scores += [
                Score(str(exam.split), exam.length, kind, sum(marks), len(marks))
                for kind, marks in sorted(found.items())
            ]
        return scores


def num_dialogues(per_cell: int, length: int) -> int:
    """How many dialogues over documents of such a length are asked: more of short ones, where each
    has fewer questions."""
    return per_cell * max(1, min(4, 1024 // length))


def held_out(
    tokenizer: Tokenizer,
    make_dialogue: DialogueMaker,
    split: Split,
    length: int,
    *,
    count: int,
    max_tokens: int,
    characters_per_token: float,
    seed: int | str,
) -> list[tuple[Dialogue, Encoded]]:
    """Dialogues over documents of about ``length`` tokens, none longer than ``max_tokens`` in all.

    "About": between 75% and 115% of it. *Raises* ``ValueError`` if the generator makes too few.
    """
    found: list[tuple[Dialogue, Encoded]] = []
    # How much longer than its document a dialogue is: learnt from what comes.
    stretch = 1.3
    for attempt in range(50 * count):
        if len(found) == count:
            return found
        chance = random.Random(f"{seed}/exam/{split}/{length}/{attempt}")
        characters = max(LEAST_CHARACTERS, int(length * stretch * characters_per_token))
        dialogue = make_dialogue(chance, split=split, max_characters=characters)
        encoded = encode_dialogue(tokenizer, dialogue)
        document = encoded.num_system_tokens
        is_too_long = len(encoded.ids) > max_tokens
        if 0.75 * length <= document <= 1.15 * length and not is_too_long:
            found.append((dialogue, encoded))
        else:
            # A short document in too long a dialogue has much talk behind it: wait for one of less.
            stretch *= 0.98 if is_too_long or document >= length else 1.02
    raise ValueError(
        f"{len(found)} of {count} dialogues of split {split} have documents of about {length} "
        f"tokens and {max_tokens} at most in all; the generator makes too few of them"
    )


def _right(network: Network, rows: Sequence[Encoded]) -> list[list[bool]]:
    """Of each row, which of its answers the network would give."""
    length = max(len(row.ids) for row in rows)
    # A multiple of 64: fewer lengths.
    ids = np.full((len(rows), -(-length // 64) * 64), PAD_ID, np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.ids)] = row.ids
    at = np.concatenate(
        [
            index * ids.shape[1] + np.arange(answer.start - 1, answer.stop - 1)
            for index, row in enumerate(rows)
            for answer in row.answers
        ]
    )
    device = network.embedding.device
    hidden = network.hidden(torch.from_numpy(ids).to(device)).flatten(0, 1)
    likeliest = network.logits(hidden[torch.from_numpy(at).to(device)]).argmax(-1).cpu().numpy()
    right = likeliest == np.roll(ids.reshape(-1), -1)[at]
    marks, begun = [], 0
    for row in rows:
        own = []
        for answer in row.answers:
            own.append(bool(right[begun : begun + len(answer)].all()))
            begun += len(answer)
        marks.append(own)
    return marks


def summary(scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """Shares of right answers: of each split, of "all", by length and by kind."""
    cells: dict[str, dict[str, list[Score]]] = {}
    for score in scores:
        own = cells.setdefault(score.split, {})
        for name in ("all", str(score.length), score.kind):
            own.setdefault(name, []).append(score)
    return {
        split: {
            name: round(sum(s.num_right for s in some) / sum(s.num_answers for s in some), 4)
            for name, some in own.items()
        }
        for split, own in cells.items()
    }
