"""``POST /v1/chat/completions``: messages in, the assistant's turn out."""

from typing import Any, Final

from radixserve.engine.interface import Engine, TextDelta
from radixserve.text.tokenizer import Tokenizer
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.conversation import Conversation, prepare_chat
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
from radixserve_frontend.openai.logprobs import chat_logprobs
from radixserve_frontend.openai.params import (
    cache_hints,
    cache_namespace,
    chat_params,
    max_tokens_field,
)
from radixserve_frontend.openai.reply import CollectedChoice, Envelope, break_off
from radixserve_frontend.openai.schema import ChatRequest
from radixserve_frontend.validation import validate

_CHUNK: Final = "chat.completion.chunk"
_ANSWER: Final = "chat.completion"


class ChatDialect:
    """Implements ``dialect.Dialect``."""

    endpoint = "/v1/chat/completions"

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self._engine = engine
        self._config = config

    def shape_error(self, answer: ErrorAnswer) -> dict[str, Any]:
        """See ``Dialect.shape_error``."""
        return openai_error(answer)

    def prepare(self, body: bytes, arrival: Arrival) -> Prepared:
        """See ``Dialect.prepare``."""
        request = validate(ChatRequest, decode_json(body))
        check_model(request.model, self._config)
        check_stream_options(request)
        params = chat_params(request)
        check_choices(1, params.n, self._config)
        tokenizer = self._engine.tokenizer
        conversation = Conversation(messages=[message.as_dict() for message in request.messages])
        chat = prepare_chat(tokenizer, conversation, params)
        envelope = Envelope(
            response_id=f"chatcmpl-{arrival.request_id}",
            model=request.model,
            with_usage=request.wants_stream_usage,
        )
        return Prepared(
            job=Job(
                prompts=[chat.prompt_ids],
                params=chat.params,
                namespace=cache_namespace(request, arrival.caller),
                tenant=arrival.caller.tenant,
                hints=cache_hints(request),
                continues_prompt=False,
                visible_ids=chat.visible_ids,
            ),
            reply=ChatReply(envelope, tokenizer, n=params.n),
            stream=request.wants_stream,
            cache_report=request.wants_cache_report,
            field_names={"prompt": "messages", "max_tokens": max_tokens_field(request)},
        )


class ChatReply:
    """Implements ``dialect.Reply``. Mutable, one per request."""

    def __init__(self, envelope: Envelope, tokenizer: Tokenizer, *, n: int) -> None:
        self._envelope = envelope
        self._tokenizer = tokenizer
        self._head, self._tail = envelope.chunk_parts(_CHUNK)
        self._n = n
        self._has_begun = False
        self._choices = [CollectedChoice() for _ in range(n)]

    def chunk(self, index: int, delta: TextDelta) -> bytes:
        """See ``Reply.chunk``. The choices' first events carry their roles.

        All choices begin at once and in their order, because OpenAI's client puts a stream's
        choices together in the order of their first events; and together with the first token, not
        before, because a client that times its first event measures the first token.
        """
        if not (delta.text or delta.logprobs or delta.finish_reason):
            return b""
        events = b""
        if not self._has_begun:
            self._has_begun = True
            role = {"role": "assistant", "content": ""}
            events = b"".join(self._event(each, role, None) for each in range(self._n))
        return events + self._event(
            index, {"content": delta.text} if delta.text or delta.logprobs else {}, delta
        )

    def end(self, totals: Totals) -> bytes:
        """See ``Reply.end``."""
        return self._envelope.end(_CHUNK, totals)

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
                "message": {
                    "role": "assistant",
                    "content": choice.text,
                    "refusal": None,
                },
                "logprobs": (
                    None
                    if choice.logprobs is None
                    else chat_logprobs(choice.logprobs, self._tokenizer)
                ),
                "finish_reason": choice.finish_reason,
                "stop_reason": choice.stop_reason,
            }
            for index, choice in enumerate(self._choices)
        ]
        return self._envelope.answer(_ANSWER, choices, totals)

    def _event(self, index: int, content: dict[str, Any], delta: TextDelta | None) -> bytes:
        choice: dict[str, Any] = {
            "index": index,
            "delta": content,
            "logprobs": None,
            "finish_reason": None,
        }
        if delta is not None:
            if delta.logprobs is not None:
                choice["logprobs"] = chat_logprobs(delta.logprobs, self._tokenizer)
            if delta.finish_reason is not None:
                choice["finish_reason"] = delta.finish_reason
                choice["stop_reason"] = delta.stop_reason
        return self._head + encode_json(choice) + self._tail
