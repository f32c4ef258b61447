"""Grammars that compile, those that must not, and how long the former are kept."""

import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from radixserve.errors import InvalidRequestError
from radixserve.sampling import grammar_compiler
from radixserve.sampling.constraint import Constraint
from radixserve.sampling.grammar_compiler import MAX_SOURCE_BYTES, GrammarCompiler, GrammarError
from radixserve.sampling.token_table import MAX_TOKEN_BYTES, token_table
from tests.sampling.constraining import allowed, spec


class Bytes:
    """A token per byte, and a few more."""

    special_ids = frozenset({256})
    more = (b"<|end|>", b"", b"x" * MAX_TOKEN_BYTES, b"x" * (MAX_TOKEN_BYTES + 1), b"\xffa", b"ab")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else self.more[token_id - 256]


VOCAB = 256 + len(Bytes.more)


@pytest.fixture
def compiler() -> GrammarCompiler:
    return GrammarCompiler(lambda: token_table(Bytes(), VOCAB), num_workers=2)


def start(compiler: GrammarCompiler, kind: Any, source: str) -> list[int]:
    return allowed(Constraint(compiler.compile(spec(kind, source)), end_token_ids=()))


def test_the_table() -> None:
    table = token_table(Bytes(), VOCAB)
    assert table[:255] == [bytes([byte]) for byte in range(255)]
    assert table[255:] == [b"", b"\xff<|end|>", b"", b"x" * MAX_TOKEN_BYTES, b"", b"", b"ab"]


def test_unusual_tokens(compiler: GrammarCompiler) -> None:
    assert start(compiler, "regex", "x*") == [ord("x"), 258]
    assert start(compiler, "regex", "a[^c]") == [ord("a"), 261]


BAD = [
    ("regex", "(a", "unclosed group"),
    ("regex", "(?=a)b", "look-around"),
    ("regex", "\ud800", "not Unicode"),
    ("lark", "", "cannot be used"),
    ("lark", "start: foo", 'unknown name: "foo"'),
    ("lark", "\ud800", "cannot be used"),
    ("lark", "start: <|nope|>", "unknown special token"),
    # What looks like the compiler's own format is a grammar like any other.
    ("lark", '{"grammars": [{"lark_grammar": "start: /a/"}]}', "cannot be used"),
    ("json_schema", "{", "not JSON"),
    ("json_schema", "1" * 5000, "not JSON"),
    ("json_schema", "[]", "must be an object"),
    ("json_schema", "false", "must be an object"),
    ("json_schema", '{"x-guidance": 1}', "x-guidance"),
    ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 4}', "nsatisfiable"),
    ("json_schema", '{"not": {}}', "nimplemented"),
    ("json_schema", '{"$ref": "https://example.com/x"}', "cannot be used"),
    ("json_schema", '{"minimum": NaN}', "cannot be used"),
    ("json_schema", '{"const": "\\ud800"}', "cannot be used"),
    ("json_schema", "[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("kind", "source", "message"), BAD)
def test_refused(compiler: GrammarCompiler, kind: Any, source: str, message: str) -> None:
    with pytest.raises(GrammarError, match=re.escape(message)) as caught:
        compiler.compile(spec(kind, source))
    assert isinstance(caught.value, InvalidRequestError)
    assert caught.value.param == "grammar"
    assert caught.value.code == "invalid_grammar"
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)
    assert len(compiler) == 0


