"""The requests in flight, with all that their clients have been given: enough to go on elsewhere.

What is known here is the truth. Tokens that an engine sampled and did not deliver before it died
never were; they are sampled again, and come out the same where sampling is exact, because the noise
of a token is a function of seed and position.

    engine 1   prompt, t0 t1 t2        delivered: t0 t1 t2
               ... t3 t4 and dies      lost
    engine 2   prompt + t0 t1 t2       delivered: t3 t4 t5 ...

What a request's first admission found in the cache is told once and stays as it was told: a second
one after a death is no business of the client's.

Knows no process and no text. *Cost*: O(1) a token and a list entry of memory.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from radixserve.ids import RequestId
from radixserve.types import EngineRequest, ResumedChoice, TokenDelta

SETTLED_TOKENS: Final = 4
"""Further than any engine was ahead of what it had delivered: it plans at most two steps ahead."""


class LiveRequest:
    """One request and the answers of its choices that have not ended."""

    __slots__ = (
        "_answers",
        "_at_start",
        "_is_resumed",
        "_num_cached_tokens",
        "has_settled",
        "request",
        "was_sent",
    )

    def __init__(self, request: EngineRequest) -> None:
        assert not request.resumed, "a request is registered when it is new"
        self.request = request
        self._answers: dict[int, list[int]] = {index: [] for index in range(request.params.n)}
        self._at_start = dict.fromkeys(self._answers, 0)
        """How many tokens of each choice there were when this engine got it."""
        self._num_cached_tokens: int | None = None
        """What was told of its first admission, once it has been."""
        self._is_resumed = False
        """Whether it went on in this engine from what it had said in another."""
        self.has_settled = False
        """Whether each choice has got on in this engine by ``SETTLED_TOKENS``, or ended."""
        self.was_sent = False
        """Whether an engine has ever had it."""

    @property
    def is_finished(self) -> bool:
        return not self._answers

    @property
    def indices(self) -> list[int]:
        """The choices that have not ended."""
        return list(self._answers)

    def take(self, delta: TokenDelta) -> TokenDelta | None:
        """What an engine says, as the client is to be told; None if the choice has ended."""
        answer = self._answers.get(delta.index)
        if answer is None:
            return None
        answer += delta.token_ids
        if delta.finish_reason is not None:
            del self._answers[delta.index]
        if not self.has_settled:
            self._observe()
        if self._num_cached_tokens is None:
            self._num_cached_tokens = delta.num_cached_tokens
        elif self._is_resumed:
            return replace(
                delta,
                num_cached_tokens=self._num_cached_tokens,
                cache_report=None,
                prompt_logprobs=None,
            )
        return delta

    def end(self, index: int) -> None:
        """A choice was aborted. Ignored if it has ended."""
        self._answers.pop(index, None)

    def begin(self) -> EngineRequest:
        """It goes to an engine that does not have it: the request to be sent there."""
        self.was_sent = True
        self.has_settled = False
        self._at_start = {index: len(answer) for index, answer in self._answers.items()}
        self._is_resumed = any(self._at_start.values())
        if not self._is_resumed:
            return self.request
        params, ends = self.request.params, set(self.request.end_token_ids)
        assert params.max_tokens is not None, "params are resolved"
        for index, answer in self._answers.items():
            # All choices begin in one step, whose deltas arrive as one message.
            assert answer, f"choice {index} has not begun, and others have"
            assert len(answer) < params.max_tokens, f"choice {index} is as long as it may be"
            assert answer[-1] not in ends, f"choice {index} has ended"
        return replace(
            self.request,
            resumed=[
                ResumedChoice(index=index, token_ids=list(answer))
                for index, answer in self._answers.items()
            ],
        )

    def _observe(self) -> None:
        self.has_settled = all(
            len(answer) - self._at_start[index] >= SETTLED_TOKENS
            for index, answer in self._answers.items()
        )


class Registry:
    """All requests in flight, in the order in which they came."""

    def __init__(self) -> None:
        self._requests: dict[RequestId, LiveRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[RequestId]:
        return iter(tuple(self._requests))

    def add(self, request: EngineRequest) -> LiveRequest:
        """Take in a new request."""
        live = self._requests[request.request_id] = LiveRequest(request)
        return live

    def get(self, request_id: RequestId) -> LiveRequest | None:
        return self._requests.get(request_id)

    def pop(self, request_id: RequestId) -> LiveRequest | None:
        """Forget a request."""
        return self._requests.pop(request_id, None)
