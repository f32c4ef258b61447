"""``GET /v1/models`` and ``GET /v1/models/{id}``: what is served, and how long its context is."""

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from radixserve.engine.interface import Engine
from radixserve.errors import UnknownModelError
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.http_errors import json_response
from radixserve_frontend.validation import show


class ModelsEndpoint:
    """There is one model; every name that requests may use for it has an entry."""

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        created = int(time.time())
        self._entries: dict[str, dict[str, Any]] = {
            name: {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "radixserve",
                "root": config.model,
                # Two names for one figure, because clients look for either.
                "max_model_len": engine.info.max_model_len,
                "context_length": engine.info.max_model_len,
            }
            for name in config.model_names
        }

    async def list(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """All entries, the advertised name first."""
        return json_response({"object": "list", "data": [*self._entries.values()]})

    async def retrieve(self, request: Request) -> Response:
        """One entry. *Raises* ``UnknownModelError``."""
        name = request.path_params["model"]
        entry = self._entries.get(name)
        if entry is None:
            raise UnknownModelError(
                f"the model {show(name)} is not served here; see GET /v1/models"
            )
        return json_response(entry)
