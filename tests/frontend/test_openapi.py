"""The description of the API: true of every route, made of the types that validate."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]  # ships no types
from starlette.routing import Route

from radixserve_frontend.app import create_app
from radixserve_frontend.openapi import DOCS_PATHS
from radixserve_frontend.operations import OPERATIONS
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_fixtures import calling, config_of


async def document(**config: object) -> Any:
    async with calling(create_app(FakeEngine(), config_of(**config))) as client:
        response = await client.get("/openapi.json")
    assert response.status_code == 200
    return response.json()


def test_every_route_is_described_and_nothing_else() -> None:
    app = create_app(FakeEngine(), config_of(debug_endpoints=True))
    found = {
        (method, route.path)
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert found == set(OPERATIONS)


async def test_debugging_is_described_only_where_it_is() -> None:
    assert not any(path.startswith("/debug") for path in (await document())["paths"])
    assert "/debug/stacks" in (await document(debug_endpoints=True))["paths"]


async def test_references_lead_somewhere_and_schemas_are_schemas() -> None:
    described = await document()
    schemas = described["components"]["schemas"]

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*(references(each) for each in value.values()))
        if isinstance(value, list):
            return set().union(*(references(each) for each in value))
        return set()

    for reference in references(described):
        assert reference.removeprefix("#/components/schemas/") in schemas
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "fake", "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/completions", {"model": "fake", "prompt": ["a", "b"], "echo": True}),
        ("/v1/responses", {"model": "fake", "input": "x"}),
        (
            "/v1/messages",
            {"model": "fake", "max_tokens": 3, "messages": [{"role": "user", "content": "x"}]},
        ),
        ("/tokenize", {"prompt": "x"}),
        ("/cache/explain", {"model": "fake", "prompt": "x"}),
    ],
)
async def test_what_is_accepted_is_described(path: str, body: dict[str, Any]) -> None:
    described = await document()
    schema = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    whole = {**schema["schema"], "components": described["components"]}
    Draft202012Validator(whole).validate(body)
    with pytest.raises(ValidationError):
        Draft202012Validator(whole).validate({**body, "no such field": 1})
    async with calling(create_app(FakeEngine(), config_of())) as client:
        assert (await client.post(path, json=body)).status_code == 200


async def test_the_page_loads_nothing_from_elsewhere() -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        page = await client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "//" not in page.text
        for path in DOCS_PATHS:
            response = await client.get(path)
            assert response.status_code == 200, path
            assert len(response.content) > 100
        for name in ("nothing.js", "..%2Fcore.py", "swagger-ui.css.map"):
            assert (await client.get(f"/docs/{name}")).status_code == 404
