"""What every token of the model adds to a text, as bytes: all that a grammar needs of a tokenizer.

A table has one entry per id of the *model's* vocabulary, which may be padded beyond the tokenizer's
or end before it. A special token is no text: it is entered under its name, behind a byte that no
text holds, so that a grammar meets it only where it asks for it by name (``<|name|>``), never as
the characters of that name. Ids without a token, and bytes that cannot be in UTF-8, are entered as
nothing and match nothing.

A text's first token counts with the bytes that it has inside a text. sentencepiece's decoders drop
a space at the very beginning of some texts, and that space counts here: a grammar whose words may
begin with a space then shows without it.

Knows neither grammars nor a tokenizer library.
"""

from collections.abc import Collection
from typing import Final, Protocol

SPECIAL: Final = b"\xff"
"""Begins the entry of a special token. No UTF-8 text has this byte."""

MAX_TOKEN_BYTES: Final = 1000
"""Longer tokens match nothing: the compiler's tree of tokens is no deeper than a little more."""


class Spelling(Protocol):
    """What is asked of a tokenizer."""

    @property
    def special_ids(self) -> Collection[int]:
        """Tokens that are no text."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text; nothing where the id names no token."""
        ...


def token_table(tokens: Spelling, vocab_size: int) -> list[bytes]:
    """The entry of every id in ``[0, vocab_size)``. *Cost*: O(vocab_size), some 0.3 s for 150,000
    tokens that were never looked at before."""
    special_ids = tokens.special_ids
    table = []
    for token_id in range(vocab_size):
        entry = tokens.token_bytes(token_id)
        if SPECIAL in entry or len(entry) > MAX_TOKEN_BYTES:
            entry = b""
        if entry and token_id in special_ids:
            entry = SPECIAL + entry
        table.append(entry)
    return table
