"""What each route is for and what it takes: the table behind ``/openapi.json``.

The bodies are the very types that validate requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from radixserve_frontend.anthropic.schema import CountTokensRequest, MessagesRequest
from radixserve_frontend.cache_endpoints import ClearRequest, ExplainRequest
from radixserve_frontend.openai.responses.schema import ResponsesRequest
from radixserve_frontend.openai.schema import ChatRequest, CompletionRequest
from radixserve_frontend.tokenizing import DetokenizeRequest, TokenizeRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    tag: str
    summary: str
    body: type[BaseModel] | None = None
    streams: bool = False
    """Answers with server-sent events: always, or, if it takes a body, where that says
    ``"stream": true``."""
    answers_text: bool = False
    """Answers with plain text or a page, not with JSON."""


_GENERATION: Final = "Generation"
_TOKENS: Final = "Tokens and models"
_CACHE: Final = "Cache"
_OPERATING: Final = "Operating"

OPERATIONS: Final[Mapping[tuple[str, str], Operation]] = {
    ("POST", "/v1/chat/completions"): Operation(
        tag=_GENERATION,
        summary="Answer a conversation, in OpenAI's dialect.",
        body=ChatRequest,
        streams=True,
    ),
    ("POST", "/v1/completions"): Operation(
        tag=_GENERATION,
        summary="Continue a text or several, in OpenAI's dialect.",
        body=CompletionRequest,
        streams=True,
    ),
    ("POST", "/v1/responses"): Operation(
        tag=_GENERATION,
        summary="Answer, and remember, in OpenAI's newer dialect.",
        body=ResponsesRequest,
        streams=True,
    ),
    ("GET", "/v1/responses/{response_id}"): Operation(
        tag=_GENERATION, summary="An answer that is still remembered."
    ),
    ("DELETE", "/v1/responses/{response_id}"): Operation(
        tag=_GENERATION, summary="Forget an answer."
    ),
    ("GET", "/v1/responses/{response_id}/input_items"): Operation(
        tag=_GENERATION, summary="What a remembered answer was given."
    ),
    ("POST", "/v1/messages"): Operation(
        tag=_GENERATION,
        summary="Answer a conversation, in Anthropic's dialect.",
        body=MessagesRequest,
        streams=True,
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        tag=_TOKENS,
        summary="How many tokens a conversation has, in Anthropic's dialect.",
        body=CountTokensRequest,
    ),
    ("POST", "/tokenize"): Operation(
        tag=_TOKENS, summary="The tokens of a text or a conversation.", body=TokenizeRequest
    ),
    ("POST", "/detokenize"): Operation(
        tag=_TOKENS, summary="The text of tokens.", body=DetokenizeRequest
    ),
    ("GET", "/v1/models"): Operation(
        tag=_TOKENS, summary="What is served, and how long its context is."
    ),
    ("GET", "/v1/models/{model:path}"): Operation(tag=_TOKENS, summary="One of them."),
    ("GET", "/cache/stats"): Operation(
        tag=_CACHE, summary="The cache's figures. For administrators, where there are keys."
    ),
    ("POST", "/cache/explain"): Operation(
        tag=_CACHE,
        summary="What a prompt would find in the cache, and why no more.",
        body=ExplainRequest,
    ),
    ("POST", "/cache/clear"): Operation(
        tag=_CACHE,
        summary="Forget what is cached and not in use. For administrators, where there are keys.",
        body=ClearRequest,
    ),
    ("GET", "/cache/events"): Operation(
        tag=_CACHE,
        summary="Watch pages come into the cache and go. For administrators, where there are keys.",
        streams=True,
    ),
    ("GET", "/cache/tree"): Operation(
        tag=_CACHE,
        summary="Watch the radix tree: all of it, or, with a tenant's key, what is the tenant's.",
        streams=True,
    ),
    ("GET", "/cache/tree/{id}"): Operation(
        tag=_CACHE, summary="The text of a node that a stream, named by 'stream', has told of."
    ),
    ("GET", "/health"): Operation(tag=_OPERATING, summary="Whether the server is alive."),
    ("GET", "/ready"): Operation(tag=_OPERATING, summary="Whether it can serve just now."),
    ("GET", "/metrics"): Operation(
        tag=_OPERATING, summary="Figures in Prometheus' format.", answers_text=True
    ),
    ("GET", "/openapi.json"): Operation(tag=_OPERATING, summary="This description."),
    ("GET", "/docs"): Operation(
        tag=_OPERATING, summary="This description as a page to try it from.", answers_text=True
    ),
    ("GET", "/docs/{name}"): Operation(
        tag=_OPERATING, summary="A file of that page.", answers_text=True
    ),
    ("GET", "/debug/requests"): Operation(tag=_OPERATING, summary="The requests in flight."),
    ("GET", "/debug/tasks"): Operation(tag=_OPERATING, summary="The event loop's tasks."),
    ("GET", "/debug/stacks"): Operation(
        tag=_OPERATING, summary="Where every thread is.", answers_text=True
    ),
    ("GET", "/"): Operation(
        tag=_OPERATING, summary="Where everything is; a browser gets the page instead."
    ),
    ("GET", "/page/{name:path}"): Operation(
        tag=_OPERATING, summary="A file of that page.", answers_text=True
    ),
}
