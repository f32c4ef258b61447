"""From a grammar's source to what follows an answer: the one place that knows llguidance.

    GrammarSpec ── GrammarCompiler.compile ──▶ CompiledGrammar ── matcher() ──▶ Matcher (a choice's)

Tokens are given to llguidance as bytes (``token_table.py``), so what it accepts is what the
detokenizer shows. Its own end-of-sequence token is an id that no model has, one past the
vocabulary: which tokens end an answer is the request's to say, and ``constraint.py`` adds them.
Wherever a grammar leaves only one text, the model still chooses how to spell it in tokens: encoding
forced text for it would turn the name of a special token, quoted in a schema, into that token.

JSON may be written as people write it, with spaces and indented lines, but not with whitespace at
will: models that lose their thread write newlines for ever.

Matchers of one grammar share its automaton, which grows as they use it, behind a lock: it is to be
used by one thread at a time, and ``CompiledGrammar.worker`` is that thread. An automaton that has
hit a limit is of no use to any of them; ``renew`` compiles another.

A short source can be of a grammar that takes for ever to compile, or more stack than there is. Who
takes grammars from strangers tries them elsewhere first (``engine/grammar_guard.py``).

Costs: reading the tokens, once, when the first grammar comes: about 0.5 s for a vocabulary of
150,000. Compiling takes 1 ms for an ordinary schema, 0.3 s for one with 2,000 properties, and lets
go of the interpreter's lock.
"""

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from radixserve.errors import InvalidRequestError
from radixserve.sampling.deep_thread import DeepThread
from radixserve.sampling.grammar import GrammarSpec
from radixserve.sampling.schema_bounds import with_sound_bounds

MAX_SOURCE_BYTES: Final = 1 << 18
"""Of a grammar's source, as UTF-8."""

MAX_CACHED: Final = 64
"""Compiled grammars that are kept for whoever comes with the same one."""

MAX_CACHED_BYTES: Final = 8 << 20
"""Of their sources together."""

MAX_ERROR_CHARS: Final = 500
"""Of llguidance's own words in a message."""

_WHITESPACE: Final = r" |\r?\n[ \t]{0,40}"
"""Between the parts of a JSON text, where there is any: a space, or a new line and its indent."""

_MAX_WORKERS: Final = 4
_NUM_COMPILING: Final = 2
"""Threads that compile: one slow grammar does not hold up all others."""

_NO_FORCING: Final = {
    # No rule refers to it: what it says holds for the grammars beside it.
    "name": "radixserve_options",
    "lark_grammar": '%llguidance {"no_forcing": true}\nstart: "-"\n',
}


class GrammarError(InvalidRequestError):
    """A grammar that cannot be used: it is malformed, empty, or beyond the limits."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="grammar", code="invalid_grammar")


class Matcher:
    """Follows one answer through a grammar. To be used by the grammar's worker only."""

    __slots__ = ("_inner", "generation")

    def __init__(self, inner: LLMatcher, generation: int) -> None:
        self._inner = inner
        self.generation = generation
        """Which automaton of its grammar it shares."""

    def copy(self) -> "Matcher":
        """Another one, as far on as this one. *Cost*: some microseconds."""
        return Matcher(self._inner.deep_copy(), self.generation)

    def consume(self, token_ids: Sequence[int]) -> None:
        """Go on over tokens of the answer. *Cost*: 1 to 10 us each, more where a number is first
        met. Errors show in ``error``."""
        if token_ids:
            self._inner.consume_tokens(list(token_ids))

    def fill(self, words: npt.NDArray[np.uint32]) -> None:
        """Write which tokens may come next: bit i of word w is token ``32 * w + i``.

        ``words``: uint32[ceil((V + 1) / 32)], contiguous. Bit V, llguidance's own end of the
        answer, and bits of ids without a token may be set where a grammar speaks of ids. After an
        error the contents mean nothing. *Cost*: 10 us to some ms; lets go of the interpreter's
        lock.
        """
        self._inner.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)

    @property
    def may_end(self) -> bool:
        """Whether the answer may end here."""
        return self._inner.is_accepting()

    @property
    def error(self) -> str | None:
        """Why it cannot go on, if it cannot; it stays so."""
        return _brief(self._inner.get_error()) if self._inner.is_error() else None

    @property
    def is_worn_out(self) -> bool:
        """Whether it cannot go on because its automaton, which others use too, has grown to its
        limit. Whatever else goes wrong is the answer's own, or its grammar's."""
        # There is no code for it: `stop_reason` is the same for every error.
        return self._inner.is_error() and "too many states" in self._inner.get_error()


