"""``POST /v1/responses``: items in, items out, remembered unless asked not to."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from radixserve.engine.interface import Engine
from radixserve.errors import InvalidRequestError
from radixserve.sampling.params import SamplingParams
from radixserve.text.token_memory import TokenMemory
from radixserve_frontend.breakpoints import conversation_hints
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.conversation import prepare_chat
from radixserve_frontend.dialect import Arrival, Prepared, check_model
from radixserve_frontend.generation import Job
from radixserve_frontend.http_errors import ErrorAnswer, openai_error
from radixserve_frontend.json_text import decode_json
from radixserve_frontend.openai.params import cache_namespace
from radixserve_frontend.openai.responses.conversion import Turns, answer_message
from radixserve_frontend.openai.responses.objects import response_frame
from radixserve_frontend.openai.responses.reply import Finished, ResponseReply
from radixserve_frontend.openai.responses.schema import ResponsesRequest
from radixserve_frontend.openai.responses.store import ResponseStore, StoredResponse
from radixserve_frontend.validation import show, validate

_NAMES = {
    "prompt": "input",
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
}
"""What this endpoint calls the fields that others blame."""


# A token's text, its bytes and a number, as the objects that an answer is made of.
_LOGPROB_BYTES: Final = 400


class ResponsesDialect:
    """Implements ``dialect.Dialect``."""

    endpoint = "/v1/responses"

    def __init__(
        self, engine: Engine, memory: TokenMemory, config: ServerConfig, store: ResponseStore
    ) -> None:
        self._engine = engine
        self._memory = memory
        self._config = config
        self._store = store

    def shape_error(self, answer: ErrorAnswer) -> dict[str, Any]:
        """See ``Dialect.shape_error``."""
        return openai_error(answer)

    def prepare(self, body: bytes, arrival: Arrival) -> Prepared:
        """See ``Dialect.prepare``."""
        request = validate(ResponsesRequest, decode_json(body))
        check_model(request.model, self._config)
        tenant = arrival.caller.tenant
        previous = self._previous(request, tenant)
        turns = Turns(request, () if previous is None else previous.messages)
        conversation = turns.conversation()
        namespace = cache_namespace(request, arrival.caller)
        try:
            chat = prepare_chat(self._memory, namespace, conversation, _params(request))
        except InvalidRequestError as error:
            error.param = _NAMES.get(error.param or "", error.param)
            raise
        hints = conversation_hints(
            self._memory, namespace, conversation, chat.prompt_ids, turns.breakpoints
        )
        # Not the request's id, which the client may choose: nobody's stored response may be
        # guessed or overwritten.
        frame = response_frame(f"resp_{uuid.uuid4().hex}", request)
        reply = ResponseReply(
            frame,
            chat.new_parser(),
            self._engine.tokenizer,
            marks=hints.marks,
            keep=(
                self._keeper(
                    tenant,
                    frame.response_id,
                    input_items=_input_items(request),
                    messages=turns.messages,
                    num_prompt_tokens=len(chat.prompt_ids),
                    num_bytes=len(body),
                )
                if request.wants_store
                else _forget
            ),
        )
        return Prepared(
            job=Job(
                prompts=[chat.prompt_ids],
                tail=chat.tail,
                params=chat.params,
                namespace=namespace,
                tenant=tenant,
                priority=request.priority or 0,
                deadline_s=request.timeout,
                hints=hints,
                continues_prompt=False,
                visible_ids=chat.visible_ids,
            ),
            reply=reply,
            stream=bool(request.stream),
            cache_report=bool(request.cache_report),
            conversation=conversation,
            field_names={**_NAMES, "grammar": _NAMES.get(chat.grammar_field, chat.grammar_field)},
        )

    def _keeper(
        self,
        tenant: str,
        response_id: str,
        *,
        input_items: Sequence[Mapping[str, Any]],
        messages: Sequence[Mapping[str, Any]],
        num_prompt_tokens: int,
        num_bytes: int,
    ) -> Callable[[Finished], None]:
        """What to do with the complete answer. All that takes time is done before."""

        def keep(finished: Finished) -> None:
            stored = StoredResponse(
                response=finished.response,
                input_items=input_items,
                messages=[*messages, answer_message(finished.blocks)],
                num_tokens=num_prompt_tokens + finished.num_tokens,
                num_bytes=num_bytes + finished.num_logprobs * _LOGPROB_BYTES,
            )
            self._store.put(tenant, response_id, stored)

        return keep

    def _previous(self, request: ResponsesRequest, tenant: str) -> StoredResponse | None:
        if request.previous_response_id is None:
            return None
        stored = self._store.get(tenant, request.previous_response_id)
        if stored is None:
            raise InvalidRequestError(
                f"the response {show(request.previous_response_id)} is not known here: it was "
                "never stored, or has been deleted, or had to make room for others; send the "
                "whole conversation as input",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return stored


def _forget(finished: Finished) -> None:
    """Nobody asked for it to be kept."""


def _params(request: ResponsesRequest) -> SamplingParams:
    """*Raises* ``InvalidRequestError`` naming the field for a value out of range."""
    if request.top_logprobs and not request.wants_logprobs:
        raise InvalidRequestError(
            f"top_logprobs is {request.top_logprobs}, but include does not have "
            '"message.output_text.logprobs"; put it there or leave top_logprobs out',
            param="top_logprobs",
        )
    try:
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            seed=request.seed,
            max_tokens=request.max_output_tokens,
            logprobs=(request.top_logprobs or 0) if request.wants_logprobs else None,
            ignore_eos=bool(request.ignore_eos),
        )
    except InvalidRequestError as error:
        if error.param != "max_tokens":
            raise
        raise InvalidRequestError(
            error.message.replace("max_tokens", "max_output_tokens"),
            param="max_output_tokens",
            code=error.code,
        ) from None


def _input_items(request: ResponsesRequest) -> Sequence[Mapping[str, Any]]:
    """The request's own items, as they are listed: each with an id, texts as parts."""
    items: list[dict[str, Any]] = []
    given = request.input
    if isinstance(given, str):
        part = {"type": "input_text", "text": given}
        items.append({"type": "message", "role": "user", "content": [part]})
    else:
        for item in given:
            plain = item.model_dump(exclude_none=True, by_alias=True)
            if plain["type"] == "message" and isinstance(plain["content"], str):
                kind = "output_text" if plain["role"] == "assistant" else "input_text"
                plain["content"] = [{"type": kind, "text": plain["content"]}]
            items.append(plain)
    return [
        {**item, "id": item.get("id") or f"msg_{uuid.uuid4().hex}", "status": "completed"}
        for item in items
    ]
