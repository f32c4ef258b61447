"""What is asked: held-out dialogues, cut behind each of their questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from radixserve.demo.corpus.generate import make_dialogue
from radixserve.demo.encoding import messages
from radixserve.demo.exact import SPLITS, held_out, num_dialogues
from radixserve.demo.tokenizer import load_tokenizer

CHARACTERS_PER_TOKEN = 2.2
"""A first guess; ``held_out`` finds the documents of the right length itself."""
ANSWER_ROOM_TOKENS = 8
"""How much longer than the right answer a given one may get: longer ones are wrong anyhow."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question behind the true history, and the one right answer."""

    split: str
    length: int
    """Of the document, in tokens, about."""
    kind: str
    messages: list[dict[str, Any]]
    expected: str
    max_tokens: int
    """Of the answer."""


def questions_for(
    model_dir: Path, *, dialogues: int, seed: int, lengths: Sequence[int], max_tokens: int
) -> list[Question]:
    """Every question of so many dialogues of each held-out split and length (more of short ones), a
    length being that of the document in this model's tokens, and none longer than ``max_tokens`` in
    all."""
    tokenizer = load_tokenizer(model_dir)
    found = []
    for split in SPLITS:
        for length in tqdm(lengths, desc=f"dialogues, {split}"):
            for dialogue, encoded in held_out(
                tokenizer,
                make_dialogue,
                split,
                length,
                count=num_dialogues(dialogues, length),
                max_tokens=max_tokens - ANSWER_ROOM_TOKENS,
                characters_per_token=CHARACTERS_PER_TOKEN,
                # The examinations during the training begin with the training's seed.
                seed=f"accuracy/{seed}",
            ):
                said = messages(dialogue)
                begin = 1 if dialogue.system else 0
                for index, turn in enumerate(dialogue.turns):
                    history = said[: begin + 2 * index + 1]
                    most = len(encoded.answers[index]) + ANSWER_ROOM_TOKENS
                    found.append(
                        Question(str(split), length, turn.kind, history, turn.answer, most)
                    )
    return found
