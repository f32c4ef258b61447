"""Spans: one a generation request, in the conventions' words, never text; nothing unless asked."""

import builtins
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from radixserve.errors import ConfigError
from radixserve_frontend.app import create_app
from radixserve_frontend.key_store import open_key_store
from radixserve_frontend.tracing import RequestTracer, open_tracer
from tests.frontend.fake_engine import FakeEngine
from tests.frontend.http_calls import CHAT, COMPLETIONS, MESSAGES
from tests.frontend.http_fixtures import MODEL, calling, config_of

KEY = "0123456789-secret-key"
BODY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 4}


@pytest.fixture
def exported() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exported: InMemorySpanExporter) -> Iterator[RequestTracer]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    made = RequestTracer(provider, MODEL)
    yield made
    made.close()


async def test_a_request_makes_a_span(
    exported: InMemorySpanExporter, tracer: RequestTracer
) -> None:
    config = config_of(api_keys=f"acme:{KEY}")
    app = create_app(FakeEngine(), config, keys=open_key_store(config), tracer=tracer)
    trace_id, parent_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"x-api-key": KEY, "traceparent": f"00-{trace_id}-{parent_id}-01"}
    async with calling(app) as client:
        answer = await client.post(CHAT, json={**BODY, "cache_salt": "salty"}, headers=headers)
        await client.get("/v1/models", headers=headers)
        await client.get("/health")
    (span,) = exported.get_finished_spans()
    assert span.name == "chat fake"
    assert span.kind == SpanKind.SERVER
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == trace_id
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == parent_id
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time > span.start_time
    attributes = dict(span.attributes or {})
    ttft_s = attributes.pop("gen_ai.response.time_to_first_chunk")
    assert isinstance(ttft_s, float)
    assert 0 < ttft_s * 1e9 <= span.end_time - span.start_time
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "radixserve",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.stream": False,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 24,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 16,
        "http.request.method": "POST",
        "http.route": CHAT,
        "http.response.status_code": 200,
        "radixserve.request_id": answer.headers["x-request-id"],
        "radixserve.outcome": "ok",
        "radixserve.tenant": "acme",
    }
    for secret in ("Hello", "abcd", "salty", KEY):
        assert secret not in span.to_json()


async def test_errors_are_marked(exported: InMemorySpanExporter, tracer: RequestTracer) -> None:
    async with calling(create_app(FakeEngine(), config_of(), tracer=tracer)) as client:
        await client.post(COMPLETIONS, json={"model": MODEL, "prompt": "x", "max_tokens": -1})
        await client.post(COMPLETIONS, json={"model": MODEL, "prompt": "x"})
    failed, fine = exported.get_finished_spans()
    assert failed.name == "text_completion fake"
    assert failed.status.status_code == StatusCode.ERROR
    assert dict(failed.attributes or {})["error.type"]
    assert fine.status.status_code == StatusCode.UNSET
    assert fine.parent is None


def test_it_is_off_and_costs_no_import_by_default() -> None:
    assert open_tracer(config_of()) is None
    code = (
        "import sys, radixserve_frontend.app, radixserve_frontend.server\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_tracer_as_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    tracer = open_tracer(config_of(otel=True))
    assert tracer is not None
    assert tracer._provider.resource.attributes["service.name"] == "radixserve"
    tracer.close()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    tracer = open_tracer(config_of(otel=True))
    assert tracer is not None
    assert tracer._provider.resource.attributes["service.name"] == "mine"
    tracer.close()


def test_without_the_packages_it_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name, name="opentelemetry")
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'radixserve\[otel\]'"):
        open_tracer(config_of(otel=True))
