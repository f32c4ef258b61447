"""Ids in, text out, one token at a time, never half a character.

    token bytes    e4 b8 | ad 21      (two tokens: "中!" split inside its first character)
    emitted              | "中!"

Since a token's bytes do not depend on its neighbours (``vocabulary.py``), the text is the UTF-8
reading of a stream of bytes. What cannot be decided yet is at most three bytes, the beginning of a
character; bytes that can no longer become one are emitted at once as U+FFFD, so nothing is held
back for long, however a model rambles. For every text that is valid UTF-8, the pieces and the
final ``flush`` concatenate to ``Tokenizer.decode`` of all the ids.

Cost: O(bytes of the token); memory O(1).
"""

import codecs

from radixserve.text.vocabulary import Vocabulary

_UTF8 = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one choice. Used once: after ``flush`` it is at its end.

    A text of its own loses the space that sentencepiece puts before a first word, as in
    ``Tokenizer.decode``. With ``continues`` the tokens go on from a text before them, and keep it:
    "Once upon" goes on with " a time". ``visible_ids`` are special tokens that are not skipped.
    """

    __slots__ = ("_at_start", "_skipped", "_strip_char", "_strip_left", "_utf8", "_vocabulary")

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        skip_special_tokens: bool,
        continues: bool = False,
        visible_ids: frozenset[int] = frozenset(),
    ) -> None:
        self._vocabulary = vocabulary
        skipped = vocabulary.special_ids if skip_special_tokens else frozenset()
        self._skipped = skipped - visible_ids
        self._utf8 = _UTF8(errors="replace")
        self._at_start = not continues
        strip_first = None if continues else vocabulary.rules.strip_first
        self._strip_char, self._strip_left = strip_first or ("", 0)

    def feed(self, token_id: int) -> str:
        """The text that this token completes: often its own, at times "" or more than its own."""
        if token_id in self._skipped:
            return ""
        if self._at_start:
            self._at_start = self._vocabulary.token(token_id) is None
            piece = self._vocabulary.first_piece(token_id)
        else:
            piece = self._vocabulary.piece(token_id)
        return self._strip(self._utf8.decode(piece))

    def flush(self) -> str:
        """What was held back: U+FFFD for a character that was never finished, else ""."""
        return self._strip(self._utf8.decode(b"", final=True))

    def _strip(self, text: str) -> str:
        """Take the leading spaces that the decoder takes from the beginning of a text."""
        while self._strip_left and text:
            if not text.startswith(self._strip_char):
                self._strip_left = 0
                break
            text = text[1:]
            self._strip_left -= 1
        return text
