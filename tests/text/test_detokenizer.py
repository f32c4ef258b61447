"""Streamed pieces concatenate to the text, and none of them holds half a character."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from radixserve.errors import UnsupportedModelError
from radixserve.text.detokenizer import Detokenizer
from radixserve.text.tokenizer import Tokenizer
from radixserve.text.vocabulary import DecoderRules, Vocabulary, byte_alphabet, parse_decoder

KINDS = ["byte_level", "sentencepiece", "metaspace", "bytewise"]
TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8"), st.sampled_from(" ▁aeüß中😀\n\u200d\u0301\ufffdĠÿ<0xE4>")
    ),
    max_size=40,
)


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer = request.getfixturevalue(request.param)
    assert isinstance(tokenizer, Tokenizer)
    return tokenizer


def stream(tokenizer: Tokenizer, ids: list[int], *, skip: bool) -> list[str]:
    detokenizer = Detokenizer(tokenizer.vocabulary, skip_special_tokens=skip)
    return [*(detokenizer.feed(token_id) for token_id in ids), detokenizer.flush()]


@settings(deadline=None)
@given(text=TEXTS, skip=st.booleans())
def test_streamed_pieces_concatenate_to_the_decoded_text(
    tokenizer: Tokenizer, text: str, skip: bool
) -> None:
    ids = tokenizer.encode(text)
    assert "".join(stream(tokenizer, ids, skip=skip)) == tokenizer.decode(
        ids, skip_special_tokens=skip
    )


@settings(deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_any_ids_at_all_stream_as_they_decode(
    tokenizer: Tokenizer, data: st.DataObject, skip: bool
) -> None:
    """Models say anything: special tokens inside, ids beyond the vocabulary, broken bytes."""
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=30))
    streamed = "".join(stream(tokenizer, ids, skip=skip))
    decoded = tokenizer.decode(ids, skip_special_tokens=skip)
    if tokenizer.vocabulary.rules.byte_fallback and "\ufffd" in decoded:
        # For broken bytes sentencepiece's decoder gives one U+FFFD per byte of the whole run, valid
        # characters among them included; nobody who streams can know of the rest of the run.
        return
    assert streamed == decoded


@settings(deadline=None)
@given(text=TEXTS.filter(lambda text: "\ufffd" not in text))
def test_no_piece_of_a_valid_text_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if "\ufffd" not in tokenizer.decode(ids, skip_special_tokens=False):
        assert not any("\ufffd" in piece for piece in stream(tokenizer, ids, skip=False))


@settings(deadline=None)
@given(data=st.lists(st.binary(min_size=1, max_size=1), max_size=60).map(b"".join))
def test_at_most_three_bytes_are_held_back(bytewise: Tokenizer, data: bytes) -> None:
    detokenizer = Detokenizer(bytewise.vocabulary, skip_special_tokens=True)
    text = ""
    for at, byte in enumerate(data):
        text += detokenizer.feed(byte)
        seen = data[: at + 1]
        assert any(
            text == seen[: len(seen) - held].decode(errors="replace")
            for held in range(min(3, len(seen)) + 1)
        )
    assert text + detokenizer.flush() == data.decode(errors="replace")


def test_a_character_arrives_with_its_last_byte(bytewise: Tokenizer) -> None:
    assert stream(bytewise, list("a😀b".encode()), skip=True) == ["a", "", "", "", "😀", "b", ""]


def test_an_unfinished_character_is_flushed(bytewise: Tokenizer) -> None:
    assert stream(bytewise, list("中".encode()[:2]), skip=True) == ["", "", "\ufffd"]


def test_a_special_token_does_not_join_the_bytes_around_it(bytewise: Tokenizer) -> None:
    first, second, third = "中".encode()
    assert stream(bytewise, [first, 259, second, third], skip=False) == [
        "",
        "\ufffd<|im_end|>",
        "\ufffd",
        "\ufffd",
        "",
    ]


def test_only_the_first_space_of_a_sentencepiece_text_is_taken(sentencepiece: Tokenizer) -> None:
    ids = sentencepiece.encode("  two", add_special_tokens=False)
    assert "".join(stream(sentencepiece, ids, skip=True)) == "  two"
    # Behind special tokens that are skipped, the text's beginning is still its beginning.
    assert "".join(stream(sentencepiece, [1, *ids, 2, *ids], skip=True)) == "  two   two"


def test_tokens_as_bytes(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    def bytes_of(tokenizer: Tokenizer, text: str) -> list[bytes]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        return [tokenizer.token_bytes(token_id) for token_id in ids]

    assert b"".join(bytes_of(byte_level, "a 中 ÿ😀")) == "a 中 ÿ😀".encode()
    assert b"".join(bytes_of(sentencepiece, "a 中 ÿ😀")) == " a 中 ÿ😀".encode()
    assert b"\xc3" in bytes_of(sentencepiece, "ÿ")
    assert sentencepiece.token_text(3 + 0xC3) == "\ufffd"
    assert sentencepiece.token_text(1) == "<s>"
    # An added token is text, not the byte alphabet, as soon as one character is outside of that.
    (two_words,) = byte_level.encode("two words", add_special_tokens=False)
    assert byte_level.token_bytes(two_words) == b"two words"
    assert byte_level.token_bytes(10**6) == b""
    assert byte_level.token_bytes(-1) == b""
    assert byte_level.token_bytes(2**32) == b""


def test_the_byte_alphabet_is_the_librarys() -> None:
    from tokenizers.pre_tokenizers import ByteLevel  # noqa: PLC0415

    assert sorted(byte_alphabet()) == sorted(ByteLevel.alphabet())
    assert byte_alphabet()[ord(" ")] == "Ġ"


REPLACE = decoders.Replace("▁", " ")
BYTES, FUSE, STRIP = decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [decoders.WordPiece()],
        [decoders.BPEDecoder()],
        [decoders.CTC()],
        [FUSE],
        [BYTES, REPLACE, FUSE],
        [REPLACE, FUSE, BYTES],
        [REPLACE, STRIP, FUSE],
        [REPLACE, FUSE, decoders.Strip(" ", 1, 1)],
        [REPLACE, FUSE, STRIP, STRIP],
        [REPLACE, decoders.Metaspace()],
        [decoders.ByteLevel(), FUSE],
        [REPLACE, FUSE, REPLACE],
        [decoders.Sequence([decoders.WordPiece()])],
    ],
)
def test_a_decoder_that_cannot_be_streamed_is_refused(steps: list[Any]) -> None:
    backend = Backend(models.BPE(vocab={"a": 0}, merges=[]))
    if steps:
        backend.decoder = decoders.Sequence(steps)
    with pytest.raises(UnsupportedModelError, match=r"decoder .* is not supported"):
        Vocabulary(backend)


def test_decoders_are_read() -> None:
    def rules(decoder: Any) -> DecoderRules:
        return parse_decoder(json.loads(decoder.__getstate__()))

    assert rules(decoders.Sequence([decoders.ByteLevel()])) == DecoderRules(byte_level=True)
    assert rules(decoders.Sequence([REPLACE, BYTES, FUSE, STRIP])) == DecoderRules(
        replacements=(("▁", " "),), byte_fallback=True, strip_first=(" ", 1)
    )
    assert rules(decoders.Metaspace(prepend_scheme="never")).drop_in_first is None
    assert rules(decoders.Metaspace()).drop_in_first == "▁"


def test_what_only_looks_like_a_byte_is_text() -> None:
    names = ["<0xZZ>", "<0x41>", "<0x413", "▁<0xC3>"]
    backend = Backend(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    backend.decoder = decoders.Sequence([REPLACE, BYTES, FUSE])
    vocabulary = Vocabulary(backend)
    assert [vocabulary.piece(i) for i in range(4)] == [b"<0xZZ>", b"A", b"<0x413", b" <0xC3>"]
