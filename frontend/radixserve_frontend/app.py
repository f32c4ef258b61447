"""The ASGI app: which route leads where, and which error becomes which answer.

RequestBoundary (id, access log, counts, 500)
  └─ CORS, if asked for
  └─ Authentication, if there are keys (401)
  └─ Starlette router (where marked: 403 unless an administrator)
       POST /v1/chat/completions, /v1/completions     GenerationEndpoint
       POST /v1/responses, /v1/messages               GenerationEndpoint
       GET, DELETE /v1/responses/{id}                 StoredResponsesEndpoint
       GET  /v1/responses/{id}/input_items            StoredResponsesEndpoint
       POST /v1/messages/count_tokens                 CountTokensEndpoint
       POST /tokenize, /detokenize                    TokenizingEndpoints
       GET  /v1/models, /v1/models/{id}               ModelsEndpoint
       GET  /openapi.json, /docs                      OpenApiEndpoint
       GET  /cache/events                             CacheEventsEndpoint
       GET  /cache/tree, /cache/tree/{id}             CacheTreeEndpoint
       GET  /, /page/{name}                           PageFiles
       GET  /health, /ready, /metrics
       GET  /cache/stats, POST /cache/explain, /cache/clear   CacheEndpoints
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from radixserve.engine.interface import Engine
from radixserve.errors import RadixServeError
from radixserve.text.template_lint import Finding
from radixserve.text.token_memory import TokenMemory
from radixserve_frontend.anthropic.messages import CountTokensEndpoint, MessagesDialect
from radixserve_frontend.auth import Authentication, check_admin
from radixserve_frontend.body import MAX_BODIES_AT_ONCE, Bodies
from radixserve_frontend.cache_endpoints import CacheEndpoints
from radixserve_frontend.cache_events import CacheEventsEndpoint
from radixserve_frontend.cache_tree import CacheTreeEndpoint
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.debug_endpoints import DebugEndpoints
from radixserve_frontend.dialect import Dialect
from radixserve_frontend.endpoint import GenerationEndpoint
from radixserve_frontend.health import HealthEndpoint, index_of
from radixserve_frontend.http_errors import HttpError, error_answer
from radixserve_frontend.key_store import KeyStore
from radixserve_frontend.lifecycle import Lifecycle
from radixserve_frontend.metrics import Metrics
from radixserve_frontend.middleware import RequestBoundary
from radixserve_frontend.openai.chat import ChatDialect
from radixserve_frontend.openai.completions import CompletionDialect
from radixserve_frontend.openai.models import ModelsEndpoint
from radixserve_frontend.openai.responses.dialect import ResponsesDialect
from radixserve_frontend.openai.responses.endpoints import StoredResponsesEndpoint
from radixserve_frontend.openai.responses.store import ResponseStore
from radixserve_frontend.openapi import DOCS_PATHS, OpenApiEndpoint
from radixserve_frontend.page_files import PageFiles, wants_page
from radixserve_frontend.prefill_ahead import PrefillAhead
from radixserve_frontend.record import RequestRecord, record_of
from radixserve_frontend.tokenizing import TokenizingEndpoints
from radixserve_frontend.trace_recorder import TraceRecorder
from radixserve_frontend.tracing import RequestTracer

# Balancers and supervisors have no keys, nor have browsers that load a page; and they learn nothing
# here.
_OPEN_PATHS: Final = frozenset({"/health", "/ready", *DOCS_PATHS})

Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    engine: Engine,
    config: ServerConfig,
    recorder: TraceRecorder | None = None,
    *,
    keys: KeyStore | None = None,
    tracer: RequestTracer | None = None,
    findings: Sequence[Finding] = (),
) -> Starlette:
    """The app over a started engine; ``recorder`` records its traffic, ``keys`` say who may call
    it (None: everybody), ``tracer`` gets a span per request; ``findings`` are what the chat
    template does to the cache. ``app.state.lifecycle`` is its ``Lifecycle``: whoever runs the app
    drains it before the end."""
    assert (keys is not None) == config.has_keys, "the keys must be the ones configured"
    lifecycle = Lifecycle(engine)
    active: set[RequestRecord] = set()
    metrics = Metrics(engine, keys if config.metrics_by_tenant else None)
    health = HealthEndpoint(lifecycle)
    page = PageFiles(index_of(config))
    models = ModelsEndpoint(engine, config)
    memory = TokenMemory(engine.tokenizer, config.token_memory_mib * 2**20)
    ahead = PrefillAhead(engine, memory, lifecycle, findings) if config.prefill_ahead else None
    tree = CacheTreeEndpoint(engine, config, lifecycle)
    cache = CacheEndpoints(engine, memory, config, lifecycle)
    store = ResponseStore(
        max_responses=config.max_stored_responses,
        max_tokens=config.max_stored_response_tokens,
        ttl_s=config.response_ttl_s,
    )
    responses = StoredResponsesEndpoint(store)
    dialects: tuple[Dialect, ...] = (
        ChatDialect(engine, memory, config),
        CompletionDialect(engine, config),
        ResponsesDialect(engine, memory, config, store),
        MessagesDialect(engine, memory, config),
    )
    count_tokens = CountTokensEndpoint(memory, config, lifecycle)
    tokenizing = TokenizingEndpoints(engine, memory, config, lifecycle)
    routes = [
        _route(
            dialect.endpoint,
            GenerationEndpoint(dialect, engine, memory, config, lifecycle, recorder, ahead).create,
            method="POST",
        )
        for dialect in dialects
    ]
    routes += [
        _route(responses.path, responses.retrieve),
        _route(responses.path, responses.delete, method="DELETE"),
        _route(f"{responses.path}/input_items", responses.input_items),
        _route(count_tokens.endpoint, count_tokens.count, method="POST"),
        _route("/tokenize", tokenizing.tokenize, method="POST"),
        _route("/detokenize", tokenizing.detokenize, method="POST"),
        _route("/v1/models", models.list),
        _route("/v1/models/{model:path}", models.retrieve),
        _route("/cache/events", CacheEventsEndpoint(engine, config, lifecycle).stream, admin=True),
        _route("/cache/tree", tree.stream),
        _route("/cache/tree/{id}", tree.node),
        _route("/cache/stats", cache.stats, admin=True),
        _route("/cache/explain", cache.explain, method="POST"),
        _route("/cache/clear", cache.clear, method="POST", admin=True),
        _route("/health", health.show),
        _route("/ready", health.ready),
        _route("/metrics", metrics.show, admin=not config.public_metrics),
        _route("/", page.root),
        _route("/page/{name:path}", page.file),
    ]
    if config.debug_endpoints:
        debug = DebugEndpoints(active)
        routes += [
            _route("/debug/requests", debug.requests, admin=True),
            _route("/debug/tasks", debug.tasks, admin=True),
            _route("/debug/stacks", debug.stacks, admin=True),
        ]
    openapi = OpenApiEndpoint(routes, config.model_names, with_keys=config.has_keys)
    routes += [
        _route("/openapi.json", openapi.document),
        _route("/docs", openapi.page),
        _route("/docs/{name}", openapi.file),
    ]
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(
                RequestBoundary,
                metrics=metrics,
                active=active,
                error_shapes={dialect.endpoint: dialect.shape_error for dialect in dialects},
                log_paths=config.log_requests,
                tracer=tracer,
            ),
            *_cors(config),
            *_authentication(config, keys, page.paths),
        ],
        exception_handlers={
            RadixServeError: _answer_error,
            HttpError: _answer_error,
            HTTPException: _answer_http_exception,
        },
    )
    app.state.lifecycle = lifecycle
    app.state.prefill_ahead = ahead
    app.state.bodies = Bodies(
        max_total_bytes=MAX_BODIES_AT_ONCE * config.max_body_bytes, timeout_s=config.body_timeout_s
    )
    return app


def _cors(config: ServerConfig) -> list[Middleware]:
    """Lets pages of the given origins call: with any header, without cookies, which nobody reads
    here."""
    if not config.allowed_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=config.allowed_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("X-Request-Id", "Retry-After"),
        )
    ]


def _authentication(
    config: ServerConfig, keys: KeyStore | None, page_paths: Collection[str]
) -> list[Middleware]:
    if keys is None:
        return []
    open_paths = {*_OPEN_PATHS, *page_paths}
    if config.public_metrics:
        open_paths.add("/metrics")
    return [Middleware(Authentication, keys=keys, open_paths=open_paths, also_open=wants_page)]


def _route(path: str, handler: Handler, *, method: str = "GET", admin: bool = False) -> Route:
    """``admin``: where there are keys, only an administrator's opens it."""

    async def labelled(request: Request) -> Response:
        record_of(request.scope).endpoint = path
        if admin:
            check_admin(request.scope)
        return await handler(request)

    return Route(path, labelled, methods=[method])


async def _answer_error(request: Request, error: Exception) -> Response:
    record = record_of(request.scope)
    answer = error_answer(error)
    record.outcome = "error"
    record.error_code = answer.code
    return answer.response(record.shape_error)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    message = {
        404: f"there is nothing at {path!r}; GET / lists the endpoints",
        405: f"{request.method} is not allowed at {path!r}",
    }.get(error.status_code, error.detail)
    return await _answer_error(
        request,
        HttpError(
            error.status_code,
            message,
            code={404: "not_found", 405: "method_not_allowed"}.get(error.status_code),
            headers=error.headers,
        ),
    )
