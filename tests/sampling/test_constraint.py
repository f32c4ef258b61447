"""What a grammar lets an answer say next: against the language itself, spelt out."""

import json
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLParserLimits

from radixserve.sampling import grammar_compiler
from radixserve.sampling.constraint import Constraint
from radixserve.sampling.grammar_compiler import CompiledGrammar, GrammarCompiler, Matcher
from radixserve.text.tokenizer import Tokenizer
from support.byte_tokenizer import IM_END_ID, IM_START_ID
from tests.sampling.constraining import KINDS, allowed, make_compiler, make_tokenizer, spec, spelt

END = (IM_END_ID,)
BYTES_VOCAB = 300


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    directory: Path = tmp_path_factory.mktemp("tokenizers")
    return {kind: make_tokenizer(kind, directory / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def compiler(tokenizers: dict[str, Tokenizer]) -> GrammarCompiler:
    return make_compiler(tokenizers["bytes"], BYTES_VOCAB)


def constrain(
    compiler: GrammarCompiler, kind: Any, source: str, ends: tuple[int, ...] = END, **settings: Any
) -> Constraint:
    return Constraint(compiler.compile(spec(kind, source)), end_token_ids=ends, **settings)


def after(constraint: Constraint, text: str) -> list[int]:
    constraint.replay(list(text.encode()))
    return allowed(constraint)


WORDS = (
    "alpha",
    "alphabet",
    "quick brown fox",
    "Füchse",
    "日本語",
    "<|im_end|>",
    "<|end|>",
    "</s>",
)


@pytest.mark.parametrize("vocab_padding", [0, 1, 31, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_is_every_token_that_goes_on_with_a_word(
    tokenizers: dict[str, Tokenizer], kind: str, vocab_padding: int
) -> None:
    """Of a finite language all can be listed: whatever the tokens are, and however many ids name
    none, also where several tokens have the same bytes."""
    tokenizer = tokenizers[kind]
    vocab_size = tokenizer.vocab_size + vocab_padding
    tokens = list(spelt(tokenizer, vocab_size))
    (end,) = tokenizer.eos_token_ids
    compiler = make_compiler(tokenizer, vocab_size)
    source = "start: " + " | ".join(f'"{word}"' for word in WORDS)
    words = [word.encode() for word in WORDS]
    rng = random.Random(vocab_padding)
    num_ends = 0
    for _ in range(12):
        constraint = constrain(compiler, "lark", source, (end,))
        said = b""
        while True:
            expected = {
                token_id
                for token_id, piece in tokens
                if any(word.startswith(said + piece) for word in words)
            }
            if said in words:
                expected.add(end)
            assert set(allowed(constraint)) == expected, said
            assert constraint.is_complete == (expected == {end})
            token_id = rng.choice(sorted(expected))
            if token_id == end:
                num_ends += 1
                break
            said += tokenizer.token_bytes(token_id)
            constraint.advance(token_id)
    assert num_ends == 12


def test_duplicate_tokens_are_both_allowed(tokenizers: dict[str, Tokenizer]) -> None:
    """A byte token of sentencepiece, and the letter of the same byte."""
    tokenizer = tokenizers["sentencepiece"]
    same = [i for i, piece in spelt(tokenizer, tokenizer.vocab_size) if piece == b"e"]
    assert len(same) == 2
    compiler = make_compiler(tokenizer, tokenizer.vocab_size)
    assert allowed(constrain(compiler, "regex", "e", (2,))) == same


@pytest.mark.parametrize(
    ("min_tokens", "expected"),
    [
        (0, [[97], [97], [97, 98, 259], [98, 259], [259]]),
        (2, [[97], [97], [97, 98, 259], [98, 259], [259]]),
        (3, [[97], [97], [97, 98], [98, 259], [259]]),
        (9, [[97], [97], [97, 98], [98], [259]]),
    ],
)
def test_ends_come_where_the_answer_may_end(
    compiler: GrammarCompiler, min_tokens: int, expected: list[list[int]]
) -> None:
    """Never below ``min_tokens``, unless there is nothing else to choose."""
    constraint = constrain(compiler, "regex", "a{2,3}b?", min_tokens=min_tokens)
    found = [allowed(constraint)]
    for letter in b"aaab":
        constraint.advance(letter)
        found.append(allowed(constraint))
    assert found == expected
    assert constraint.is_complete
    assert constraint.failure is None


def test_all_the_requests_ends_and_none_of_the_tokenizers(compiler: GrammarCompiler) -> None:
    assert after(constrain(compiler, "regex", "ab?", (98, 31, 256)), "a") == [31, 98, 256]
    # A letter that ends the answer is not to be had before.
    assert allowed(constrain(compiler, "regex", "[abc]d", (98,))) == [97, 99]


def test_without_ends_a_whole_answer_leaves_nothing(compiler: GrammarCompiler) -> None:
    constraint = constrain(compiler, "regex", "ab", ())
    found = [
        (after(constraint, letter), constraint.is_complete, constraint.failure)
        for letter in ("", "a", "b")
    ]
    assert found == [([97], False, None), ([98], False, None), ([], True, None)]


def test_the_empty_answer_alone(compiler: GrammarCompiler) -> None:
    assert allowed(constrain(compiler, "regex", "", min_tokens=5)) == [IM_END_ID]
    assert constrain(compiler, "regex", "").is_complete
    assert allowed(constrain(compiler, "regex", "", ())) == []


def test_special_tokens_are_not_their_names(compiler: GrammarCompiler) -> None:
    by_text = constrain(compiler, "lark", 'start: "<|im_start|>"')
    assert allowed(by_text) == [ord("<")]
    by_name = constrain(compiler, "lark", "start: <|im_start|> /a/")
    assert allowed(by_name) == [IM_START_ID]
    by_name.advance(IM_START_ID)
    assert allowed(by_name) == [ord("a")]
    # Anything that is text.
    assert max(allowed(constrain(compiler, "regex", "(?s:.*)", ()))) < 256


def test_ids_without_a_token_are_never_allowed(compiler: GrammarCompiler) -> None:
    """Not even where a grammar speaks of ids: 255 is no UTF-8, 264 to 299 are padding."""
    expected = [i for i in range(264) if i not in {255, IM_END_ID}]
    assert allowed(constrain(compiler, "lark", "start: <[*]>")) == expected


def test_a_grammar_that_asks_for_an_end_fails(compiler: GrammarCompiler) -> None:
    constraint = constrain(compiler, "lark", "start: /a/ <|im_end|> /b/")
    assert after(constraint, "a") == []
    assert constraint.failure is not None
    assert "ends the answer" in constraint.failure
    assert not constraint.is_complete


def test_what_does_not_fit_fails(compiler: GrammarCompiler) -> None:
    constraint = constrain(compiler, "regex", "ab")
    assert after(constraint, "x") == []
    assert "does" in (constraint.failure or "")
    # Its grammar is as good as ever.
    assert after(constrain(compiler, "regex", "ab"), "a") == [98]


def test_no_token_spells_the_next_byte(tokenizers: dict[str, Tokenizer]) -> None:
    """A model whose vocabulary ends before the tokenizer's."""
    compiler = make_compiler(tokenizers["bytes"], 98)
    assert allowed(constrain(compiler, "regex", "[ab]", ())) == [97]
    with pytest.raises(grammar_compiler.GrammarError, match="no answer can begin"):
        compiler.compile(spec("regex", "b"))


def test_replay_is_as_many_advances(compiler: GrammarCompiler) -> None:
    source = '{"type": "object", "properties": {"k": {"type": "array"}}, "required": ["k"]}'
    one, other = (constrain(compiler, "json_schema", source) for _ in range(2))
    text = '{"k": [1, {"x": "ü"}, '
    for byte in text.encode():
        one.advance(byte)
    assert after(other, text) == allowed(one)
    one.replay([])
    assert after(one, '"') == after(other, '"')


def test_forks_go_their_own_ways(compiler: GrammarCompiler) -> None:
    parent = constrain(compiler, "regex", "a(bc|de)f", min_tokens=2)
    parent.advance(97)
    children = [parent.fork() for _ in range(3)]
    # The parent goes on before anybody has asked for a child's mask.
    parent.advance(100)
    children[0].advance(98)
    grandchild = children[0].fork()
    assert [allowed(one) for one in (parent, *children, grandchild)] == [
        [101],
        [99],
        [98, 100],
        [98, 100],
        [99],
    ]
    assert after(children[1], "dex") == []
    assert children[1].failure is not None
    assert after(children[2], "de") == [102]
    assert after(grandchild, "cf") == [IM_END_ID]


def test_masks_are_made_by_the_grammars_thread(compiler: GrammarCompiler) -> None:
    """Whoever advances goes on; whoever waits, waits."""
    constraint = constrain(compiler, "regex", "[a-c]{5}")
    assert allowed(constraint) == [97, 98, 99]
    gate = threading.Event()
    constraint._grammar.worker.submit(gate.wait)
    constraint.advance(97)
    assert not constraint._found.done()
    gate.set()
    assert allowed(constraint) == [97, 98, 99]


def test_another_ones_failure_is_not_ours(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers share an automaton, which one of them can bring to its limit."""
    monkeypatch.setattr(grammar_compiler, "_limits", lambda: LLParserLimits(max_lexer_states=75))
    compiler = make_compiler(tokenizers["bytes"], BYTES_VOCAB)
    source = "a[0-9]{40}|b[1-9]{40}|c[2-9]{40}|d[3-9]{40}"
    answers = [constrain(compiler, "regex", source) for _ in range(4)]
    for answer, letter in zip(answers, "abcd", strict=True):
        # One way through it is within the limit, two are not.
        assert ord("7") in after(answer, letter + "7" * 38)
        assert answer.failure is None
    generations = [answer._matcher.generation for answer in answers if answer._matcher]
    assert generations == [0, 1, 2, 3]
    # The first ones get on too, though their automata have failed since.
    for answer in answers:
        assert ord("7") in after(answer, "7")
        assert after(answer, "8") == [IM_END_ID]


def test_what_fails_with_a_new_automaton_has_failed(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_compiler, "_limits", lambda: LLParserLimits(max_lexer_states=75))
    compiler = make_compiler(tokenizers["bytes"], BYTES_VOCAB)
    long, short = (constrain(compiler, "regex", "a[0-9]{200}|b") for _ in range(2))
    assert after(long, "a" + "7" * 150) == []
    assert "lexer" in (long.failure or "")
    assert after(short, "b") == [IM_END_ID]


def test_what_is_the_grammars_fault_is_not_compiled_again(
    tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fail again, and everybody would wait for it."""
    limits = LLParserLimits(max_items_in_row=50)
    monkeypatch.setattr(grammar_compiler, "_limits", lambda: limits)
    compiler = make_compiler(tokenizers["bytes"], BYTES_VOCAB)
    schema = {"type": "object", "properties": {f"p{number}": {} for number in range(100)}}
    answer = constrain(compiler, "json_schema", json.dumps(schema))
    assert after(answer, '{"p1": 1,') == []
    assert "items; max is 50" in (answer.failure or "")
    assert answer._matcher is not None
    assert answer._matcher.generation == 0


def test_a_panic_is_one_answers_failure(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not an exception in the sampler, which would end everybody in the step."""
    one, other = (constrain(compiler, "regex", "[a-c]{5}") for _ in range(2))
    assert allowed(one) == allowed(other)

    def panic(matcher: Matcher, words: Any) -> None:
        raise BaseException("out of order")

    with monkeypatch.context() as patch:
        patch.setattr(Matcher, "fill", panic)
        assert after(one, "a") == []
        assert "out of order" in (one.failure or "")
    assert after(other, "a") == [97, 98, 99]


def test_masks_have_no_bits_beyond_the_vocabulary(tokenizers: dict[str, Tokenizer]) -> None:
    """Nor a word: bit V, in which the compiler keeps the end, may be in a word of its own."""
    for vocab_size in (264, 287, 288, 289):
        compiler = make_compiler(tokenizers["bytes"], vocab_size)
        constraint = constrain(compiler, "regex", "a?")
        words = constraint.wait()
        assert words.shape == (-(-vocab_size // 32),)
        assert words.dtype == np.uint32
        assert allowed(constraint) == [97, IM_END_ID]


def test_compiled_once(compiler: GrammarCompiler) -> None:
    first = compiler.compile(spec("regex", "once"))
    assert isinstance(first, CompiledGrammar)
    assert compiler.compile(spec("regex", "once")) is first
    assert compiler.compile(spec("lark", 'start: "once"')) is not first
