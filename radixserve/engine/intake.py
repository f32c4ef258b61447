"""The gate of the engine: a prompt and its parameters become a request that can be served.

Everything behind it relies on what is checked here: the prompt is not empty, every token id is in
the model's vocabulary, prompt and answer fit the context and the page pool *together with nothing
else running* (so whatever is admitted can always finish, if need be alone), no parameter is silent,
the seed is set, and every number is a plain one that the engine process's messages can carry.

    |------ prompt ------|-------- max_tokens --------|
    0                                                  <= max_model_len
    |== keys and values ==============================.  <= num_pages * page_size
                                     the last token never has any

A grammar is checked apart, by ``check_grammar``: that takes too long for whoever must not wait.

No I/O and no state but what checks grammars: the same instance serves every thread. Knows no text
beyond naming a token in a message. Cost: O(prompt), vectorised.
"""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from radixserve.engine.grammar_guard import GrammarGuard
from radixserve.errors import ContextLengthError, InvalidRequestError
from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.grammar_compiler import GrammarCompiler
from radixserve.sampling.params import SamplingParams
from radixserve.sampling.token_table import token_table
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import (
    MAX_KEEP_S,
    MAX_PRIORITY,
    NO_HINTS,
    CacheHints,
    EngineInfo,
    EngineRequest,
)

MAX_PROMPT_LOGPROBS: Final = 2**19
"""Most log-probabilities that one prompt may be answered with, alternatives counted."""


