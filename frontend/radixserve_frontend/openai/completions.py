"""``POST /v1/completions``: a prompt, or several, as text or token ids; their continuations out."""

from typing import Any, Final

from radixserve.engine.interface import Engine, TextDelta
from radixserve.errors import InvalidRequestError
from radixserve.text.tokenizer import Tokenizer
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.dialect import (
    Arrival,
    Prepared,
    Totals,
    check_choices,
    check_model,
    check_stream_options,
)
from radixserve_frontend.generation import Job
from radixserve_frontend.http_errors import ErrorAnswer, openai_error
from radixserve_frontend.json_text import decode_json, encode_json
from radixserve_frontend.openai.logprobs import completion_logprobs, next_offset
from radixserve_frontend.openai.params import cache_hints, cache_namespace, completion_params
from radixserve_frontend.openai.reply import CollectedChoice, Envelope, break_off
from radixserve_frontend.openai.schema import CompletionRequest
from radixserve_frontend.validation import validate

# OpenAI's name for chunks and answers alike.
_KIND: Final = "text_completion"


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
        params = completion_params(request)
        prompts = request.prompts()
        check_choices(len(prompts), params.n, self._config)
        tokenizer = self._engine.tokenizer
        prompt_ids = [
            tokenizer.encode(prompt) if isinstance(prompt, str) else prompt for prompt in prompts
        ]
        for number, ids in enumerate(prompt_ids):
            if not ids:
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
                prompts=prompt_ids,
                params=params,
                namespace=cache_namespace(request, arrival.caller),
                tenant=arrival.caller.tenant,
                hints=cache_hints(request),
                continues_prompt=True,
            ),
            reply=CompletionReply(envelope, tokenizer, num_choices=len(prompt_ids) * params.n),
            stream=request.wants_stream,
            cache_report=request.wants_cache_report,
        )


class CompletionReply:
    """Implements ``dialect.Reply``. Mutable, one per request."""

    def __init__(self, envelope: Envelope, tokenizer: Tokenizer, *, num_choices: int) -> None:
        self._envelope = envelope
        self._tokenizer = tokenizer
        self._head, self._tail = envelope.chunk_parts(_KIND)
        # Where each choice's next token begins, in characters of its tokens' texts.
        self._offsets = [0] * num_choices
        self._choices = [CollectedChoice() for _ in range(num_choices)]

    def chunk(self, index: int, delta: TextDelta) -> bytes:
        """See ``Reply.chunk``."""
        if not (delta.text or delta.logprobs or delta.finish_reason):
            return b""
        event: dict[str, Any] = {
            "index": index,
            "text": delta.text,
            "logprobs": None,
            "finish_reason": delta.finish_reason,
        }
        if delta.logprobs is not None:
            offset = self._offsets[index]
            event["logprobs"] = completion_logprobs(delta.logprobs, self._tokenizer, offset)
            self._offsets[index] = next_offset(event["logprobs"], offset)
        if delta.finish_reason is not None:
            event["stop_reason"] = delta.stop_reason
        return self._head + encode_json(event) + self._tail

    def end(self, totals: Totals) -> bytes:
        """See ``Reply.end``."""
        return self._envelope.end(_KIND, totals)

    def fail(self, answer: ErrorAnswer) -> bytes:
        """See ``Reply.fail``."""
        return break_off(answer)

    def add(self, index: int, delta: TextDelta) -> None:
        """See ``Reply.add``."""
        self._choices[index].add(delta)

    def answer(self, totals: Totals) -> dict[str, Any]:
        """See ``Reply.answer``."""
        choices = [
            {
                "index": index,
                "text": choice.text,
                "logprobs": (
                    None
                    if choice.logprobs is None
                    else completion_logprobs(choice.logprobs, self._tokenizer, 0)
                ),
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return self._envelope.answer(_KIND, choices, totals)
