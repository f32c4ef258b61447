"""What each token of a checkpoint contributes to the text, as bytes.

Everything that turns ids into text while they arrive rests on one observation: the decoders of the
families served here are *concatenative*. A token contributes the same bytes wherever it stands, and
the text is the UTF-8 reading of all the bytes, except that the very first ones may lose a space:

    byte-level BPE     "Ġwörld"      -> b" w\\xc3\\xb6rld"   each character stands for a byte
    sentencepiece      "▁wörld"      -> b" w\\xc3\\xb6rld"   ▁ stands for a space ...
                       "<0xC3>"      -> b"\\xc3"            ... and some tokens for a bare byte

So streaming needs no window of earlier tokens to decode again, only the bytes of the new one. A
decoder that is not of this kind (WordPiece, CTC, regular expressions) is refused at start rather
than streamed wrongly.

Knows the ``tokenizers`` library's decoders; knows no transformers, no request, no text stream.

Cost: O(length of the token) the first time a token is asked for, a dictionary look-up after that.
"""

import json
from dataclasses import dataclass
from typing import Any

from radixserve.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderRules:
    """How a concatenative decoder reads its tokens."""

    byte_level: bool = False
    """Each character of a token stands for one byte (GPT-2's alphabet)."""
    replacements: tuple[tuple[str, str], ...] = ()
    """Applied in this order to a token's text."""
    byte_fallback: bool = False
    """A token spelt ``<0xNN>`` stands for that byte."""
    strip_first: tuple[str, int] | None = None
    """(character, at most how many) that the text as a whole loses at its beginning."""
    drop_in_first: str | None = None
    """A character that the first token loses wherever it has it."""


def parse_decoder(state: Any) -> DecoderRules:
    """Read a decoder's JSON, as ``tokenizer.json`` has it.

    *Raises* ``UnsupportedModelError`` for every decoder whose text is not the concatenation of what
    its tokens contribute.
    """
    steps = _flatten(state)
    names = [step.get("type") for step in steps]
    if names == ["ByteLevel"]:
        return DecoderRules(byte_level=True)
    replacements: list[tuple[str, str]] = []
    byte_fallback = fused = False
    strip_first: tuple[str, int] | None = None
    drop_in_first: str | None = None
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if (
                not byte_fallback and not fused
            ):
                replacements.append((old, new))
            case {"type": "Metaspace", "replacement": str(mark), "prepend_scheme": str(scheme)} if (
                not byte_fallback and not fused and not replacements
            ):
                replacements.append((mark, " "))
                drop_in_first = None if scheme == "never" else mark
            case {"type": "ByteFallback"} if not fused:
                byte_fallback = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": str(char), "start": int(count), "stop": 0} if (
                fused and strip_first is None
            ):
                strip_first = (char, count)
            case _:
                raise _unsupported(names)
    if not replacements:
        raise _unsupported(names)
    return DecoderRules(
        replacements=tuple(replacements),
        byte_fallback=byte_fallback,
        strip_first=strip_first,
        drop_in_first=drop_in_first,
    )


class Vocabulary:
    """The bytes of each token. ``backend`` is a ``tokenizers.Tokenizer``.

    *Raises* ``UnsupportedModelError`` if the backend's decoder is not concatenative.
    """

    __slots__ = ("_backend", "_pieces", "rules", "special_ids", "special_tokens")

    def __init__(self, backend: Any) -> None:
        decoder = backend.decoder
        self.rules = parse_decoder(None if decoder is None else json.loads(decoder.__getstate__()))
        self.special_tokens: dict[str, int] = {
            token.content: token_id
            for token_id, token in backend.get_added_tokens_decoder().items()
            if token.special
        }
        """Their ids by their names."""
        self.special_ids = frozenset(self.special_tokens.values())
        self._backend = backend
        self._pieces: dict[int, bytes] = {}

    def token(self, token_id: int) -> str | None:
        """The token as its vocabulary spells it, or None where the id names none."""
        # The library takes ids as unsigned 32-bit numbers and overflows on anything else.
        if not 0 <= token_id < 2**32:
            return None
        token: str | None = self._backend.id_to_token(token_id)
        return token

    def piece(self, token_id: int) -> bytes:
        """What the token contributes to the text; nothing where the id names no token.

        Models pad their vocabularies: ids below ``vocab_size`` that name no token are ordinary.
        """
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._spell(self.token(token_id))
            self._pieces[token_id] = piece
        return piece

    def first_piece(self, token_id: int) -> bytes:
        """What the token contributes if it is the first of its text."""
        mark = self.rules.drop_in_first
        if mark is None:
            return self.piece(token_id)
        token = self.token(token_id)
        return self._spell(token and token.replace(mark, ""))

    def _spell(self, token: str | None) -> bytes:
        if token is None:
            return b""
        if self.rules.byte_level:
            # As the library does: a token with one character outside the alphabet (an added token,
            # say) is taken to be plain text.
            codes = [_BYTE_OF_CHAR.get(char) for char in token]
            known = [code for code in codes if code is not None]
            return bytes(known) if len(known) == len(codes) else token.encode()
        for old, new in self.rules.replacements:
            token = token.replace(old, new)
        if self.rules.byte_fallback:
            byte = _byte_token(token)
            if byte is not None:
                return byte
        return token.encode()


def _flatten(state: Any) -> list[dict[str, Any]]:
    """The steps of a decoder, nested sequences taken apart."""
    if state is None:
        return []
    if state.get("type") == "Sequence":
        return [step for inner in state["decoders"] for step in _flatten(inner)]
    return [state]


def _unsupported(names: list[Any]) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the tokenizer's decoder ({' + '.join(map(str, names)) or 'none'}) is not supported: its "
        "text cannot be streamed token by token. Supported are ByteLevel, and sentencepiece's "
        "Replace or Metaspace with ByteFallback, Fuse and Strip"
    )


def _byte_token(token: str) -> bytes | None:
    """``<0xNN>`` as its byte, anything else as None."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes.fromhex(token[3:5])
        except ValueError:
            return None
    return None


def byte_alphabet() -> list[str]:
    """The character that stands for each byte in byte-level BPE: ``str[256]``.

    Printable bytes of Latin-1 stand for themselves; the others, in order, take the characters from
    U+0100 on.

    *Source*: https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


_BYTE_OF_CHAR = {char: byte for byte, char in enumerate(byte_alphabet())}
