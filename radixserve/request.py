"""One choice of one request on its way through the engine: its tokens, and how many are computed.

A ``Request`` is mutable state owned by the scheduler; the runner only reads it. Its tokens live in
one int32 buffer so that any run of them is a view:

    |------------- prompt -------------|------ answer ------|
    0          num_computed_tokens                     num_tokens
    |== keys and values in pages ==|---- still to run ------|

A decoding request has exactly one token still to run (the last sampled one); a new or preempted one
has many. Nothing else distinguishes prefill from decode.

Steps may be planned before the results of those launched earlier are known. Then a request is
further on than the host has seen. In the middle of a long prompt, and while decoding:

    0        num_computed_tokens   num_launched_tokens                       num_tokens
    |== known to be computed ==|== in flight ==|----------- still to run -----------|

    0                     num_computed_tokens  num_tokens  num_foreseen_tokens
    |=========== known to be computed ==========|= in flight =|- still to run -|
                                                              |<-- pending --->|

A *pending* token is one that a step in flight samples: its place is known, its id is not. It always
is the last of the foreseen ones, and the only one still to run. With nothing in flight
``num_launched_tokens == num_computed_tokens`` and ``num_pending_tokens == 0``.
"""

from collections.abc import Sequence
from enum import Enum

import numpy as np

from radixserve.cache.prefix_cache import Lease, Use
from radixserve.ids import Namespace, RequestId, TokenArray
from radixserve.sampling.constraint import Constraint
from radixserve.sampling.params import SamplingParams
from radixserve.types import NO_HINTS, CacheHints, CacheReport, FinishReason, TokenLogprob


