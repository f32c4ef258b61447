"""``POST /v1/completions``: a prompt, or several, as text or token ids; their continuations out."""

from dataclasses import replace
from typing import Any

from radixserve.engine.interface import Engine
from radixserve.errors import InvalidRequestError
from radixserve.sampling.params import SamplingParams
from radixserve.text.tokenizer import Tokenizer
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.dialect import (
    Arrival,
    Prepared,
    check_choices,
    check_model,
    check_not_streamed,
    check_stream_options,
)
from radixserve_frontend.generation import Job
from radixserve_frontend.http_errors import ErrorAnswer, openai_error
from radixserve_frontend.json_text import decode_json
from radixserve_frontend.openai.completion_reply import CompletionReply, PromptParts, Wanted
from radixserve_frontend.openai.params import cache_hints, cache_namespace, completion_params
from radixserve_frontend.openai.reply import Envelope
from radixserve_frontend.openai.response_format import content_grammar
from radixserve_frontend.openai.schema import CompletionRequest
from radixserve_frontend.validation import validate


class CompletionDialect:
    """Implements ``dialect.Dialect``."""

    endpoint = "/v1/completions"

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self._engine = engine
        self._config = config

    def shape_error(self, answer: ErrorAnswer) -> dict[str, Any]:
        """See ``Dialect.shape_error``."""
        return openai_error(answer)

    def prepare(self, body: bytes, arrival: Arrival) -> Prepared:
        """See ``Dialect.prepare``."""
        request = validate(CompletionRequest, decode_json(body))
        check_model(request.model, self._config)
        check_stream_options(request)
        grammar = content_grammar(request)
        params = replace(completion_params(request), grammar=grammar.spec)
        wanted = _wanted(request, params)
        prompts = request.prompts()
        check_choices(len(prompts), params.n, self._config)
        tokenizer = self._engine.tokenizer
        parts = [_parts(prompt, tokenizer, with_text=wanted.echo) for prompt in prompts]
        for number, each in enumerate(parts):
            if not each.token_ids:
                raise InvalidRequestError(
                    f"{'prompt' if len(prompts) == 1 else f'prompt[{number}]'} is empty; "
                    "at least one token is needed to continue from",
                    param="prompt",
                )
        envelope = Envelope(
            response_id=f"cmpl-{arrival.request_id}",
            model=request.model,
            with_usage=request.wants_stream_usage,
        )
        return Prepared(
            job=Job(
                prompts=[each.token_ids for each in parts],
                params=params,
                namespace=cache_namespace(request, arrival.caller),
                tenant=arrival.caller.tenant,
                priority=request.priority or 0,
                deadline_s=request.timeout,
                hints=cache_hints(request),
                continues_prompt=True,
            ),
            reply=CompletionReply(envelope, tokenizer, parts, wanted),
            stream=request.wants_stream,
            cache_report=request.wants_cache_report,
            field_names={"grammar": grammar.field},
        )


def _wanted(request: CompletionRequest, params: SamplingParams) -> Wanted:
    """*Raises* ``InvalidRequestError`` for what cannot be had in a stream."""
    n = 1 if request.n is None else request.n
    check_not_streamed("best_of", params.n > n, request)
    check_not_streamed("prompt_logprobs", request.prompt_logprobs is not None, request)
    return Wanted(
        n=n,
        best_of=params.n,
        logprobs=request.logprobs is not None,
        echo=bool(request.echo),
        prompt_logprobs=request.prompt_logprobs is not None,
        continuation=not request.wants_only_prompt,
    )


def _parts(prompt: str | list[int], tokenizer: Tokenizer, *, with_text: bool) -> PromptParts:
    if isinstance(prompt, str):
        return PromptParts(prompt, tokenizer.encode(prompt))
    text = tokenizer.decode(prompt, skip_special_tokens=False) if with_text else ""
    return PromptParts(text, prompt)