class Intake:
    """Admits requests to one engine. ``grammars``: compiles grammars in this process, for callers
    who may write what they like; otherwise they are tried in another one."""

    def __init__(
        self, info: EngineInfo, tokenizer: Tokenizer, grammars: GrammarCompiler | None = None
    ) -> None:
        self._info = info
        self._tokenizer = tokenizer
        self._grammars = grammars
        self._guard = GrammarGuard(lambda: token_table(tokenizer, info.vocab_size))

    def admit(
        self,
        request_id: RequestId,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        hints: CacheHints = NO_HINTS,
        tenant: str = "",
        priority: int = 0,
    ) -> EngineRequest:
        """The request, validated and resolved.

        ``max_tokens`` left open becomes what context and pool leave; a seed left open is drawn from
        the operating system.

        *Raises* ``InvalidRequestError`` naming the field, ``ContextLengthError`` if it cannot fit.
        """
        if not 0 <= hints.keep_s <= MAX_KEEP_S:
            raise InvalidRequestError(
                f"cache_control asks to keep the prompt for {hints.keep_s} s; it must lie in "
                f"[0, {MAX_KEEP_S}]",
                param="cache_control",
            )
        for mark in hints.marks:
            if not 1 <= mark.num_tokens <= len(prompt_ids) or not 0 < mark.keep_s <= MAX_KEEP_S:
                raise InvalidRequestError(
                    f"cache_control asks to keep the first {mark.num_tokens} tokens for "
                    f"{mark.keep_s} s; the prompt has {len(prompt_ids)} tokens, and the time must "
                    f"lie in (0, {MAX_KEEP_S}]",
                    param="cache_control",
                )
        if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
            raise InvalidRequestError(
                f"priority is {priority}; it must lie in [-{MAX_PRIORITY}, {MAX_PRIORITY}], and "
                "the smaller goes first",
                param="priority",
            )
        stop_token_ids = self._check_ids(params.stop_token_ids, "stop_token_ids").tolist()
        biased_ids = self._check_ids(list(params.logit_bias), "logit_bias").tolist()
        prompt, max_tokens = self._check_prompt(prompt_ids, params)
        _check_scores(len(prompt), params)
        end_token_ids = set(stop_token_ids)
        if not params.ignore_eos:
            # Checkpoints disagree with themselves about what ends an answer; each opinion counts,
            # unless it is a token that only the tokenizer knows: sampling cannot ban what is not
            # there.
            opinions = {*self._info.eos_token_ids, *self._tokenizer.eos_token_ids}
            end_token_ids |= {one for one in opinions if one < self._info.vocab_size}
        plain = replace(
            params,
            stop_token_ids=tuple(stop_token_ids),
            logit_bias=dict(zip(biased_ids, params.logit_bias.values(), strict=True)),
        )
        return EngineRequest(
            request_id=request_id,
            prompt_ids=prompt,
            params=plain.resolve(
                self._info.sampling_defaults,
                max_tokens=max_tokens,
                seed=secrets.randbits(63) if params.seed is None else params.seed,
            ),
            end_token_ids=sorted(end_token_ids),
            namespace=namespace,
            hints=hints,
            tenant=tenant,
            priority=priority,
        )

    def check_grammar(self, params: SamplingParams) -> None:
        """Try the request's grammar, if it has one, so that a bad one is refused before anything is
        started. To be called before ``admit``, in a thread where others wait.

        *Raises* ``InvalidRequestError`` (param "grammar", code "invalid_grammar"). *Cost*: see
        ``grammar_guard.py``; nothing for one that was checked lately.
        """
        if params.grammar is None:
            return
        if self._grammars is not None:
            self._grammars.compile(params.grammar)
        else:
            self._guard.check(params.grammar)

    def knows_grammar(self, params: SamplingParams) -> bool:
        """Whether ``check_grammar`` would find nothing wrong, and at once. Never waits. *Raises* as
        it does, for what is known to be bad."""
        if params.grammar is None:
            return True
        if self._grammars is not None:
            return self._grammars.find(params.grammar) is not None
        return self._guard.knows(params.grammar)

    def check_prompt(self, prompt_ids: Sequence[int]) -> list[int]:
        """The prompt, validated as one that one token is to follow. *Raises* as ``admit``."""
        return self._check_prompt(prompt_ids, SamplingParams(max_tokens=1))[0]

    def _check_prompt(
        self, prompt_ids: Sequence[int], params: SamplingParams
    ) -> tuple[list[int], int]:
        """The prompt's ids, and how many tokens its answer may have."""
        if not len(prompt_ids):
            raise InvalidRequestError(
                "the prompt is empty: it has no tokens, and a model needs one to go on from",
                param="prompt",
            )
        # Before anybody looks at the ids: a prompt of millions is refused for its length at once.
        max_tokens = self._fit(len(prompt_ids), params)
        return self._check_ids(prompt_ids, "prompt").tolist(), max_tokens

    def _fit(self, num_prompt: int, params: SamplingParams) -> int:
        """How many tokens the answer may have."""
        info = self._info
        context = f"This model's maximum context length is {info.max_model_len} tokens. However, "
        room = info.max_model_len - num_prompt
        if room < 1:
            raise ContextLengthError(
                f"{context}your prompt has {num_prompt} tokens"
                f"{' and leaves no room for an answer' if room == 0 else ''}. Shorten the prompt.",
                param="prompt",
            )
        # The answer's last token is never computed on, so it needs no slot.
        pool_tokens = info.num_pages * info.page_size
        pool_room = pool_tokens - num_prompt + 1
        pool = (
            f"The KV cache of this server holds {pool_tokens} tokens ({info.num_pages} pages of "
            f"{info.page_size}). However, "
        )
        remedy = "or start the server with a larger --kv-cache-gib or --num-pages."
        if pool_room < 1:
            raise ContextLengthError(
                f"{pool}your prompt has {num_prompt} tokens. Shorten the prompt, {remedy}",
                param="prompt",
            )
        most = min(room, pool_room)
        if params.max_tokens is None:
            if params.min_tokens > most:
                raise ContextLengthError(
                    f"min_tokens is {params.min_tokens}, but your prompt of {num_prompt} tokens "
                    f"leaves room for {most}. Lower min_tokens or shorten the prompt.",
                    param="min_tokens",
                )
            return most
        asked = (
            f"you requested {num_prompt + params.max_tokens} tokens ({num_prompt} in the prompt, "
            f"{params.max_tokens} for the answer). Lower max_tokens to at most {most}, or shorten "
            "the prompt"
        )
        if params.max_tokens > room:
            raise ContextLengthError(f"{context}{asked}.", param="max_tokens")
        if params.max_tokens > pool_room:
            raise ContextLengthError(f"{pool}{asked}, {remedy}", param="max_tokens")
        return params.max_tokens

    def _check_ids(self, ids: Sequence[int], param: str) -> npt.NDArray[np.int64]:
        """The ids as int64[n]. *Raises* ``InvalidRequestError`` if one is not in the vocabulary."""
        if not len(ids):
            return np.empty(0, np.int64)
        try:
            array: npt.NDArray[Any] = np.asarray(ids)
        except (ValueError, OverflowError):
            array = np.empty(0, object)
        # Integers beyond 64 bits make an array of objects, fractions one of floats, lists a matrix.
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InvalidRequestError(
                f"{param} holds something that is not a token id; it must be integers in "
                f"[0, {self._info.vocab_size})",
                param=param,
            )
        outside = np.flatnonzero((array < 0) | (array >= self._info.vocab_size))
        if len(outside):
            place = int(outside[0])
            raise InvalidRequestError(
                f"{param} holds the token id {self._name(int(array[place]))} at position {place}; "
                f"this model's vocabulary is [0, {self._info.vocab_size})",
                param=param,
            )
        return array.astype(np.int64)

    def _name(self, token_id: int) -> str:
        """The id and, if only the tokenizer knows it (some have more tokens than the model), its
        token."""
        text = self._tokenizer.token_text(token_id)
        return f"{token_id} ({text!r})" if text else str(token_id)


def _check_scores(num_prompt: int, params: SamplingParams) -> None:
    if params.prompt_logprobs is None:
        return
    wanted = num_prompt * (params.prompt_logprobs + 1)
    if wanted > MAX_PROMPT_LOGPROBS:
        raise InvalidRequestError(
            f"prompt_logprobs is {params.prompt_logprobs}, which for your prompt of {num_prompt} "
            f"tokens makes {wanted} log-probabilities; at most {MAX_PROMPT_LOGPROBS} are told. "
            "Lower it or shorten the prompt",
            param="prompt_logprobs",
        )