class Status(Enum):
    """Where a request is. ``WAITING`` covers new and preempted alike."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Request:
    """Tokens and progress of one choice.

    ``params`` are resolved. ``lease`` is the request's hold on the cache while it runs, else None.
    """

    __slots__ = (
        # Whoever keeps something for as long as a request lives refers to it weakly.
        "__weakref__",
        "_buffer",
        "arrival",
        "cache_report",
        "constraint",
        "finish_reason",
        "hints",
        "index",
        "lease",
        "namespace",
        "num_cached_tokens",
        "num_computed_tokens",
        "num_launched_tokens",
        "num_matched_before_wait",
        "num_pending_tokens",
        "num_prompt_tokens",
        "num_tokens",
        "params",
        "priority",
        "prompt_logprobs",
        "request_id",
        "status",
        "stop_token_ids",
        "tenant",
        "use",
    )

    def __init__(
        self,
        request_id: RequestId,
        prompt_ids: TokenArray,
        params: SamplingParams,
        *,
        namespace: Namespace,
        stop_token_ids: frozenset[int],
        arrival: int,
        index: int = 0,
        hints: CacheHints = NO_HINTS,
        use: Use | None = None,
        tenant: str = "",
        priority: int = 0,
    ) -> None:
        self.request_id = request_id
        self.index = index
        self.params = params
        self.namespace = namespace
        self.hints = hints
        self.tenant = tenant
        self.priority = priority
        """Smaller goes first, among the requests of one tenant."""
        self.use = Use() if use is None else use
        """What counts as used by it: one of all its choices, whatever happens to them."""
        self.stop_token_ids = stop_token_ids
        """Every token id that ends this request: the model's, unless ignored, and its own."""
        self.arrival = arrival
        """Ordinal of arrival: a logical clock, so that order never depends on a timer."""
        self.num_prompt_tokens = len(prompt_ids)
        self.num_tokens = len(prompt_ids)
        self.num_computed_tokens = 0
        """Known to have keys and values in the lease's pages."""
        self.num_launched_tokens = 0
        """Those, and the ones that steps in flight compute: where the next row starts."""
        self.num_pending_tokens = 0
        """Tokens that steps in flight sample and that nobody knows yet."""
        self.num_cached_tokens: int | None = None
        """Set at first admission and never changed: what usage reports."""
        self.num_matched_before_wait: int | None = None
        """What the cache held of it when it was first deferred behind a producer, if it was."""
        self.cache_report: CacheReport | None = None
        """Set at first admission, taken by the request's first delta."""
        self.prompt_logprobs: list[TokenLogprob] | None = (
            None if params.prompt_logprobs is None else []
        )
        """If it asked: of the prompt's tokens from the second on, as far as they are known. Its
        first delta takes them."""
        self.constraint: Constraint | None = None
        """What it may say next, if it has a grammar."""
        self.lease: Lease | None = None
        self.status = Status.WAITING
        self.finish_reason: FinishReason | None = None
        self._buffer = np.empty(len(prompt_ids) + 64, dtype=np.int32)
        self._buffer[: len(prompt_ids)] = prompt_ids

    @property
    def token_ids(self) -> TokenArray:
        """All tokens known so far, int32[num_tokens]: a view, not to be kept across ``append``."""
        return self._buffer[: self.num_tokens]

    @property
    def matchable_ids(self) -> TokenArray:
        """Those of its tokens whose keys and values it may take from the cache. One must run, so
        never all; and none whose logits are wanted."""
        end = self.num_tokens - 1
        if self.is_to_score:
            assert self.prompt_logprobs is not None
            end = len(self.prompt_logprobs)
        return self._buffer[:end]

    @property
    def is_to_score(self) -> bool:
        """Whether log-probabilities of its prompt are still to be computed."""
        scores = self.prompt_logprobs
        return scores is not None and len(scores) < self.num_prompt_tokens - 1

    @property
    def prompt_ids(self) -> TokenArray:
        """The prompt: a view."""
        return self._buffer[: self.num_prompt_tokens]

    @property
    def output_ids(self) -> TokenArray:
        """The answer so far: a view."""
        return self._buffer[self.num_prompt_tokens : self.num_tokens]

    @property
    def num_output_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    @property
    def num_foreseen_tokens(self) -> int:
        """Tokens known and pending."""
        return self.num_tokens + self.num_pending_tokens

    @property
    def is_in_flight(self) -> bool:
        """Whether a step that has been launched and is not known yet has a row of it."""
        return self.num_launched_tokens > self.num_computed_tokens

    @property
    def is_to_fork(self) -> bool:
        """Whether it stands for several choices, whose first tokens are not known yet."""
        return self.params.n > 1 and not self.num_output_tokens

    @property
    def max_total_tokens(self) -> int:
        """The most tokens, prompt and answer, that this request can come to."""
        assert self.params.max_tokens is not None, "params are resolved"
        return self.num_prompt_tokens + self.params.max_tokens

    def append(self, token_id: int) -> None:
        """Add one sampled token. Cost: O(1) amortised."""
        if self.num_tokens == len(self._buffer):
            grown = np.empty(2 * len(self._buffer), dtype=np.int32)
            grown[: self.num_tokens] = self._buffer
            self._buffer = grown
        self._buffer[self.num_tokens] = token_id
        self.num_tokens += 1

    def take_scores(self, start: int, scores: Sequence[TokenLogprob]) -> None:
        """Note log-probabilities of the prompt tokens from ``start + 1`` on. Some may be known
        already, from before a preemption; none may be left out."""
        assert self.prompt_logprobs is not None
        num_known = len(self.prompt_logprobs) - start
        assert num_known >= 0, f"{self} has no scores of tokens before {start + 1}"
        self.prompt_logprobs.extend(scores[num_known:])

    def constrain(self, constraint: Constraint) -> None:
        """Hold the answer to a grammar: ``constraint`` is at the beginning of it, and goes over
        what the answer has already. The scheduler tells it of every token from then on."""
        constraint.replay(self.output_ids.tolist())
        self.constraint = constraint

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id}/{self.index} {self.status.value} "
            f"{self.num_computed_tokens}/{self.num_tokens} of prompt {self.num_prompt_tokens})"
        )
