"""``/metrics``, ``/health``, ``/v1/models``, ``/``, and the access log."""

import logging
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from radixserve_frontend.app import create_app
from radixserve_frontend.key_store import open_key_store
from radixserve_frontend.metrics import Metrics
from radixserve_frontend.middleware import RequestBoundary
from radixserve_frontend.record import GAP_BOUNDS_S, Gaps
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, MESSAGES
from tests.frontend.http_fixtures import MODEL, calling, config_of


async def scrape(app: Starlette) -> dict[str, float]:
    """Every sample by its name and labels."""
    async with calling(app) as client:
        response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name
        + (
            "{" + ",".join(map("=".join, sorted(sample.labels.items()))) + "}"
            if sample.labels
            else ""
        ): (sample.value)
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_metrics() -> None:
    app = create_app(FakeEngine(), config_of())
    async with calling(app) as client:
        body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 4}
        await client.post(CHAT, json=body)
        await client.post(CHAT, json={**body, "stream": True, "n": 2})
        await client.post(CHAT, json={**body, "temperature": -1})
        await client.get("/no/such/path")
    samples = await scrape(app)
    chat = "endpoint=/v1/chat/completions"
    assert samples[f"radixserve_requests_total{{{chat},status=200}}"] == 2
    assert samples[f"radixserve_requests_total{{{chat},status=400}}"] == 1
    assert samples["radixserve_requests_total{endpoint=other,status=404}"] == 1
    assert samples["radixserve_time_to_first_token_seconds_count"] == 2
    # One per choice.
    assert samples["radixserve_time_per_output_token_seconds_count"] == 3
    assert samples["radixserve_e2e_request_latency_seconds_count"] == 2
    assert samples["radixserve_prompt_tokens_total"] == 100
    assert samples["radixserve_cached_tokens_total"] == 25
    assert samples["radixserve_generation_tokens_total"] == 50
    assert samples["radixserve_prefix_hit_rate"] == 0.25
    assert samples["radixserve_pages{state=free}"] == 1000
    assert samples["radixserve_pages{state=cached}"] == 20
    assert samples["radixserve_pages{state=in_use}"] == 4
    assert samples["radixserve_num_requests_running"] == 0
    assert samples["radixserve_num_requests_waiting"] == 0
    assert samples["radixserve_num_preemptions_total"] == 0
    assert samples["radixserve_engine_up"] == 1
    assert samples["radixserve_kv_cache_usage_perc"] == 4 / 1024
    # Ten letters: the first has none before it. Two requests of 4 tokens, one of them with n = 2.
    gaps = "radixserve_inter_token_latency_seconds"
    assert samples[f"{gaps}_count"] == 9
    assert samples[f"{gaps}_bucket{{le=+Inf}}"] == 9
    assert samples[f"{gaps}_bucket{{le=5.0}}"] == 9
    assert 0 < samples[f"{gaps}_sum"] < 9 * 5
    assert samples["radixserve_request_queue_time_seconds_count"] == 2
    assert samples["radixserve_request_queue_time_seconds_sum"] == 0.5
    assert samples["radixserve_engine_restarts_total"] == 3
    assert samples["radixserve_resumed_requests_total"] == 8


def test_gaps_are_counted_in_their_classes() -> None:
    gaps = Gaps()
    for gap_s in (0.0005, 0.001, 0.0011, 4.0, 6.0):
        gaps.observe(gap_s)
    total = Gaps()
    total.add(gaps)
    total.add(gaps)
    assert total.counts[0] == 4
    assert total.counts[1] == 2
    assert total.counts[len(GAP_BOUNDS_S) - 1] == 2
    assert total.counts[-1] == 2
    assert total.sum_s == pytest.approx(2 * 10.0026)


async def test_metrics_by_tenant() -> None:
    keys = {name: f"0123456789-{name}-key" for name in ("ann", "bob")}
    given = ",".join(f"{name}+admin:{key}" for name, key in keys.items())
    by_tenant = {}
    for is_wanted in (True, False):
        config = config_of(api_keys=given, metrics_by_tenant=is_wanted, public_metrics=True)
        app = create_app(FakeEngine(), config, keys=open_key_store(config))
        async with calling(app) as client:
            body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 4}
            for name, number in (("ann", 2), ("bob", 1)):
                for _ in range(number):
                    await client.post(CHAT, json=body, headers={"x-api-key": keys[name]})
            await client.post(CHAT, json={**body, "n": 0}, headers={"x-api-key": keys["bob"]})
            await client.post(CHAT, json=body, headers={"x-api-key": "somebody"})
        by_tenant[is_wanted] = {
            name: value for name, value in (await scrape(app)).items() if "_tenant_" in name
        }
    for name in [*by_tenant[True]]:
        if "_created" in name:
            del by_tenant[True][name]
    assert by_tenant[True] == {
        "radixserve_tenant_requests_total{status=200,tenant=ann}": 2,
        "radixserve_tenant_requests_total{status=200,tenant=bob}": 1,
        "radixserve_tenant_requests_total{status=400,tenant=bob}": 1,
        "radixserve_tenant_prompt_tokens_total{tenant=ann}": 48,
        "radixserve_tenant_prompt_tokens_total{tenant=bob}": 24,
        "radixserve_tenant_cached_tokens_total{tenant=ann}": 32,
        "radixserve_tenant_cached_tokens_total{tenant=bob}": 16,
        "radixserve_tenant_generation_tokens_total{tenant=ann}": 8,
        "radixserve_tenant_generation_tokens_total{tenant=bob}": 4,
    }
    assert not by_tenant[False]


