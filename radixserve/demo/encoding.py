"""Dialogues as tokens: the very tokens that the server makes of them, and which are answers.

    <|im_start|>system\\n...<|im_end|>\\n<|im_start|>user\\n...<|im_end|>\\n
    <|im_start|>assistant\\nIt costs 5 euros.<|im_end|>\\n
                            ^^^^^^^^^^^^^^^^^^^^^^^^^^ an answer: up to the token that ends it

A test holds the tokens against those of the chat template.
"""

from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from radixserve.demo.corpus.dialogue import Dialogue
from radixserve.demo.tokenizer import IM_END_ID, IM_START_ID


@dataclass(frozen=True, slots=True)
class Encoded:
    """A dialogue's tokens."""

    ids: list[int]
    answers: list[range]
    """Of each turn, where its answer's tokens are, the one that ends it included."""
    num_system_tokens: int
    """Length of the first message, template included: mostly the document."""


def messages(dialogue: Dialogue) -> list[dict[str, Any]]:
    """The whole conversation, as the chat template takes it."""
    said = [{"role": "system", "content": dialogue.system}] if dialogue.system else []
    for turn in dialogue.turns:
        said.append({"role": "user", "content": turn.question})
        said.append({"role": "assistant", "content": turn.answer})
    return said


def encode_dialogue(tokenizer: Tokenizer, dialogue: Dialogue) -> Encoded:
    """Its tokens. *Cost*: linear; one call of the tokenizers library."""
    parts = ["\n", "system\n" + dialogue.system]
    for turn in dialogue.turns:
        parts += ["user\n" + turn.question, "assistant\n", turn.answer]
    newline, system, *rest = (
        encoding.ids for encoding in tokenizer.encode_batch_fast(parts, add_special_tokens=False)
    )
    # Who says nothing to the system sends no message to it.
    ids = [IM_START_ID, *system, IM_END_ID, *newline] if dialogue.system else []
    num_system_tokens = len(ids)
    answers = []
    for index in range(0, len(rest), 3):
        question, role, answer = rest[index : index + 3]
        ids += [IM_START_ID, *question, IM_END_ID, *newline, IM_START_ID, *role]
        answers.append(range(len(ids), len(ids) + len(answer) + 1))
        ids += [*answer, IM_END_ID, *newline]
    return Encoded(ids, answers, num_system_tokens)
