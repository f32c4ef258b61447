"""Cutting texts at added tokens: for every kind of tokenizer, pieces say what the whole says."""

import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from radixserve.text import segments as segments_module
from radixserve.text.segments import Segments, _any_of
from radixserve.text.tokenizer import Tokenizer
from support.byte_tokenizer import write_byte_tokenizer
from tests.text.making import byte_level_bpe, sentencepiece_bpe

# Tokens that begin alike, hide in each other, or stand alone; each with every flag somewhere below.
CONTENTS = ("<a>", "<a>>", "<ab>", "|x|", "[y]", "<|im_end|>", "the", " q", "\n<z>", "_u_")
FLAGS = ("", "lstrip", "rstrip", "single_word", "normalized")


def words(backend: Any) -> Any:
    """Characters and a few words: nothing has to be trained."""
    vocabulary = {chr(code): code - 32 for code in range(32, 127)}
    for word in ("\n", "▁", "é", "▁the", "the", "▁b", "##he", "##b", "Ġ", "Ċ", "Ġb", "ab", "[UNK]"):
        vocabulary.setdefault(word, len(vocabulary))
    return backend(vocabulary)


def bpe(vocabulary: dict[str, int]) -> Any:
    return models.BPE(vocabulary, [("a", "b"), ("▁", "b"), ("Ġ", "b")], unk_token="[UNK]")


def wordpiece(vocabulary: dict[str, int]) -> Any:
    return models.WordPiece(vocabulary, unk_token="[UNK]")


def kind(model: Any, pre_tokenizer: Any, normalizer: Any = None) -> Callable[[], Any]:
    def make() -> Any:
        backend = Backend(words(model))
        backend.pre_tokenizer = pre_tokenizer
        if normalizer is not None:
            backend.normalizer = normalizer
        return backend

    return make


metaspace = pre_tokenizers.Metaspace
KINDS: dict[str, Callable[[], Any]] = {
    "trained byte level": byte_level_bpe,
    "trained sentencepiece": sentencepiece_bpe,
    "byte level": kind(bpe, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "byte level, space before": kind(bpe, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "metaspace first": kind(bpe, metaspace(prepend_scheme="first")),
    "metaspace always": kind(bpe, metaspace(prepend_scheme="always")),
    "metaspace never": kind(bpe, metaspace(prepend_scheme="never")),
    "prepend": kind(
        bpe,
        metaspace(prepend_scheme="never"),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
    ),
    "wordpiece": kind(
        wordpiece, pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(lowercase=True)
    ),
    "stripping": kind(bpe, pre_tokenizers.Whitespace(), normalizers.Strip()),
    "unigram NFKC": kind(
        lambda vocabulary: models.Unigram([(word, -1.0) for word in vocabulary], unk_id=0),
        metaspace(prepend_scheme="first"),
        normalizers.NFKC(),
    ),
}

token_sets = st.lists(
    st.tuples(st.sampled_from(CONTENTS), st.sampled_from(FLAGS), st.booleans()),
    min_size=1,
    max_size=6,
    unique_by=lambda each: each[0],
)
texts = st.lists(
    st.one_of(
        st.sampled_from(CONTENTS),
        st.sampled_from([" ", "\n", "  ", "a", "b", " b", "the", ">", "é", "<", "1"]),
    ),
    max_size=12,
).map("".join)


def encoder(backend: Any) -> Callable[[str], list[int]]:
    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def with_tokens(name: str, tokens: list[tuple[str, str, bool]]) -> Any:
    backend = KINDS[name]()
    for content, flag, is_special in tokens:
        flags = {"normalized": False} | ({flag: True} if flag else {})
        token = AddedToken(content, special=is_special, **flags)
        (backend.add_special_tokens if is_special else backend.add_tokens)([token])
    return backend


def check(backend: Any, text: str, cutting: Segments) -> None:
    encode = encoder(backend)
    pieces = cutting.cut(text)
    assert "".join(pieces) == text
    ids = [encode(piece) for piece in pieces]
    assert list(chain.from_iterable(ids)) == encode(text)
    assert all(each[0] in cutting.cutter_ids for each in ids[1:])


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=25)
@given(tokens=token_sets, samples=st.lists(texts, min_size=20, max_size=20))
def test_pieces_say_what_the_whole_says(
    name: str, tokens: list[tuple[str, str, bool]], samples: list[str]
) -> None:
    backend = with_tokens(name, tokens)
    cutting = Segments(backend.get_added_tokens_decoder(), encoder(backend))
    exact = {
        content
        for content, flag, _ in tokens
        if flag in ("", "rstrip") and content not in ("the", " q", "\n<z>", "_u_")
    }
    added = backend.get_added_tokens_decoder()
    # No cut was taken back: what is exact is known beforehand.
    assert exact <= {added[each].content for each in cutting.cutter_ids}
    for text in samples:
        check(backend, text, cutting)


@settings(max_examples=100)
@given(
    tokens=token_sets,
    text=texts,
    rest=texts,
)
def test_a_text_that_goes_on_has_the_cuts_of_its_beginning(
    tokens: list[tuple[str, str, bool]], text: str, rest: str
) -> None:
    backend = with_tokens("byte level", tokens)
    cutting = Segments(backend.get_added_tokens_decoder(), encoder(backend))
    pieces = cutting.cut(text + "<a>")
    if pieces[-1] == "<a>":
        assert cutting.cut(f"{text}<a>;{rest}")[: len(pieces) - 1] == pieces[:-1]


def test_segments_of_a_chat(bytewise: Tokenizer) -> None:
    cutting = Segments(bytewise.added_tokens, bytewise.encode, bytewise.sample_renderings())
    text = "Be brief.<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert cutting.cut(text) == [
        "Be brief.",
        "<|im_start|>user\nHello",
        "<|im_end|>\n",
        "<|im_start|>assistant\n",
    ]
    assert cutting.cut("<|im_end|>") == ["<|im_end|>"]
    assert cutting.cut("plain") == ["plain"]
    assert cutting.cut("") == [""]
    assert cutting.begins_with_token("<|im_end|>x")
    assert not cutting.begins_with_token("x<|im_end|>")
    assert cutting.lead in ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
    assert len(bytewise.encode(cutting.lead)) == 1


