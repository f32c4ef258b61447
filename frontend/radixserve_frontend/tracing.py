"""``--otel``: a span for each generation request, for OpenTelemetry.

Written once, when the request has ended, from its record: nothing is spent per token, and a span
says what the access log says, in the words of the semantic conventions for generative models
(``gen_ai.*``). Never text, keys or salts. A client's own trace (``traceparent``) is continued.

Where spans go, and which are kept, is for the standard ``OTEL_*`` variables to say
(``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER``); they are sent by OTLP over HTTP, from a
thread of the SDK's, a few seconds later; what cannot be sent is dropped. The packages are imported
only where they are asked for (``pip install 'radixserve[otel]'``).
"""

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from radixserve.errors import ConfigError
from radixserve_frontend.config import ServerConfig
from radixserve_frontend.record import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

_OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}
"""By endpoint. Others make no spans."""

_TRACE_HEADERS: Final = frozenset({b"traceparent", b"tracestate"})


class RequestTracer:
    """Makes spans of records. ``provider`` says where they go."""

    def __init__(self, provider: "TracerProvider", model: str) -> None:
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415  # see the module
            TraceContextTextMapPropagator,
        )

        self._provider = provider
        self._tracer = provider.get_tracer("radixserve")
        self._propagator = TraceContextTextMapPropagator()
        self._model = model

    def record(
        self, record: RequestRecord, headers: Iterable[tuple[bytes, bytes]], duration_s: float
    ) -> None:
        """Make a span of a request that has just ended."""
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415  # see above

        operation = _OPERATIONS.get(record.endpoint)
        if operation is None:
            return
        carrier = {
            name.decode("ascii"): value.decode("latin-1")
            for name, value in headers
            if name in _TRACE_HEADERS
        }
        ended_ns = time.time_ns()
        span = self._tracer.start_span(
            f"{operation} {self._model}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=ended_ns - round(duration_s * 1e9),
            attributes=self._attributes(record, operation),
        )
        if record.outcome == "error":
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended_ns)

    def close(self) -> None:
        """Send what was not sent yet, for a few seconds at most."""
        self._provider.shutdown()

    def _attributes(self, record: RequestRecord, operation: str) -> "dict[str, AttributeValue]":
        attributes: dict[str, AttributeValue] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "radixserve",
            "gen_ai.request.model": self._model,
            "gen_ai.response.finish_reasons": sorted(set(record.finish_reasons)),
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.generated_tokens,
            "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
            "http.request.method": record.method,
            "http.route": record.endpoint,
            "radixserve.request_id": record.request_id,
            "radixserve.outcome": record.outcome,
            "gen_ai.request.stream": record.stream,
        }
        if record.status is not None:
            attributes["http.response.status_code"] = record.status
        if record.tenant:
            attributes["radixserve.tenant"] = record.tenant
        if record.outcome == "error":
            attributes["error.type"] = record.error_code or str(record.status)
        if record.ttft_s is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = record.ttft_s
        return attributes


def open_tracer(config: ServerConfig) -> RequestTracer | None:
    """The tracer that ``config`` asks for. *Raises* ``ConfigError`` if the packages are missing."""
    if not config.otel:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"otel is set, but {error.name} is not installed; pip install 'radixserve[otel]'"
        ) from error
    is_named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create({} if is_named else {"service.name": "radixserve"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return RequestTracer(provider, config.model_names[0])
