"""``GET /openapi.json``: the API described for programs; ``GET /docs``: the same for people.

The description is made from the routes that the app has, the table of ``operations.py`` and the
types that validate requests, so it cannot disagree with them. The page is Swagger UI, served from
its package: nothing is loaded from elsewhere, and a policy tells the browser so.

*Source*: https://spec.openapis.org/oas/v3.1.0
"""

import re
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, Final

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from radixserve import __version__
from radixserve.sampling.params import LIMITS, Limits
from radixserve_frontend.http_errors import HttpError, json_response
from radixserve_frontend.operations import OPERATIONS, Operation

_REF: Final = "#/components/schemas/{model}"
_CONVERTER = re.compile(r":\w+\}")
_PARAMETER = re.compile(r"\{(\w+)\}")
# What Swagger UI needs: its own styles are inline, its icons are data.
_POLICY: Final = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'"
)
_PAGE: Final = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>radixserve: API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START: Final = b"""SwaggerUIBundle({
  url: "openapi.json", dom_id: "#api", deepLinking: true, defaultModelsExpandDepth: 0,
  docExpansion: "list", validatorUrl: null
});
"""
_FILES: Final = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}

DOCS_PATHS: Final = ("/openapi.json", "/docs", "/docs/start.js", *(f"/docs/{n}" for n in _FILES))
"""What a browser loads to show the page."""


class OpenApiEndpoint:
    """Serves the description of the routes it is given."""

    def __init__(
        self, routes: Iterable[Route], model_names: Sequence[str], *, with_keys: bool
    ) -> None:
        self._document = openapi_document(routes, model_names, with_keys=with_keys)

    async def document(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``GET /openapi.json``."""
        return json_response(self._document)

    async def page(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``GET /docs``."""
        return _file(_PAGE, "text/html")

    async def file(self, request: Request) -> Response:
        """``GET /docs/{name}``. *Raises* ``HttpError`` 404."""
        name = request.path_params["name"]
        if name == "start.js":
            return _file(_START, "text/javascript")
        if name not in _FILES:
            raise HttpError(404, "the page has no such file; it is at GET /docs", code="not_found")
        data = (resources.files("swagger_ui") / "static" / name).read_bytes()
        return _file(data, _FILES[name])


def openapi_document(
    routes: Iterable[Route], model_names: Sequence[str], *, with_keys: bool
) -> dict[str, Any]:
    """The OpenAPI document of these routes and models. *Cost*: some ten milliseconds."""
    found = [
        (route.path, method, OPERATIONS[method, route.path])
        for route in routes
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]
    bodies = {operation.body for _, _, operation in found if operation.body is not None}
    ordered = sorted(bodies, key=lambda body: (body.__module__, body.__name__))
    references, schemas = models_json_schema(
        [(body, "validation") for body in ordered], ref_template=_REF
    )
    paths: dict[str, dict[str, Any]] = {}
    for path, method, operation in found:
        schema = None if operation.body is None else references[operation.body, "validation"]
        public_path = _CONVERTER.sub("}", path)
        paths.setdefault(public_path, {})[method.lower()] = _describe(
            public_path, operation, schema, with_keys=with_keys
        )
    components: dict[str, Any] = {"schemas": schemas.get("$defs", {})}
    for described in components["schemas"].values():
        properties = described.get("properties", {})
        _name_models(properties.get("model", {}), model_names)
        for name, limits in LIMITS.items():
            _name_limits(properties.get(name, {}), limits)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "radixserve",
            "version": __version__,
            "description": "A chat server for language models that computes only what its "
            "prefix cache does not hold.",
        },
        "paths": paths,
        "components": components,
    }
    if with_keys:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        document["security"] = [{"bearer": []}, {"key": []}]
    return document


def _name_models(schema: dict[str, Any], model_names: Sequence[str]) -> None:
    """Say which models there are. *Mutates* the schema."""
    for each in schema.get("anyOf", [schema]):
        if each.get("type") == "string":
            each["enum"] = list(model_names)


def _name_limits(schema: dict[str, Any], limits: Limits) -> None:
    """Say how large a number may be. *Mutates* the schema."""
    for each in schema.get("anyOf", [schema]):
        if each.get("type") in ("integer", "number"):
            each.setdefault("exclusiveMinimum" if limits.open_low else "minimum", limits.low)
            each.setdefault("maximum", limits.high)


def _describe(
    path: str, operation: Operation, schema: Any | None, *, with_keys: bool
) -> dict[str, Any]:
    statuses = {
        "400": "The request is wrong: the message says what and where.",
        "404": "There is nothing of that name.",
        "413": "The body is too large.",
        "415": "The body is not JSON.",
        "429": "Too much is waiting already: try again after Retry-After seconds.",
        "503": "The server is shutting down, or its engine is not there.",
        "504": "The time that the request was given is up.",
    }
    generates = schema is not None
    if not generates:
        statuses = {"503": statuses["503"]}
    if _PARAMETER.search(path):
        statuses["404"] = "There is nothing of that name."
    if with_keys:
        statuses = {"401": "The key is missing or wrong.", "403": "The key may not.", **statuses}
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {
            "200": {"description": "The answer.", "content": _content(operation)},
            **{
                status: {
                    "description": sentence,
                    "content": {"application/json": {"schema": {"type": "object"}}},
                }
                for status, sentence in statuses.items()
            },
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(path)
    ]
    if parameters:
        described["parameters"] = parameters
    if schema is not None:
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return described


def _content(operation: Operation) -> dict[str, Any]:
    if operation.answers_text:
        return {"text/plain": {"schema": {"type": "string"}}}
    json_content = {"application/json": {"schema": {"type": "object"}}}
    events = {"text/event-stream": {"schema": {"type": "string"}}}
    if not operation.streams:
        return json_content
    return events if operation.body is None else {**json_content, **events}


def _file(data: bytes, media_type: str) -> Response:
    headers = {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    return Response(data, media_type=media_type, headers=headers)
