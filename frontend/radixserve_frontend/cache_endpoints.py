"""``GET /cache/stats``, ``POST /cache/explain``, ``POST /cache/clear``.

``stats`` tells of everybody's use and ``clear`` costs everybody their hits: where there are API
keys they need an administrator's (``app.py`` asks for it). ``explain`` is for every tenant, about
its own part of the cache; only an administrator learns whether *another* namespace holds a prompt.
Where there are no keys, whoever can reach the server may do everything.
"""

from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from radixserve.engine.interface import Engine
from radixserve.errors import InvalidRequestError
from radixserve.ids import Namespace
from radixserve.sampling.params import SamplingParams
from radixserve.text.token_memory import TokenMemory
from radixserve.types import MISS_CAUSES, CacheStats, TierInfo
from radixserve_frontend.body import in_thread, read_json_body
from radixserve_frontend.cache_report import explanation_of, tokens_by_source
from radixserve_frontend.caller import Caller, caller_of
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.conversation import prepare_chat
from radixserve_frontend.dialect import check_model
from radixserve_frontend.http_errors import HttpError, json_response
from radixserve_frontend.json_text import decode_json
from radixserve_frontend.lifecycle import Lifecycle
from radixserve_frontend.openai.conversing import ConversationFields, conversation_of
from radixserve_frontend.openai.params import cache_namespace
from radixserve_frontend.openai.schema import Prompt
from radixserve_frontend.room import Room
from radixserve_frontend.strict import StrictModel
from radixserve_frontend.validation import validate

MAX_EXPLAINING: Final = 32
"""Prompts that are tokenized, and wait for the engine, which answers between steps."""
MAX_TENANT_EXPLAINING: Final = 8
NUM_KEPT: Final = 4


class ExplainRequest(ConversationFields):
    """A prompt as in a generation request: a conversation as in a chat, or a prompt."""

    model: str
    prompt: Prompt | None = None
    cache_salt: str | None = None


class ClearRequest(StrictModel):
    """One salt's part of the cache, or all of it."""

    cache_salt: str | None = None


class _Asked(NamedTuple):
    """A prompt's tokens, where they would be looked for, and the field that they came in."""

    prompt: list[int]
    namespace: Namespace
    field: str


class CacheEndpoints:
    """Questions to the engine, answered between two of its steps."""

    def __init__(
        self, engine: Engine, memory: TokenMemory, config: ServerConfig, lifecycle: Lifecycle
    ) -> None:
        self._engine = engine
        self._memory = memory
        self._config = config
        self._lifecycle = lifecycle
        self._room = Room(
            "too many prompts are being explained at this moment",
            "try again",
            code="too_many_explanations",
            most=MAX_EXPLAINING,
            most_of_tenant=MAX_TENANT_EXPLAINING,
            num_kept=NUM_KEPT,
        )

    async def stats(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``GET /cache/stats``. *Raises* ``EngineDeadError``."""
        return json_response(_stats_of(await self._engine.cache_stats()))

    async def explain(self, request: Request) -> Response:
        """``POST /cache/explain``. *Raises* as a generation does, and ``HttpError`` (429)."""
        caller = caller_of(request.scope)
        body = await self._read(request)
        self._room.check(caller)
        with self._room.hold(caller):
            asked = await in_thread(request, body, self._prepare, caller)
            try:
                explanation = await self._engine.explain(
                    asked.prompt, namespace=asked.namespace, looks_elsewhere=caller.is_admin
                )
            except InvalidRequestError as error:
                error.param = asked.field
                raise
        return json_response(explanation_of(explanation, asked.prompt, self._engine.tokenizer))

    async def clear(self, request: Request) -> Response:
        """``POST /cache/clear``. *Raises* ``InvalidRequestError``, ``EngineDeadError``."""
        if "content-type" not in request.headers:
            # Other than a generation this needs no answer to do harm: a web page of another origin
            # can send a body without a type, and nobody has asked whether it may.
            raise HttpError(
                415,
                "the content type is missing; send '{}' with 'Content-Type: application/json'",
                code="unsupported_content_type",
            )
        wanted = validate(ClearRequest, decode_json(await self._read(request)))
        namespace = (
            None if wanted.cache_salt is None else cache_namespace(wanted, caller_of(request.scope))
        )
        num_freed_pages = await self._engine.clear_cache(namespace)
        return json_response({"freed_pages": num_freed_pages})

    async def _read(self, request: Request) -> bytes:
        with self._lifecycle.receiving():
            return await read_json_body(request, self._config.max_body_bytes)

    def _prepare(self, body: bytes, caller: Caller) -> _Asked:
        """*Raises* ``InvalidRequestError``. Runs outside the loop."""
        wanted = validate(ExplainRequest, decode_json(body))
        check_model(wanted.model, self._config)
        namespace = cache_namespace(wanted, caller)
        tokenizer = self._engine.tokenizer
        if (wanted.messages is None) == (wanted.prompt is None):
            raise InvalidRequestError(
                "give either messages, as for a chat, or a prompt, as for a completion",
                param="prompt" if wanted.messages else "messages",
            )
        if wanted.messages is not None:
            conversation = conversation_of(wanted)
            chat = prepare_chat(self._memory, namespace, conversation, SamplingParams())
            return _Asked(chat.prompt_ids, namespace, "messages")
        if isinstance(wanted.prompt, str):
            return _Asked(tokenizer.encode(wanted.prompt), namespace, "prompt")
        prompt = [entry for entry in wanted.prompt or () if isinstance(entry, int)]
        if not prompt:
            raise InvalidRequestError(
                "the prompt is empty, or there are several; explain one at a time", param="prompt"
            )
        return _Asked(prompt, namespace, "prompt")


def _stats_of(stats: CacheStats) -> dict[str, Any]:
    engine = stats.engine
    pages = engine.cache
    return {
        "pages": {
            "free": pages.free_pages,
            "cached": pages.cached_pages,
            "in_use": pages.in_use_pages,
            "total": pages.total_pages,
            "size_tokens": pages.page_size,
        },
        "prompt_tokens": engine.prompt_tokens,
        "sources": tokens_by_source(engine),
        "hit_rate": engine.cached_tokens / engine.prompt_tokens if engine.prompt_tokens else 0.0,
        "admissions": {cause: engine.admissions.get(cause, 0) for cause in MISS_CAUSES},
        "evicted_pages": engine.evicted_pages,
        "tiers": None if engine.tiers is None else _tiers_of(engine.tiers),
        "namespaces": stats.num_namespaces,
        "nodes": stats.num_nodes,
        "eviction_policy": stats.eviction_policy,
    }


def _tiers_of(tiers: TierInfo) -> dict[str, Any]:
    return {
        "host_pages": {
            "free": tiers.host_free_pages,
            "cached": tiers.host_cached_pages,
            "in_use": tiers.host_in_use_pages,
            "total": tiers.host_total_pages,
        },
        "disk": {
            "pages": tiers.disk_pages,
            "bytes": tiers.disk_bytes,
            "limit_bytes": tiers.disk_limit_bytes,
        },
        "loaded_pages": {"host": tiers.host_loaded_pages, "disk": tiers.disk_loaded_pages},
        "stored_files": tiers.disk_stored_pages,
        "rejected_files": tiers.rejected_files,
        "lost_pages": tiers.lost_pages,
    }
