"""What is told of a choice whenever it gets a token, or ends.

Knows requests, and neither queues nor pages. *Cost*: O(1), but for what is told once.
"""

from typing import Final

from radixserve.request import Request
from radixserve.types import FinishReason, SampledToken, TokenDelta, TokenLogprob

_BROKEN_LOGITS: Final = (
    "no token could be chosen: the model's logits are not numbers, or every token is forbidden"
)


def delta_of(
    request: Request, token: SampledToken | None = None, *, error: str | None = None
) -> TokenDelta:
    """What ``token``, or its end, adds to a choice. *Mutates* the request: what is told once, its
    cache report and its prompt's log-probabilities, is taken from it."""
    cache_report, request.cache_report = request.cache_report, None
    prompt_logprobs: list[TokenLogprob | None] | None = None
    if token is not None and request.prompt_logprobs is not None:
        prompt_logprobs, request.prompt_logprobs = [None, *request.prompt_logprobs], None
    return TokenDelta(
        request_id=request.request_id,
        index=request.index,
        token_ids=[token.token_id] if token is not None else [],
        logprobs=[token.logprob] if token is not None and token.logprob is not None else None,
        finish_reason=request.finish_reason,
        stop_token_id=(
            token.token_id if token is not None and request.finish_reason == "stop" else None
        ),
        num_cached_tokens=request.num_cached_tokens or 0,
        cache_report=cache_report,
        prompt_logprobs=prompt_logprobs,
        error=error,
    )


def end_without_token(request: Request) -> tuple[FinishReason, str | None]:
    """How a request ends for which no token could be chosen: the reason, and the error if it is
    one."""
    constraint = request.constraint
    if constraint is not None and not request.stop_token_ids and constraint.is_complete:
        # Its answer is whole, and there is no token to say so.
        return "stop", None
    failure = constraint.failure if constraint is not None else None
    return "error", failure or _BROKEN_LOGITS
