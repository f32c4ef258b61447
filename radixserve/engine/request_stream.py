"""One request's text as it comes: the tokens of its choices become deltas that wait to be read.

Each token delta becomes text (``text/stream.py``) when it arrives, so a stop string is noticed, and
the rest of the choice aborted, whether or not anybody reads the stream just then. Who reads slowly
gets many deltas as one: what waits takes the room of the answer, not that of a thousand deltas.
Knows no process; which engine the tokens came from, and whether one has died in between, does not
show.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace

from radixserve.engine.interface import TextDelta
from radixserve.errors import DeadlineError
from radixserve.ids import RequestId
from radixserve.text.stream import ChoiceText
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import EngineRequest, FinishReason, TokenDelta

MAX_UNREAD_DELTAS = 64
"""Above twice this, and one a choice, what waits to be read is put together."""

Abort = Callable[[RequestId, int | None], None]


class RequestStream:
    """Implements ``interface.TextStream``. Made by ``AsyncEngine.submit``, fed by its engine.

    ``abort`` ends the request, or one of its choices, in the engine; it neither waits nor raises.
    """

    def __init__(
        self,
        request: EngineRequest,
        tokenizer: Tokenizer,
        abort: Abort,
        *,
        continues_prompt: bool,
        visible_ids: frozenset[int],
    ) -> None:
        self.request_id = request.request_id
        self._abort = abort
        self._choices = {
            index: ChoiceText(
                tokenizer,
                request.params,
                continues_prompt=continues_prompt,
                visible_ids=visible_ids,
            )
            for index in range(request.params.n)
        }
        """The choices that have not ended."""
        self._deltas: deque[TextDelta] = deque()
        self._arrived = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        self._failure: DeadlineError | None = None
        """Raised once what came before has been read."""
        self._max_unread = 2 * MAX_UNREAD_DELTAS + request.params.n
        self._submitted_s = time.monotonic()
        self.queued_s: float | None = None

    def __aiter__(self) -> AsyncIterator[TextDelta]:
        return self

    async def __anext__(self) -> TextDelta:
        while not self._deltas:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self.is_finished:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._deltas.popleft()

    async def aclose(self) -> None:
        """Abort what has not ended; iteration ends. Idempotent."""
        if not self.is_finished:
            self._choices.clear()
            self._arrived.set()
            self._abort(self.request_id, None)

    @property
    def is_finished(self) -> bool:
        return not self._choices

    def expire_in(self, deadline_s: float) -> None:
        """Abort what has not ended in so many seconds; whoever reads then gets ``DeadlineError``,
        after what came before."""
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(deadline_s, self._expire, deadline_s)

    def _expire(self, deadline_s: float) -> None:
        self._failure = DeadlineError(
            f"the {deadline_s:g} s that this request was given are up; what it had not said by "
            "then is lost"
        )
        self._choices.clear()
        self._arrived.set()
        self._abort(self.request_id, None)

    def forgotten(self) -> None:
        """The engine knows this stream no more: its time no longer matters."""
        if self._deadline is not None:
            self._deadline.cancel()

    def feed(self, delta: TokenDelta) -> None:
        """Take what the engine made of one choice. What comes after its end is ignored."""
        choice = self._choices.get(delta.index)
        if choice is None:
            return
        step = choice.feed(delta)
        if step.abort:
            self._abort(self.request_id, delta.index)
        if choice.is_finished:
            del self._choices[delta.index]
        self._deltas.append(
            TextDelta(
                index=delta.index,
                text=step.text,
                token_ids=step.token_ids,
                logprobs=step.logprobs,
                finish_reason=step.finish_reason,
                stop_reason=step.stop_reason,
                num_cached_tokens=delta.num_cached_tokens,
                cache_report=delta.cache_report,
                prompt_logprobs=delta.prompt_logprobs,
                error=delta.error,
            )
        )
        if len(self._deltas) > self._max_unread:
            self._deltas = _merged(self._deltas)
        self._arrived.set()

    def admitted(self) -> None:
        """It has left the queue, for the first time."""
        if self.queued_s is None:
            self.queued_s = time.monotonic() - self._submitted_s

    def end(self, reason: FinishReason, error: str) -> None:
        """End every choice that has not ended, for a reason that is not the answer's own."""
        for index in tuple(self._choices):
            self.feed(
                TokenDelta(
                    request_id=self.request_id,
                    index=index,
                    token_ids=[],
                    finish_reason=reason,
                    error=error,
                )
            )


def _merged(deltas: Iterable[TextDelta]) -> deque[TextDelta]:
    """One delta a choice, which says all that the given ones do. *Cost*: O(what they hold)."""
    by_choice: dict[int, list[TextDelta]] = {}
    for delta in deltas:
        by_choice.setdefault(delta.index, []).append(delta)
    return deque(map(_joined, by_choice.values()))


def _joined(deltas: Sequence[TextDelta]) -> TextDelta:
    """Of one choice, in their order. What comes once came with the first; the end is the last's."""
    first, last = deltas[0], deltas[-1]
    has_logprobs = any(delta.logprobs is not None for delta in deltas)
    logprobs = [entry for delta in deltas for entry in delta.logprobs or ()]
    return replace(
        last,
        text="".join(delta.text for delta in deltas),
        token_ids=[token_id for delta in deltas for token_id in delta.token_ids],
        logprobs=logprobs if has_logprobs else None,
        num_cached_tokens=max(delta.num_cached_tokens for delta in deltas),
        cache_report=first.cache_report,
        prompt_logprobs=first.prompt_logprobs,
    )
