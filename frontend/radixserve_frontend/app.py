"""The ASGI app: which route leads where, and which error becomes which answer.

RequestBoundary (id, access log, counts, 500)
  └─ Starlette router
       POST /v1/chat/completions, /v1/completions     GenerationEndpoint
       GET  /v1/models, /v1/models/{id}               ModelsEndpoint
       GET  /cache/events                             CacheEventsEndpoint
       GET  /health, /metrics, /
       GET  /cache/stats, POST /cache/explain, /cache/clear   CacheEndpoints
"""

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from radixserve.engine.interface import Engine
from radixserve.errors import RadixServeError
from radixserve_frontend.cache_endpoints import CacheEndpoints
from radixserve_frontend.cache_events import CacheEventsEndpoint
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.dialect import Dialect
from radixserve_frontend.endpoint import GenerationEndpoint
from radixserve_frontend.health import HealthEndpoint, IndexEndpoint
from radixserve_frontend.http_errors import HttpError, error_answer
from radixserve_frontend.lifecycle import Lifecycle
from radixserve_frontend.metrics import Metrics
from radixserve_frontend.middleware import RequestBoundary
from radixserve_frontend.openai.chat import ChatDialect
from radixserve_frontend.openai.completions import CompletionDialect
from radixserve_frontend.openai.models import ModelsEndpoint
from radixserve_frontend.record import record_of
from radixserve_frontend.trace_recorder import TraceRecorder

Handler = Callable[[Request], Awaitable[Response]]


def create_app(
    engine: Engine, config: ServerConfig, recorder: TraceRecorder | None = None
) -> Starlette:
    """The app over a started engine; ``recorder`` records its traffic. ``app.state.lifecycle`` is
    its ``Lifecycle``: whoever runs the app drains it before the end."""
    lifecycle = Lifecycle(engine)
    metrics = Metrics(engine)
    models = ModelsEndpoint(engine, config)
    cache = CacheEndpoints(engine, config, lifecycle)
    dialects: tuple[Dialect, ...] = (ChatDialect(engine, config), CompletionDialect(engine, config))
    routes = [
        _route(
            dialect.endpoint,
            GenerationEndpoint(dialect, engine, config, lifecycle, recorder).create,
            method="POST",
        )
        for dialect in dialects
    ]
    routes += [
        _route("/v1/models", models.list),
        _route("/v1/models/{model:path}", models.retrieve),
        _route("/cache/events", CacheEventsEndpoint(engine, config, lifecycle).stream),
        _route("/cache/stats", cache.stats),
        _route("/cache/explain", cache.explain, method="POST"),
        _route("/cache/clear", cache.clear, method="POST"),
        _route("/health", HealthEndpoint(lifecycle).show),
        _route("/metrics", metrics.show),
        _route("/", IndexEndpoint(config).show),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(RequestBoundary, metrics=metrics)],
        exception_handlers={
            RadixServeError: _answer_error,
            HttpError: _answer_error,
            HTTPException: _answer_http_exception,
        },
    )
    app.state.lifecycle = lifecycle
    return app


def _route(path: str, handler: Handler, *, method: str = "GET") -> Route:
    async def labelled(request: Request) -> Response:
        record_of(request.scope).endpoint = path
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