@pytest.mark.parametrize("char", ["a", "ü"])
def test_sources_are_bounded_in_bytes(compiler: GrammarCompiler, char: str) -> None:
    size = len(char.encode())
    most = char * ((MAX_SOURCE_BYTES - 2) // size)
    compiler.compile(spec("json_schema", json.dumps({"const": most[:-20]}, ensure_ascii=False)))
    with pytest.raises(GrammarError, match=f"at most {MAX_SOURCE_BYTES}"):
        compiler.compile(spec("regex", most + char * 3))


def test_deep_schemas_are_no_crash(compiler: GrammarCompiler) -> None:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(400):
        schema = {"type": "array", "items": schema}
    with pytest.raises(GrammarError, match=r"cannot be used|too deeply"):
        compiler.compile(spec("json_schema", json.dumps(schema)))


def test_any_json(compiler: GrammarCompiler) -> None:
    for source in ("true", "{}"):
        assert set(start(compiler, "json_schema", source)) >= set(b'{["-0tfn')


def test_whitespace_is_bounded_but_by_whom_asks(compiler: GrammarCompiler) -> None:
    for own, is_bounded in [({}, True), ({"x-guidance": {"whitespace_pattern": " *"}}, False)]:
        grammar = compiler.compile(spec("json_schema", json.dumps({"type": "array", **own})))
        constraint = Constraint(grammar, end_token_ids=())
        constraint.advance(ord("["))
        assert ord(" ") in allowed(constraint)
        constraint.advance(ord(" "))
        assert (ord(" ") in allowed(constraint)) != is_bounded
        assert ord("]") in allowed(constraint)


def test_json_may_be_indented(compiler: GrammarCompiler) -> None:
    for newline in ("\n", "\r\n", "\n" + "\t" * 9):
        constraint = Constraint(compiler.compile(spec("json_schema", "{}")), end_token_ids=())
        text = json.dumps({"a": [{"b": [1, {}]}], "c": "d"}, indent=4).replace("\n", newline)
        constraint.replay(list(text.encode()))
        assert constraint.is_complete, constraint.failure


def test_the_least_used_grammars_go(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_compiler, "MAX_CACHED", 3)
    a, b, c = (compiler.compile(spec("regex", letter)) for letter in "abc")
    assert compiler.compile(spec("regex", "a")) is a
    compiler.compile(spec("regex", "d"))
    assert len(compiler) == 3
    assert compiler.compile(spec("regex", "a")) is a
    assert compiler.compile(spec("regex", "c")) is c
    assert compiler.compile(spec("regex", "b")) is not b


def test_long_grammars_are_kept_up_to_a_size(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_compiler, "MAX_CACHED_BYTES", 100)
    first = compiler.compile(spec("regex", "a" * 60))
    compiler.compile(spec("regex", "b" * 40))
    assert compiler.compile(spec("regex", "a" * 60)) is first
    compiler.compile(spec("regex", "c" * 30))
    assert len(compiler) == 2
    compiler.compile(spec("regex", "d" * 101))
    assert len(compiler) == 0


def test_tokens_are_read_once_and_late() -> None:
    calls = []

    def load() -> list[bytes]:
        calls.append(1)
        return token_table(Bytes(), VOCAB)

    compiler = GrammarCompiler(load)
    assert not calls
    with ThreadPoolExecutor(4) as threads:
        grammars = list(threads.map(compiler.compile, [spec("regex", c) for c in "abcdabcd"]))
    assert len(calls) == 1
    assert len({id(grammar) for grammar in grammars[:4]}) == 4


def test_a_failure_to_read_tokens_is_told_and_tried_again() -> None:
    tables: list[Any] = [InvalidRequestError("no tokenizer"), token_table(Bytes(), VOCAB)]

    def load() -> list[bytes]:
        table = tables.pop(0)
        if isinstance(table, Exception):
            raise table
        found: list[bytes] = table
        return found

    compiler = GrammarCompiler(load)
    with pytest.raises(InvalidRequestError, match="no tokenizer"):
        compiler.compile(spec("regex", "a"))
    assert start(compiler, "regex", "b") == [98]


def test_grammars_share_the_threads(compiler: GrammarCompiler) -> None:
    """Each has one, whose turn it is."""
    workers = [compiler.compile(spec("regex", letter)).worker for letter in "abcd"]
    assert workers[0] is workers[2]
    assert workers[1] is workers[3]
    assert workers[0] is not workers[1]


def test_a_compiler_that_keeps_none() -> None:
    compiler = GrammarCompiler(lambda: token_table(Bytes(), VOCAB), num_workers=1, keeps=False)
    one, other = (compiler.compile(spec("regex", "ab")) for _ in range(2))
    assert one is not other
    assert len(compiler) == 0
    assert compiler.find(one.spec) is None
    assert allowed(Constraint(one, end_token_ids=())) == [ord("a"), 261]


def test_reading_the_tokens_holds_up_nobody_who_asks() -> None:
    """It takes seconds; who adds requests is the step loop."""
    entered, let_go = threading.Event(), threading.Event()

    def load() -> list[bytes]:
        entered.set()
        assert let_go.wait(60)
        return token_table(Bytes(), VOCAB)

    compiler = GrammarCompiler(load, num_workers=1)
    first = compiler.submit(spec("regex", "a"))
    assert entered.wait(60)
    # Else this would not return.
    second = compiler.submit(spec("regex", "b"))
    assert compiler.find(spec("regex", "a")) is None
    assert not first.done()
    assert not second.done()
    let_go.set()
    assert first.result(60).spec.source == "a"
    assert second.result(60).spec.source == "b"
