"""``POST /tokenize`` and ``POST /detokenize``: what a prompt is made of, without running it.

Fields and answers are vLLM's.
"""

from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from radixserve.engine.interface import Engine
from radixserve.errors import InvalidRequestError
from radixserve.ids import Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.text.token_memory import TokenMemory
from radixserve_frontend.body import in_thread, read_json_body
from radixserve_frontend.caller import caller_of
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.conversation import prepare_chat
from radixserve_frontend.dialect import check_model
from radixserve_frontend.http_errors import json_response
from radixserve_frontend.json_text import decode_json
from radixserve_frontend.lifecycle import Lifecycle
from radixserve_frontend.openai.conversing import ConversationFields, conversation_of
from radixserve_frontend.strict import StrictModel
from radixserve_frontend.validation import validate


class TokenizeRequest(ConversationFields):
    """``POST /tokenize``: a text, or a conversation as in a chat."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    """Of a text: whether to put around it what the tokenizer puts around one. Default: yes."""
    return_token_strs: bool | None = None


class DetokenizeRequest(StrictModel):
    """``POST /detokenize``."""

    model: str | None = None
    tokens: Annotated[list[int], Field(fail_fast=True)]


class TokenizingEndpoints:
    """Both ways. Work in proportion to the body, off the event loop."""

    def __init__(
        self, engine: Engine, memory: TokenMemory, config: ServerConfig, lifecycle: Lifecycle
    ) -> None:
        self._engine = engine
        self._memory = memory
        self._config = config
        self._lifecycle = lifecycle

    async def tokenize(self, request: Request) -> Response:
        """*Raises* ``InvalidRequestError``."""
        namespace = caller_of(request.scope).namespace()
        body = await self._read(request)
        return json_response(await in_thread(request, body, self._tokenize, namespace))

    async def detokenize(self, request: Request) -> Response:
        """*Raises* ``InvalidRequestError``."""
        return json_response(await in_thread(request, await self._read(request), self._detokenize))

    async def _read(self, request: Request) -> bytes:
        with self._lifecycle.receiving():
            return await read_json_body(request, self._config.max_body_bytes)

    def _tokenize(self, body: bytes, namespace: Namespace) -> dict[str, Any]:
        wanted = validate(TokenizeRequest, decode_json(body))
        self._check_model(wanted.model)
        tokenizer = self._engine.tokenizer
        if (wanted.messages is None) == (wanted.prompt is None):
            raise InvalidRequestError(
                "give either a prompt, as for a completion, or messages, as for a chat",
                param="prompt",
            )
        if wanted.messages is not None:
            conversation = conversation_of(wanted)
            chat = prepare_chat(self._memory, namespace, conversation, SamplingParams())
            tokens = chat.prompt_ids
        else:
            tokens = tokenizer.encode(
                wanted.prompt or "", add_special_tokens=wanted.add_special_tokens is not False
            )
        answer: dict[str, Any] = {
            "count": len(tokens),
            "max_model_len": self._engine.info.max_model_len,
            "tokens": tokens,
        }
        if wanted.return_token_strs:
            answer["token_strs"] = [tokenizer.token_text(token_id) for token_id in tokens]
        return answer

    def _detokenize(self, body: bytes) -> dict[str, Any]:
        wanted = validate(DetokenizeRequest, decode_json(body))
        self._check_model(wanted.model)
        vocab_size = self._engine.info.vocab_size
        outside = next((each for each in wanted.tokens if not 0 <= each < vocab_size), None)
        if outside is not None:
            raise InvalidRequestError(
                f"tokens holds the id {str(outside)[:40]}; this model's vocabulary is "
                f"[0, {vocab_size})",
                param="tokens",
            )
        text = self._engine.tokenizer.decode(wanted.tokens, skip_special_tokens=False)
        return {"prompt": text}

    def _check_model(self, model: str | None) -> None:
        if model is not None:
            check_model(model, self._config)