class CompiledGrammar:
    """A grammar ready to be followed by any number of answers."""

    def __init__(
        self,
        spec: GrammarSpec,
        make: Callable[[], LLMatcher],
        inner: LLMatcher,
        *,
        known_words: npt.NDArray[np.uint32],
        vocab_size: int,
        worker: DeepThread,
    ) -> None:
        self.spec = spec
        self.vocab_size = vocab_size
        self.known_words = known_words
        """The ids that name a token, as a mask: uint32[ceil((V + 1) / 32)]. Not to be changed."""
        self.worker = worker
        """The one thread that may use its matchers."""
        self._make = make
        self._pristine = Matcher(inner, generation=0)

    def matcher(self) -> Matcher:
        """One at the beginning of an answer. *Cost*: some microseconds."""
        return self._pristine.copy()

    def renew(self, generation: int) -> bool:
        """See that matchers have an automaton younger than ``generation``. False if there was one
        already. To be called by the worker. *Cost*: that of compiling."""
        if self._pristine.generation > generation:
            return False
        self._pristine = Matcher(self._make(), generation + 1)
        return True


class GrammarCompiler:
    """Compiles grammars for one vocabulary, and keeps those that were used last. Thread-safe.

    ``load_table`` gives the tokens' bytes (``token_table.py``); it is called when the first grammar
    comes, once. ``num_workers`` threads compute what grammars allow. Without ``keeps`` it keeps no
    grammar.
    """

    def __init__(
        self,
        load_table: Callable[[], list[bytes]],
        *,
        num_workers: int | None = None,
        keeps: bool = True,
    ) -> None:
        self._load_table = load_table
        self._keeps = keeps
        self._num_workers = num_workers or min(_MAX_WORKERS, max(1, (os.cpu_count() or 1) // 2))
        self._lock = threading.Lock()
        # Apart from the other, for which a step loop waits: reading the tokens takes seconds.
        self._loading = threading.Lock()
        self._tokenizer: LLTokenizer | None = None
        self._known_words = mask_words(0)
        self._vocab_size = 0
        self._workers: list[DeepThread] = []
        self._compiling: list[DeepThread] = []
        self._num_submitted = 0
        self._cached: OrderedDict[GrammarSpec, CompiledGrammar] = OrderedDict()
        self._num_compiled = 0

    def __len__(self) -> int:
        """Compiled grammars that are kept."""
        return len(self._cached)

    def prepare(self) -> None:
        """Read the tokens now. *Raises* what ``load_table`` raises."""
        self._loaded()

    def find(self, spec: GrammarSpec) -> CompiledGrammar | None:
        """The grammar, if it is compiled and kept. Returns at once, whatever is being compiled."""
        with self._lock:
            found = self._cached.get(spec)
            if found is not None:
                self._cached.move_to_end(spec)
            return found

    def submit(self, spec: GrammarSpec) -> Future[CompiledGrammar]:
        """``compile``, by a thread that nobody waits for. Returns at once."""
        with self._lock:
            if not self._compiling:
                self._compiling = [DeepThread("radixserve-compile") for _ in range(_NUM_COMPILING)]
            self._num_submitted += 1
            thread = self._compiling[self._num_submitted % _NUM_COMPILING]
        return thread.submit(lambda: self.compile(spec))

    def compile(self, spec: GrammarSpec) -> CompiledGrammar:
        """The grammar, compiled now or before. *Raises* ``GrammarError``; also what ``load_table``
        raises. *Cost*: see above."""
        found = self.find(spec)
        if found is not None:
            return found
        tokenizer = self._loaded()
        definition = _definition(spec)

        def make() -> LLMatcher:
            return LLMatcher(tokenizer, definition, log_level=0, limits=_limits())

        inner = make()
        _check_start(inner, self._vocab_size)
        with self._lock:
            worker = self._workers[self._num_compiled % len(self._workers)]
            self._num_compiled += 1
            compiled = CompiledGrammar(
                spec,
                make,
                inner,
                known_words=self._known_words,
                vocab_size=self._vocab_size,
                worker=worker,
            )
            if self._keeps:
                self._cached[spec] = compiled
            while len(self._cached) > MAX_CACHED or self._num_cached_bytes() > MAX_CACHED_BYTES:
                self._cached.popitem(last=False)
        return compiled

    def _loaded(self) -> LLTokenizer:
        """The tokens, as llguidance has them. Others who compile wait for them."""
        with self._loading:
            if self._tokenizer is None:
                table = self._load_table()
                self._vocab_size = len(table)
                self._known_words = _known_words(table)
                self._workers = [DeepThread("radixserve-grammar") for _ in range(self._num_workers)]
                self._tokenizer = LLTokenizer(TokenizerWrapper(_Tokens(table)))
            return self._tokenizer

    def _num_cached_bytes(self) -> int:
        return sum(len(spec.source) for spec in self._cached)


class _Tokens:
    """A table of tokens as llguidance's wrapper wants it."""

    bos_token_id = None
    special_token_ids = ()

    def __init__(self, table: list[bytes]) -> None:
        self.tokens = [*table, b""]
        self.eos_token_id = len(table)

    def __call__(self, _text: bytes) -> list[int]:
        """Never needed where nothing is forced; but the wrapper tries it once."""
        return []


def _limits() -> LLParserLimits:
    """llguidance's own, but for memory, and without the grammar in every message."""
    return LLParserLimits(max_lexer_states=20_000, verbose_errors=False)


def check_size(spec: GrammarSpec) -> None:
    """*Raises* ``GrammarError`` for a source that is too long to be looked at."""
    num_bytes = len(spec.source.encode("utf-8", "surrogatepass"))
    if num_bytes > MAX_SOURCE_BYTES:
        raise GrammarError(
            f"the grammar has {num_bytes} bytes; at most {MAX_SOURCE_BYTES} are accepted"
        )


def _definition(spec: GrammarSpec) -> str:
    """What llguidance compiles. *Raises* ``GrammarError``."""
    check_size(spec)
    grammar: dict[str, Any]
    match spec.kind:
        case "json_schema":
            grammar = {"json_schema": _schema(spec.source)}
        case "regex":
            try:
                grammar = json.loads(LLMatcher.grammar_from_regex(spec.source))["grammars"][0]
            except UnicodeEncodeError as error:
                raise GrammarError(f"the regular expression is not Unicode: {error}") from error
        case "lark":
            grammar = {"lark_grammar": spec.source}
    try:
        return json.dumps({"grammars": [grammar, _NO_FORCING]})
    except RecursionError:
        raise _too_deep() from None


def _schema(source: str) -> dict[str, Any]:
    """A JSON schema, with our idea of whitespace unless it has its own (``x-guidance``)."""
    try:
        schema = json.loads(source)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise GrammarError(f"the schema is not JSON: {error}") from error
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarError(
            f"the schema is {json.dumps(schema)[:50]}; it must be an object that describes "
            "the answer"
        )
    own = schema.get("x-guidance")
    if own is not None and not isinstance(own, dict):
        raise GrammarError("the schema's x-guidance must be an object")
    options = {"whitespace_pattern": _WHITESPACE, **(own or {})}
    try:
        return {**with_sound_bounds(schema), "x-guidance": options}
    except RecursionError:
        raise _too_deep() from None


def _check_start(inner: LLMatcher, vocab_size: int) -> None:
    """*Raises* ``GrammarError`` unless an answer can begin, or be empty."""
    if inner.is_error():
        raise GrammarError(f"the grammar cannot be used: {_brief(inner.get_error())}")
    words = mask_words(vocab_size)
    first = Matcher(inner, 0).copy()
    first.fill(words)
    if first.error is not None:
        raise GrammarError(f"no answer can begin under this grammar: {first.error}")


def mask_words(vocab_size: int) -> npt.NDArray[np.uint32]:
    """Room for a mask: uint32[ceil((V + 1) / 32)], the answer's end included."""
    return np.zeros(vocab_size // 32 + 1, dtype=np.uint32)


def _known_words(table: list[bytes]) -> npt.NDArray[np.uint32]:
    words = mask_words(len(table))
    known = np.array([bool(entry) for entry in table], dtype=np.bool_)
    packed = np.packbits(known, bitorder="little")
    words.view(np.uint8)[: len(packed)] = packed
    return words


def _too_deep() -> GrammarError:
    return GrammarError("the schema is nested too deeply")


def _brief(error: str) -> str:
    """llguidance's message without the state that it appends."""
    words = " ".join(error.partition("<state>")[0].partition("<non-verbose/>")[0].split())
    return words if len(words) <= MAX_ERROR_CHARS else words[:MAX_ERROR_CHARS] + " ..."