def test_tokenizers_that_are_not_what_they_seem_are_not_cut(
    bytewise: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    def encode(text: str) -> list[int]:
        return [*bytewise.encode(text), len(text) % 2]

    cutting = Segments(bytewise.added_tokens, encode)
    assert cutting.cut("a<|im_end|>b") == ["a<|im_end|>b"]
    assert cutting.cutter_ids == frozenset()
    (record,) = caplog.records
    assert "tokenized as a whole" in record.getMessage()


def test_a_probe_alone_can_tell(bytewise: Tokenizer) -> None:
    """One that joins what no text of the check's own has."""

    def encode(text: str) -> list[int]:
        return bytewise.encode(text.replace("Q<|im_end|>", "q"))

    assert len(Segments(bytewise.added_tokens, encode).cut("Q<|im_end|>")) == 2
    probed = Segments(bytewise.added_tokens, encode, ["a Q<|im_end|> b"])
    assert probed.cut("Q<|im_end|>") == ["Q<|im_end|>"]


def test_templates_that_refuse_the_sample_give_no_probe(
    bytewise: Tokenizer, tmp_path: Path
) -> None:
    (text,) = bytewise.sample_renderings()
    assert text.count("<|im_start|>") == 4
    write_byte_tokenizer(tmp_path, chat_template="{{ raise_exception('never') }}")
    assert Tokenizer.from_dir(tmp_path).sample_renderings() == []


def test_without_added_tokens_there_are_no_cuts() -> None:
    cutting = Segments({}, lambda text: list(text.encode()))
    assert cutting.cut("a<|im_end|>b") == ["a<|im_end|>b"]
    assert cutting.lead == ""
    assert not cutting.begins_with_token("a")


def test_a_flood_of_tokens_is_not_a_flood_of_segments(
    bytewise: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_module, "MAX_CUTS", 3)
    cutting = Segments(bytewise.added_tokens, bytewise.encode)
    assert cutting.cut("x" + "<|im_end|>" * 9) == ["x", *["<|im_end|>"] * 2, "<|im_end|>" * 7]


@given(
    contents=st.lists(st.text("ab<|.(", min_size=1, max_size=5), min_size=1, max_size=8),
    text=st.text("ab<|.(", max_size=30),
)
def test_the_search_is_for_the_longest_of_the_leftmost(contents: list[str], text: str) -> None:
    expected, at = [], 0
    while at < len(text):
        found = max((word for word in contents if text.startswith(word, at)), key=len, default="")
        if found:
            expected.append((at, found))
        at += len(found) or 1
    pattern = re.compile(_any_of(contents))
    assert [(match.start(), match.group()) for match in pattern.finditer(text)] == expected
