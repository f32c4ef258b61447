"""Who may call what: keys, tenants, administrators, and web pages of other origins."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from radixserve_frontend.app import create_app
from radixserve_frontend.cache_endpoints import MAX_TENANT_EXPLAINING
from radixserve_frontend.key_store import open_key_store
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, MESSAGES, error_of
from tests.frontend.http_fixtures import MODEL, TIMEOUT_S, calling, config_of, serving

ALICE, BOB, ROOT = "alice-0123456789abc", "bob-0123456789abcdef", "root-0123456789abcde"
KEYS = f"alice:{ALICE},bob:{BOB},root+admin:{ROOT}"
BODY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES}


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@asynccontextmanager
async def guarded(engine: FakeEngine, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app that wants keys."""
    config = config_of(api_keys=KEYS, **changes)
    async with calling(create_app(engine, config, keys=open_key_store(config))) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": ALICE},
        {"Authorization": f"Bearer {ALICE}x"},
        {"Authorization": f"Bearer {ALICE.upper()}"},
        {"x-api-key": ""},
        {"x-api-key": "wrong"},
        # The first one counts: a wrong one is not made good by another.
        {"x-api-key": "wrong", "Authorization": f"Bearer {ALICE}"},
    ],
)
async def test_without_a_valid_key_nothing_is_done(headers: dict[str, str]) -> None:
    engine = FakeEngine()
    async with guarded(engine) as client:
        response = await client.post(CHAT, json=BODY, headers=headers)
        assert error_of(response, 401)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert len(response.headers["x-request-id"]) == 32
        for path in ("/v1/models", "/", "/metrics", "/cache/stats", "/no/such/path"):
            assert (await client.get(path, headers=headers)).status_code == 401
    assert not engine.submitted


@pytest.mark.parametrize(
    "headers",
    [
        bearing(ALICE),
        {"Authorization": f"bearer  {ALICE}"},
        {"x-api-key": ALICE},
        {"Authorization": "Basic xyz", "x-api-key": ALICE},
    ],
)
async def test_a_valid_key_opens(headers: dict[str, str]) -> None:
    async with guarded(FakeEngine()) as client:
        assert (await client.post(CHAT, json=BODY, headers=headers)).status_code == 200
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        assert (await client.get("/", headers=headers)).status_code == 200


async def test_health_is_open() -> None:
    async with guarded(FakeEngine()) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200


@pytest.mark.parametrize("key", ["", "wrong-key"])
async def test_errors_have_the_shape_of_their_dialect(key: str) -> None:
    async with guarded(FakeEngine()) as client:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            response = await client.post(path, json={}, headers={"x-api-key": key})
            assert response.status_code == 401
            assert response.json()["type"] == "error"
            assert response.json()["error"]["type"] == "authentication_error"


async def test_the_body_is_not_read_for_strangers() -> None:
    config = config_of(api_keys=KEYS)
    async with serving(FakeEngine(), config) as server, asyncio.timeout(TIMEOUT_S):
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 401")
        writer.close()
        await writer.wait_closed()


async def test_tenants_have_namespaces_of_their_own_whatever_their_salts() -> None:
    engine = FakeEngine()
    async with guarded(engine) as client:
        for key, salt in (
            (ALICE, None),
            (BOB, None),
            (ALICE, "s"),
            (BOB, "s"),
            (ALICE, "\0s"),
            (ALICE, "bob"),
            (BOB, "alice\0"),
            (ALICE, None),
        ):
            body = BODY if salt is None else {**BODY, "cache_salt": salt}
            assert (await client.post(CHAT, json=body, headers=bearing(key))).status_code == 200
    namespaces = [submitted.namespace for submitted in engine.submitted]
    assert namespaces[0] == namespaces[-1]
    assert len({*namespaces}) == 7
    assert "" not in namespaces


