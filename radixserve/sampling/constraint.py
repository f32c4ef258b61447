"""What one choice may say next, under a grammar: found in a thread, while the model computes.

    scheduler                worker                        sampler
    advance(token) ────────▶ consume, compute the mask
    ... plans, launches ...  .........................     wait() ── words ──▶ onto the logits

Both ends return to their work at once; ``wait`` waits only if the mask is not there yet. The mask
of the first token is begun when the constraint is made, long before a prompt has been computed.

End tokens belong to the request, not to its grammar, and a grammar that asks for one by name does
not get it:

    the answer so far               allowed next
    can go on, cannot end here      what the grammar says
    can go on, can end here         that, and the end tokens (not below ``min_tokens``)
    can only end here               the end tokens, ``min_tokens`` or not; nothing if there are none
    cannot go on (failed)           nothing

Where nothing is allowed the sampler reports that it found no token, and the scheduler asks here
why: ``is_complete``, or ``failure``.

A failure may be none of this answer's doing: answers under one grammar share an automaton, with
limits (``grammar_compiler.py``). So an answer whose automaton is at its limit is first repeated
with another one, and only what fails with a new one has failed. Other failures would only be
repeated, while all in the sampler's step wait: compiling can take seconds.

Owned by the scheduler, one per choice; the sampler only waits. Knows no logits and no text.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from radixserve.sampling.grammar_compiler import CompiledGrammar, Matcher, mask_words

logger = logging.getLogger(__name__)


class Constraint:
    """The state of one choice under its grammar.

    ``end_token_ids``: the request's, all within the vocabulary. Methods return at once, unless they
    say otherwise, and are called by one thread, in the order of the answer.
    """

    __slots__ = (
        "_failure",
        "_found",
        "_grammar",
        "_is_complete",
        "_matcher",
        "_min_tokens",
        "_said",
        "_words",
        "end_token_ids",
    )

    def __init__(
        self,
        grammar: CompiledGrammar,
        *,
        end_token_ids: Collection[int],
        min_tokens: int = 0,
        _parent: "Constraint | None" = None,
    ) -> None:
        self._grammar = grammar
        self.end_token_ids = frozenset(end_token_ids)
        self._min_tokens = min_tokens
        self._words = mask_words(grammar.vocab_size)
        # Written by the worker, read by others once `_found` is done.
        self._said: list[int] = []
        self._matcher: Matcher | None = None
        self._failure: str | None = None
        self._is_complete = False
        self._found = self._submit(lambda: self._begin(_parent))

    def advance(self, token_id: int) -> None:
        """The answer's next token is known: begin to compute what may follow it."""
        self.replay([token_id])

    def replay(self, token_ids: Sequence[int]) -> None:
        """As many calls of ``advance``, but only the mask after the last is computed: for an answer
        that is gone on with."""
        if token_ids:
            said = list(token_ids)
            self._found = self._submit(lambda: self._go_on(said))

    def fork(self) -> "Constraint":
        """Another one for a choice that has said the same so far."""
        return Constraint(
            self._grammar,
            end_token_ids=self.end_token_ids,
            min_tokens=self._min_tokens,
            _parent=self,
        )

    def wait(self) -> npt.NDArray[np.uint32]:
        """The mask of the next token: bit i of word w is token ``32 * w + i``, set if it may come.

        uint32[ceil(V / 32)]: a view of memory that the next ``advance`` writes to; bits from V on
        are 0. Waits for the worker. Asking again costs nothing.
        """
        self._found.result()
        return self._words[: -(-self._grammar.vocab_size // 32)]

    @property
    def is_complete(self) -> bool:
        """Whether the answer is whole, and the grammar can take nothing more. Waits for the
        worker."""
        self._found.result()
        return self._is_complete

    @property
    def failure(self) -> str | None:
        """Why the answer cannot go on, in the words for its user; None if it can or is whole.

        Waits for the worker.
        """
        self._found.result()
        return self._failure

    def _submit(self, job: Callable[[], None]) -> Future[None]:
        return self._grammar.worker.submit(lambda: self._guard(job))

    # -- in the worker -------------------------------------------------------------------------

    def _guard(self, job: Callable[[], None]) -> None:
        """Whatever goes wrong is this answer's failure, not that of all in the sampler's step."""
        try:
            job()
        except BaseException as error:  # A panic in Rust is no Exception.
            logger.exception("a mask could not be computed")
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, why: str) -> None:
        self._words.fill(0)
        self._is_complete = False
        self._failure = f"the answer cannot go on under its grammar: {why}"

    def _begin(self, parent: "Constraint | None") -> None:
        if parent is None:
            self._matcher = self._grammar.matcher()
            self._compute()
            return
        # One thread does all of this in the order asked for: the parent is where it was when it was
        # forked.
        assert parent._matcher is not None, "a parent begins before its forks"
        self._said = list(parent._said)
        self._matcher = parent._matcher.copy()
        self._words[:] = parent._words
        self._failure, self._is_complete = parent._failure, parent._is_complete

    def _go_on(self, token_ids: list[int]) -> None:
        assert self._matcher is not None, "it has begun"
        self._said += token_ids
        self._matcher.consume(token_ids)
        self._compute()

    def _compute(self) -> None:
        """Find the mask, with another automaton if this one is worn out."""
        assert self._matcher is not None, "it has begun"
        self._matcher.fill(self._words)
        while self._matcher.is_worn_out:
            is_fresh = self._grammar.renew(self._matcher.generation)
            self._matcher = self._grammar.matcher()
            self._matcher.consume(self._said)
            self._matcher.fill(self._words)
            if is_fresh:
                break
        self._failure = None
        if self._matcher.error is not None:
            self._fail(self._matcher.error)
        else:
            self._finish()

    def _finish(self) -> None:
        """Take what is no token out of the mask, and put the request's own ends in."""
        assert self._matcher is not None, "it has begun"
        words, may_end = self._words, self._matcher.may_end
        words &= self._grammar.known_words
        for token_id in self.end_token_ids:
            words[token_id // 32] &= ~np.uint32(1 << token_id % 32)
        can_go_on = bool(words.any())
        self._is_complete = may_end and not can_go_on
        if may_end and (not can_go_on or len(self._said) >= self._min_tokens):
            for token_id in self.end_token_ids:
                words[token_id // 32] |= np.uint32(1 << token_id % 32)
        if not may_end and not can_go_on:
            self._fail("no token of this model fits, or only one that ends the answer")
