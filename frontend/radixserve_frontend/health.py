"""``GET /health`` and ``GET /ready`` for balancers and supervisors, and the index of all routes.

    /health    restart this server if it fails: 200 while the engine lives or is being restarted
    /ready     send requests elsewhere if it fails: 200 while one sent now is served at once

A request that is sent to a server which is not ready because its engine restarts waits, and is
served.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from radixserve_frontend.config import ServerConfig
from radixserve_frontend.http_errors import json_response
from radixserve_frontend.lifecycle import Lifecycle


class HealthEndpoint:
    """Whether the server lives, and whether it serves."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def show(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``GET /health``: 200 ``ok``; 503 ``engine dead``, which it stays."""
        if self._lifecycle.is_alive:
            return json_response({"status": "ok"})
        return json_response({"status": "engine dead"}, status=503)

    async def ready(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``GET /ready``: 200 ``ready``; 503 ``draining``, ``engine restarting``, ``engine dead``,
        or ``engine silent``: nothing was heard of it for half a minute."""
        status = self._lifecycle.status
        return json_response({"status": status}, status=200 if status == "ready" else 503)


def index_of(config: ServerConfig) -> dict[str, Any]:
    """``GET /`` as JSON: where everything is."""
    return {
        "name": "radixserve",
        "model": config.model_names[0],
        "endpoints": {
            "chat": "POST /v1/chat/completions",
            "completions": "POST /v1/completions",
            "responses": "POST /v1/responses",
            "messages": "POST /v1/messages",
            "count_tokens": "POST /v1/messages/count_tokens",
            "tokenize": "POST /tokenize",
            "detokenize": "POST /detokenize",
            "models": "GET /v1/models",
            "page": "GET / (Accept: text/html)",
            "cache_events": "GET /cache/events",
            "cache_tree": "GET /cache/tree",
            "docs": "GET /docs",
            "openapi": "GET /openapi.json",
            "health": "GET /health",
            "ready": "GET /ready",
            "metrics": "GET /metrics",
            "cache_stats": "GET /cache/stats",
            "cache_explain": "POST /cache/explain",
            "cache_clear": "POST /cache/clear",
        },
    }