async def test_what_tells_of_everybody_is_for_administrators() -> None:
    engine = FakeEngine()
    async with guarded(engine, debug_endpoints=True) as client:
        gets = ["/cache/stats", "/metrics", "/debug/requests", "/debug/tasks", "/debug/stacks"]
        calls = [("GET", path) for path in gets] + [("POST", "/cache/clear")]
        for method, path in calls:
            refused = await client.request(method, path, json={}, headers=bearing(ALICE))
            assert error_of(refused, 403)["code"] == "admin_key_required"
            allowed = await client.request(method, path, json={}, headers=bearing(ROOT))
            assert allowed.status_code == 200
        watching = await client.get("/cache/events", headers=bearing(ALICE))
        assert error_of(watching, 403)["code"] == "admin_key_required"
    assert len(engine.cleared) == 1
    assert not engine.watches


async def test_explain_tells_a_tenant_of_its_own_only() -> None:
    engine = FakeEngine()
    body = {"model": MODEL, "prompt": "What is in here?"}
    async with guarded(engine) as client:
        own = await client.post("/cache/explain", json=body, headers=bearing(ALICE))
        everybodys = await client.post("/cache/explain", json=body, headers=bearing(ROOT))
    assert "in_other_namespaces" not in own.json()
    assert everybodys.json()["in_other_namespaces"] is True
    assert own.json()["evicted_seconds_ago"] == 1
    assert [namespace for _, namespace in engine.asked] == ["alice\0", "root\0"]


async def test_a_tenant_has_a_few_prompts_explained_at_once() -> None:
    engine = FakeEngine()
    body = {"model": MODEL, "prompt": "What is in here?"}
    may_answer = asyncio.Event()
    explain = engine.explain

    async def slow(*arguments: Any, **keywords: Any) -> Any:
        found = await explain(*arguments, **keywords)
        await may_answer.wait()
        return found

    engine.explain = slow  # type: ignore[method-assign]  # as an engine does that is busy
    async with guarded(engine) as client:

        def asking(key: str) -> asyncio.Task[httpx.Response]:
            call = client.post("/cache/explain", json=body, headers=bearing(key))
            return asyncio.create_task(call)

        waiting = [asking(ALICE) for _ in range(MAX_TENANT_EXPLAINING)]
        async with asyncio.timeout(TIMEOUT_S):
            while len(engine.asked) < MAX_TENANT_EXPLAINING:
                await asyncio.sleep(0)
        refused = await asking(ALICE)
        assert error_of(refused, 429)["code"] == "too_many_explanations"
        assert int(refused.headers["Retry-After"]) > 0
        waiting.append(asking(BOB))
        may_answer.set()
        assert {(await each).status_code for each in waiting} == {200}
        assert (await asking(ALICE)).status_code == 200


async def test_metrics_may_be_public() -> None:
    async with guarded(FakeEngine(), public_metrics=True) as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/cache/stats")).status_code == 401


async def test_debug_endpoints_are_off_by_default() -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        assert (await client.get("/debug/requests")).status_code == 404


# Web pages of other origins

PAGE = "https://chat.example.com"


async def test_other_origins_may_not_call_unless_asked() -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        response = await client.post(CHAT, json=BODY, headers={"Origin": PAGE})
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", [f"https://other.example, {PAGE}", "*"])
async def test_named_origins_may_call_with_keys(origins: str) -> None:
    async with guarded(FakeEngine(), cors_origins=origins) as client:
        preflight = await client.options(
            CHAT,
            headers={
                "Origin": PAGE,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization, content-type",
            },
        )
        assert preflight.status_code == 200
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        answer = await client.post(CHAT, json=BODY, headers={"Origin": PAGE, **bearing(ALICE)})
        refused = await client.post(CHAT, json=BODY, headers={"Origin": PAGE})
    for response in (preflight, answer, refused):
        # Also of an error: otherwise the page learns nothing of it.
        assert response.headers["access-control-allow-origin"] in (PAGE, "*")
        assert "access-control-allow-credentials" not in response.headers
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    assert refused.status_code == 401


async def test_unnamed_origins_may_not_call() -> None:
    async with guarded(FakeEngine(), cors_origins=PAGE) as client:
        response = await client.post(
            CHAT, json=BODY, headers={"Origin": "https://evil.example", **bearing(ALICE)}
        )
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("origins", ["example.com", "https://a.example/path", "null", ""])
def test_what_is_no_origin(origins: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        config_of(cors_origins=origins)
