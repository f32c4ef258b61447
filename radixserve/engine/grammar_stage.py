"""Requests whose grammars are being compiled, before the scheduler hears of them.

    core.add ──▶ add ── a thread compiles ──▶ take ──▶ scheduler.add, or the request's end
                  └──── compiled before ─────────────▶ scheduler.add

The step loop goes on meanwhile. A grammar that cannot be compiled ends its own request and nobody
else's. ``on_done`` is called, by the thread, whenever one is done: for a loop that sleeps.

Knows the compiler; knows no scheduler and no tensors. Called by the step loop's thread only.
Cost: O(1) each.
"""

import logging
import queue
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from radixserve.errors import RadixServeError
from radixserve.ids import RequestId
from radixserve.sampling.constraint import Constraint
from radixserve.sampling.grammar_compiler import CompiledGrammar, GrammarCompiler
from radixserve.types import EngineRequest, FinishReason, TokenDelta

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ready:
    """A request whose grammar is compiled."""

    request: EngineRequest
    constraint: Constraint


@dataclass(frozen=True, slots=True)
class _Done:
    request_id: RequestId
    token: object
    """Of whom it was compiled for: an id may be used again while a thread is still busy."""
    grammar: CompiledGrammar | None
    error: str = ""


class GrammarStage:
    """Who waits for a grammar."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._compiler = compiler
        self._waiting: dict[RequestId, tuple[EngineRequest, object]] = {}
        self._done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
        self.on_done: Callable[[], None] = _nobody

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: RequestId) -> bool:
        return request_id in self._waiting

    @property
    def has_done(self) -> bool:
        """Whether ``take`` may find anything."""
        return not self._done.empty()

    def add(self, request: EngineRequest) -> Constraint | None:
        """Begin to compile the grammar of a request, which has one. If it is compiled already, the
        request waits for nothing, and its constraint is returned."""
        assert request.params.grammar is not None, "only grammars are compiled"
        grammar = self._compiler.find(request.params.grammar)
        if grammar is not None:
            return _constraint(request, grammar)
        request_id, token = request.request_id, object()
        self._waiting[request_id] = (request, token)
        compiling = self._compiler.submit(request.params.grammar)
        compiling.add_done_callback(lambda done: self._compiled(request_id, token, done))
        return None

    def take(self) -> tuple[list[Ready], list[TokenDelta]]:
        """Those that are done: ready to be scheduled, or ended by an error."""
        ready: list[Ready] = []
        failed: list[TokenDelta] = []
        while self.has_done:
            done = self._done.get()
            request, token = self._waiting.get(done.request_id, (None, None))
            if request is None or token is not done.token:
                # Aborted meanwhile.
                continue
            del self._waiting[done.request_id]
            if done.grammar is None:
                failed += _ends(request, "error", done.error)
                continue
            ready.append(Ready(request, _constraint(request, done.grammar)))
        return ready, failed

    def abort(self, request_id: RequestId, index: int | None = None) -> list[TokenDelta]:
        """End a request, or a choice of one that goes on with several. A choice of one that is
        still to fork does not exist; unknown ids are ignored."""
        request, token = self._waiting.get(request_id, (None, None))
        if request is None:
            return []
        if index is not None and request.params.n > 1:
            kept = [choice for choice in request.resumed if choice.index != index]
            if len(kept) == len(request.resumed):
                return []
            if kept:
                self._waiting[request_id] = (replace(request, resumed=kept), token)
                return [_end(request, index, "abort")]
        del self._waiting[request_id]
        return _ends(request, "abort")

    def _compiled(
        self, request_id: RequestId, token: object, compiling: Future[CompiledGrammar]
    ) -> None:
        """In the thread that compiled."""
        grammar, error = None, ""
        failure = compiling.exception()
        if failure is None:
            grammar = compiling.result()
        elif isinstance(failure, RadixServeError):
            error = str(failure)
        else:
            logger.error("a grammar could not be compiled", exc_info=failure)
            error = f"the grammar could not be compiled: {type(failure).__name__}: {failure}"
        self._done.put(_Done(request_id, token, grammar, error))
        self.on_done()


def _nobody() -> None:
    """Whoever waits, waits here."""


def _constraint(request: EngineRequest, grammar: CompiledGrammar) -> Constraint:
    return Constraint(
        grammar, end_token_ids=request.end_token_ids, min_tokens=request.params.min_tokens
    )


def _ends(
    request: EngineRequest, reason: FinishReason, error: str | None = None
) -> list[TokenDelta]:
    """The end of all choices of a request that never ran here."""
    indices = [choice.index for choice in request.resumed] or range(request.params.n)
    return [_end(request, index, reason, error) for index in indices]


def _end(
    request: EngineRequest, index: int, reason: FinishReason, error: str | None = None
) -> TokenDelta:
    return TokenDelta(
        request_id=request.request_id,
        index=index,
        token_ids=[],
        finish_reason=reason,
        error=error,
    )