async def test_two_apps_do_not_share_metrics() -> None:
    first, second = (create_app(FakeEngine(), config_of()) for _ in range(2))
    async with calling(first) as client:
        await client.get("/")
    assert "radixserve_requests_total{endpoint=/,status=200}" in await scrape(first)
    assert "radixserve_requests_total{endpoint=/,status=200}" not in await scrape(second)


async def test_health_follows_the_engine() -> None:
    engine = FakeEngine()
    async with calling(create_app(engine, config_of())) as client:
        for is_up, is_ready, is_alive, alive, ready in (
            (True, True, True, "ok", "ready"),
            (True, False, True, "ok", "engine silent"),
            (False, False, True, "ok", "engine restarting"),
            (False, False, False, "engine dead", "engine dead"),
        ):
            engine.is_up, engine.is_ready, engine.is_alive = is_up, is_ready, is_alive
            answer = await client.get("/health")
            assert (answer.status_code, answer.json()) == (
                200 if is_alive else 503,
                {"status": alive},
            )
            answer = await client.get("/ready")
            assert (answer.status_code, answer.json()) == (
                200 if is_ready else 503,
                {"status": ready},
            )


async def test_models_have_every_name_and_the_context_length() -> None:
    config = config_of(served_model_name="good-name", model="/models/some dir")
    async with calling(create_app(FakeEngine(), config)) as client:
        models = (await client.get("/v1/models")).json()
        by_path = await client.get("/v1/models//models/some dir")
        by_name = (await client.get("/v1/models/good-name")).json()
        for name in ("good-name", "/models/some dir"):
            answer = await client.post(CHAT, json={"model": name, "messages": MESSAGES})
            assert answer.json()["model"] == name
    assert [model["id"] for model in models["data"]] == ["good-name", "/models/some dir"]
    assert by_path.status_code == 200
    assert by_name.pop("created") > 0
    assert by_name == {
        "id": "good-name",
        "object": "model",
        "owned_by": "radixserve",
        "root": "/models/some dir",
        "max_model_len": 4096,
        "context_length": 4096,
    }


async def test_a_failure_after_the_response_has_begun_breaks_it_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    metrics = Metrics(FakeEngine())
    boundary = RequestBoundary(broken, metrics)
    transport = httpx.ASGITransport(app=boundary)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        with pytest.raises(ZeroDivisionError):
            await client.get("/")
    assert "ZeroDivisionError" in caplog.text


async def test_what_is_not_http_passes_through() -> None:
    scopes = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    async def nothing(*_: object) -> Any:
        raise AssertionError

    await RequestBoundary(app, Metrics(FakeEngine()))({"type": "lifespan"}, nothing, nothing)
    assert scopes == [{"type": "lifespan"}]


async def test_index_lists_the_endpoints() -> None:
    async with calling(create_app(FakeEngine(), config_of())) as client:
        index = (await client.get("/")).json()
    assert index["endpoints"]["chat"] == "POST /v1/chat/completions"


async def test_access_log_has_figures_and_no_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="radixserve_frontend")
    secret = [{"role": "user", "content": "my secret"}]
    async with calling(create_app(FakeEngine(), config_of())) as client:
        response = await client.post(
            CHAT, json={"model": MODEL, "messages": secret, "max_tokens": 4}
        )
        await client.get("/evil%0aline" + "x" * 1000)
    first, second = caplog.messages
    for part in (
        response.headers["x-request-id"],
        "POST /v1/chat/completions 200 outcome=ok tenant=- stream=no",
        "prompt_tokens=27 cached_tokens=16 generated_tokens=4 ttft_s=0.",
        "duration_s=0.",
        "finish=length",
    ):
        assert part in first
    assert "404 outcome=error" in second
    assert "error=not_found" in second
    # A path is what somebody wrote, too.
    assert "evil" not in second
    assert "secret" not in caplog.text
    assert "abcd" not in caplog.text
