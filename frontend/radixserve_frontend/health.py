"""``GET /health`` for load balancers, and ``GET /`` for people."""

from starlette.requests import Request
from starlette.responses import Response

from radixserve_frontend.config import ServerConfig
from radixserve_frontend.http_errors import json_response
from radixserve_frontend.lifecycle import Lifecycle


class HealthEndpoint:
    """200 means: a request sent now will be served."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    async def show(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """200 ``ok``; 503 ``draining`` or ``engine dead``."""
        if self._lifecycle.is_healthy:
            return json_response({"status": "ok"})
        status = "draining" if self._lifecycle.is_draining else "engine dead"
        return json_response({"status": status}, status=503)


class IndexEndpoint:
    """Where everything is."""

    def __init__(self, config: ServerConfig) -> None:
        self._index = {
            "name": "radixserve",
            "model": config.model_names[0],
            "endpoints": {
                "chat": "POST /v1/chat/completions",
                "completions": "POST /v1/completions",
                "models": "GET /v1/models",
                "cache_events": "GET /cache/events",
                "health": "GET /health",
                "metrics": "GET /metrics",
                "cache_stats": "GET /cache/stats",
                "cache_explain": "POST /cache/explain",
                "cache_clear": "POST /cache/clear",
            },
        }

    async def show(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """The index as JSON."""
        return json_response(self._index)
