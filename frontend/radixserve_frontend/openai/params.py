"""From a request's fields to ``SamplingParams``: renamed, not judged. Ranges are checked there."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from radixserve.errors import InvalidRequestError
from radixserve.ids import Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.types import CacheHints
from radixserve_frontend.caller import Caller
from radixserve_frontend.openai.schema import ChatRequest, CompletionRequest, GenerationRequest
from radixserve_frontend.validation import show

MAX_CACHE_SALT_CHARS = 512


class HasCacheSalt(Protocol):
    """Whatever request may name a part of the cache."""

    @property
    def cache_salt(self) -> str | None: ...


def chat_params(request: ChatRequest) -> SamplingParams:
    """*Raises* ``InvalidRequestError`` naming the field for a value out of range."""
    if request.top_logprobs is not None and not request.logprobs:
        raise InvalidRequestError(
            f"top_logprobs is {request.top_logprobs}, but logprobs is not true; "
            "set logprobs to true or leave top_logprobs out",
            param="top_logprobs",
        )
    return _params(
        request,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        max_tokens=getattr(request, max_tokens_field(request)),
        names={"max_tokens": max_tokens_field(request)},
        n=request.n,
    )


def max_tokens_field(request: ChatRequest) -> str:
    """Which of its two names limits the answer: the newer wins where both are sent."""
    return "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"


def completion_params(request: CompletionRequest) -> SamplingParams:
    """*Raises* ``InvalidRequestError`` naming the field for a value out of range."""
    n = 1 if request.n is None else request.n
    best_of = n if request.best_of is None else request.best_of
    if best_of < n:
        raise InvalidRequestError(
            f"best_of is {show(best_of)} and n is {show(n)}; of best_of candidates the n best are "
            "returned, so it must be at least n",
            param="best_of",
        )
    logprobs = request.logprobs
    params = _params(
        request,
        logprobs=0 if logprobs is None and best_of > n else logprobs,
        # One at least is generated, and where none is wanted it is not told.
        max_tokens=1 if request.wants_only_prompt else request.max_tokens,
        names={"n": "best_of"} if best_of > n else {},
        n=best_of,
    )
    if request.echo and logprobs is not None and request.prompt_logprobs is None:
        params = replace(params, prompt_logprobs=logprobs)
    return params


def cache_namespace(request: HasCacheSalt, caller: Caller) -> Namespace:
    """The radix tree's root for this request: other tenants, and other salts, share nothing."""
    salt = request.cache_salt or ""
    if len(salt) > MAX_CACHE_SALT_CHARS:
        raise InvalidRequestError(
            f"cache_salt has {len(salt)} characters; at most {MAX_CACHE_SALT_CHARS} are accepted",
            param="cache_salt",
        )
    return caller.namespace(salt)


def cache_hints(request: GenerationRequest, *, returns_soon: bool = False) -> CacheHints:
    """What the request says about when its prompt comes back."""
    control = request.cache_control
    return CacheHints(keep_s=0.0 if control is None else control.ttl, returns_soon=returns_soon)


def _params(
    request: GenerationRequest,
    *,
    logprobs: int | None,
    max_tokens: int | None,
    names: Mapping[str, str],
    n: int | None,
) -> SamplingParams:
    stop = request.stop
    try:
        return SamplingParams(
            n=1 if n is None else n,
            temperature=request.temperature,
            top_k=request.top_k,
            top_p=request.top_p,
            min_p=request.min_p,
            repetition_penalty=request.repetition_penalty,
            presence_penalty=request.presence_penalty or 0.0,
            frequency_penalty=request.frequency_penalty or 0.0,
            logit_bias=_logit_bias(request.logit_bias or {}),
            seed=request.seed,
            max_tokens=max_tokens,
            min_tokens=request.min_tokens or 0,
            stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
            stop_token_ids=tuple(request.stop_token_ids or ()),
            ignore_eos=bool(request.ignore_eos),
            logprobs=logprobs,
            prompt_logprobs=request.prompt_logprobs,
            skip_special_tokens=(
                True if request.skip_special_tokens is None else request.skip_special_tokens
            ),
            include_stop=bool(request.include_stop_str_in_output),
        )
    except InvalidRequestError as error:
        name = names.get(error.param or "")
        if name is None or error.param is None:
            raise
        raise InvalidRequestError(
            re.sub(rf"\b{error.param}\b", name, error.message), param=name, code=error.code
        ) from None


def _logit_bias(bias: Mapping[str, float]) -> dict[int, float]:
    """JSON's keys are strings; ours are token ids."""
    result = {}
    for key, value in bias.items():
        # isdecimal() alone also takes other scripts' digits; 10 digits hold every token id.
        if not (key.isascii() and key.isdecimal() and len(key) <= 10):
            raise InvalidRequestError(
                f"logit_bias has the key {show(key)}; keys must be token ids, as in "
                '{"50256": -100}',
                param="logit_bias",
            )
        result[int(key)] = value
    return result
