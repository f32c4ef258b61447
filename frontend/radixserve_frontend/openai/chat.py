"""``POST /v1/chat/completions``: messages in, the assistant's turn out."""

from dataclasses import replace
from typing import Any

from radixserve.engine.interface import Engine
from radixserve.text.token_memory import TokenMemory
from radixserve_frontend.breakpoints import prefix_marks
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.conversation import Conversation, prepare_chat
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
from radixserve_frontend.openai.chat_reply import ChatReply
from radixserve_frontend.openai.conversing import conversation_of
from radixserve_frontend.openai.marks import message_breakpoints
from radixserve_frontend.openai.params import (
    cache_hints,
    cache_namespace,
    chat_params,
    max_tokens_field,
)
from radixserve_frontend.openai.reply import Envelope
from radixserve_frontend.openai.response_format import content_grammar
from radixserve_frontend.openai.schema import ChatRequest
from radixserve_frontend.validation import validate


class ChatDialect:
    """Implements ``dialect.Dialect``."""

    endpoint = "/v1/chat/completions"

    def __init__(self, engine: Engine, memory: TokenMemory, config: ServerConfig) -> None:
        self._engine = engine
        self._memory = memory
        self._config = config

    def shape_error(self, answer: ErrorAnswer) -> dict[str, Any]:
        """See ``Dialect.shape_error``."""
        return openai_error(answer)

    def prepare(self, body: bytes, arrival: Arrival) -> Prepared:
        """See ``Dialect.prepare``."""
        request = validate(ChatRequest, decode_json(body))
        check_model(request.model, self._config)
        check_stream_options(request)
        check_not_streamed("prompt_logprobs", request.prompt_logprobs is not None, request)
        params = chat_params(request)
        check_choices(1, params.n, self._config)
        tokenizer = self._engine.tokenizer
        grammar = content_grammar(request)
        conversation = conversation_of(request, grammar.spec)
        namespace = cache_namespace(request, arrival.caller)
        chat = prepare_chat(self._memory, namespace, conversation, params)
        breakpoints = message_breakpoints(request.messages, conversation.messages)
        marks = prefix_marks(self._memory, namespace, conversation, chat.prompt_ids, breakpoints)
        envelope = Envelope(
            response_id=f"chatcmpl-{arrival.request_id}",
            model=request.model,
            with_usage=request.wants_stream_usage,
        )
        return Prepared(
            job=Job(
                prompts=[chat.prompt_ids],
                tail=chat.tail,
                params=chat.params,
                namespace=namespace,
                tenant=arrival.caller.tenant,
                priority=request.priority or 0,
                deadline_s=request.timeout,
                hints=replace(
                    cache_hints(request, returns_soon=_may_call(conversation)), marks=marks
                ),
                continues_prompt=conversation.continues_last,
                visible_ids=chat.visible_ids,
            ),
            reply=ChatReply(
                envelope,
                tokenizer,
                n=params.n,
                new_parser=chat.new_parser,
                is_plain=chat.is_plain,
                with_scores=request.prompt_logprobs is not None,
            ),
            stream=request.wants_stream,
            cache_report=request.wants_cache_report,
            conversation=conversation,
            field_names={
                "prompt": "messages",
                "max_tokens": max_tokens_field(request),
                "grammar": grammar.field if grammar.spec is not None else chat.grammar_field,
            },
        )


def _may_call(conversation: Conversation) -> bool:
    """Whether the answer may call tools. Such a conversation comes back with their results; that
    has to be said when it starts, when nobody knows yet what the answer will be."""
    return bool(conversation.tools) and conversation.tool_choice != "none"
