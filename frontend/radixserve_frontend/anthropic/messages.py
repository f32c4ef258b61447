"""``POST /v1/messages`` and ``POST /v1/messages/count_tokens``."""

from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from radixserve.engine.interface import Engine
from radixserve.errors import InvalidRequestError
from radixserve.sampling.params import SamplingParams
from radixserve.text.token_memory import TokenMemory
from radixserve_frontend.anthropic.conversion import convert
from radixserve_frontend.anthropic.errors import anthropic_error
from radixserve_frontend.anthropic.reply import MessageFacts, MessageReply
from radixserve_frontend.anthropic.schema import CountTokensRequest, MessagesRequest
from radixserve_frontend.body import in_thread, read_json_body
from radixserve_frontend.breakpoints import conversation_hints
from radixserve_frontend.caller import Caller, caller_of
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.conversation import prepare_chat
from radixserve_frontend.dialect import Arrival, Prepared, check_model
from radixserve_frontend.generation import Job
from radixserve_frontend.http_errors import ErrorAnswer, json_response
from radixserve_frontend.json_text import decode_json
from radixserve_frontend.lifecycle import Lifecycle
from radixserve_frontend.openai.params import cache_namespace
from radixserve_frontend.record import record_of
from radixserve_frontend.validation import validate

_NAMES = {
    "stop": "stop_sequences",
    "prompt": "messages",
    "response_format": "output_config.format",
}
"""What Anthropic calls the fields that others blame."""


class MessagesDialect:
    """Implements ``dialect.Dialect``."""

    endpoint = "/v1/messages"

    def __init__(self, engine: Engine, memory: TokenMemory, config: ServerConfig) -> None:
        self._engine = engine
        self._memory = memory
        self._config = config

    def shape_error(self, answer: ErrorAnswer) -> dict[str, Any]:
        """See ``Dialect.shape_error``."""
        return anthropic_error(answer)

    def prepare(self, body: bytes, arrival: Arrival) -> Prepared:
        """See ``Dialect.prepare``."""
        request = validate(MessagesRequest, decode_json(body))
        check_model(request.model, self._config)
        converted = convert(request)
        params = _params(request)
        namespace = cache_namespace(request, arrival.caller)
        chat = prepare_chat(self._memory, namespace, converted.conversation, params)
        hints = conversation_hints(
            self._memory,
            namespace,
            converted.conversation,
            chat.prompt_ids,
            converted.breakpoints,
        )
        # Clients ask for more than a small model's context leaves, and expect what Anthropic's
        # models do then: an answer as long as there is room.
        is_context_limited = request.max_tokens > self._room(len(chat.prompt_ids))
        params = replace(chat.params, max_tokens=None) if is_context_limited else chat.params
        facts = MessageFacts(
            request_id=arrival.request_id,
            model=request.model,
            prompt_tokens=len(chat.prompt_ids),
            marks=hints.marks,
            shows_thinking=request.thinking is None or request.thinking.display != "omitted",
            is_context_limited=is_context_limited,
            is_warm_up=request.max_tokens == 0,
        )
        return Prepared(
            job=Job(
                prompts=[chat.prompt_ids],
                tail=chat.tail,
                params=params,
                namespace=namespace,
                tenant=arrival.caller.tenant,
                priority=request.priority or 0,
                deadline_s=request.timeout,
                hints=hints,
                continues_prompt=converted.conversation.continues_last,
                visible_ids=chat.visible_ids,
            ),
            reply=MessageReply(facts, chat.new_parser()),
            stream=bool(request.stream),
            cache_report=bool(request.cache_report),
            conversation=converted.conversation,
            field_names={**_NAMES, "grammar": _NAMES.get(chat.grammar_field, chat.grammar_field)},
        )

    def _room(self, num_prompt_tokens: int) -> int:
        """How long an answer can be."""
        info = self._engine.info
        pool_room = info.num_pages * info.page_size - num_prompt_tokens + 1
        return min(info.max_model_len - num_prompt_tokens, pool_room)


class CountTokensEndpoint:
    """Says how many tokens a message's prompt has; nothing is computed for it."""

    endpoint = "/v1/messages/count_tokens"

    def __init__(self, memory: TokenMemory, config: ServerConfig, lifecycle: Lifecycle) -> None:
        self._memory = memory
        self._config = config
        self._lifecycle = lifecycle

    async def count(self, request: Request) -> Response:
        """Answer one POST. *Raises* ``InvalidRequestError``."""
        record = record_of(request.scope)
        record.shape_error = anthropic_error
        with self._lifecycle.receiving():
            body = await read_json_body(request, self._config.max_body_bytes)
        caller = caller_of(request.scope)
        num_tokens = await in_thread(request, body, self._count, caller)
        return json_response({"input_tokens": num_tokens})

    def _count(self, body: bytes, caller: Caller) -> int:
        request = validate(CountTokensRequest, decode_json(body))
        check_model(request.model, self._config)
        conversation = convert(request).conversation
        chat = prepare_chat(self._memory, caller.namespace(), conversation, SamplingParams())
        return len(chat.prompt_ids)


def _params(request: MessagesRequest) -> SamplingParams:
    """*Raises* ``InvalidRequestError`` naming the field for a value out of range."""
    try:
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            seed=request.seed,
            # A prompt cannot run without a token coming out of it; a warm-up's is thrown away.
            max_tokens=max(1, request.max_tokens),
            stop=tuple(request.stop_sequences or ()),
            ignore_eos=bool(request.ignore_eos),
        )
    except InvalidRequestError as error:
        name = _NAMES.get(error.param or "")
        if name is None or error.param is None:
            raise
        raise InvalidRequestError(
            error.message.replace(error.param, name), param=name, code=error.code
        ) from None
