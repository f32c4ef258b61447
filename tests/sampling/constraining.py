"""Vocabularies of the served kinds, and constraints over them, for tests of grammars."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from radixserve.sampling.constraint import Constraint
from radixserve.sampling.grammar import GrammarKind, GrammarSpec
from radixserve.sampling.grammar_compiler import GrammarCompiler
from radixserve.sampling.token_table import token_table
from radixserve.text.tokenizer import Tokenizer
from support.byte_tokenizer import write_byte_tokenizer
from tests.text.making import byte_level_bpe, save, sentencepiece_bpe

KINDS = ("bytes", "byte_level", "sentencepiece")


def make_tokenizer(kind: str, directory: Path) -> Tokenizer:
    """One of bytes, one as Llama 3 and Qwen have it, one as Llama 2 and Mistral have it."""
    match kind:
        case "bytes":
            directory.mkdir(parents=True, exist_ok=True)
            write_byte_tokenizer(directory)
        case "byte_level":
            save(byte_level_bpe(), directory, eos_token="<|end|>")
        case _:
            save(sentencepiece_bpe(), directory, eos_token="</s>")
    return Tokenizer.from_dir(directory)


def make_compiler(tokenizer: Tokenizer, vocab_size: int) -> GrammarCompiler:
    return GrammarCompiler(lambda: token_table(tokenizer, vocab_size), num_workers=1)


def spec(kind: GrammarKind, source: str) -> GrammarSpec:
    return GrammarSpec(kind=kind, source=source)


def allowed(constraint: Constraint) -> list[int]:
    """The ids that may come next."""
    words = constraint.wait()
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


def spelt(tokenizer: Tokenizer, vocab_size: int) -> Iterator[tuple[int, bytes]]:
    """Every token of the model that is text, and its bytes."""
    for token_id in range(vocab_size):
        piece = tokenizer.token_bytes(token_id)
        if piece and token_id not in tokenizer.special_ids:
            yield token_id, piece
