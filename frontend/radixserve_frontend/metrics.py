"""``GET /metrics`` for Prometheus: what the engine says of itself, and what this server measured.

One registry per app, so two apps in one process (tests) do not meet. Gauges and counters of the
engine are read from its newest figures when somebody scrapes; histograms are fed by the record of
each finished request. Labels come from fixed lists, never from what a client sent.
"""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from radixserve.engine.interface import Engine
from radixserve.types import MISS_CAUSES
from radixserve_frontend.record import RequestRecord

_TTFT_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
)  # fmt: skip
_TPOT_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5,
)  # fmt: skip
_DURATION_BUCKETS: Final = (
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip


class Metrics:
    """The app's registry and what is fed by hand."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_EngineCollector(engine))
        self._requests = Counter(
            "radixserve_requests",
            "HTTP requests finished, by route and status (499: the client went away first).",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self._ttft = Histogram(
            "radixserve_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=_TTFT_BUCKETS,
            registry=self._registry,
        )
        self._tpot = Histogram(
            "radixserve_time_per_output_token_seconds",
            "Mean time between one answer's tokens after the first.",
            buckets=_TPOT_BUCKETS,
            registry=self._registry,
        )
        self._duration = Histogram(
            "radixserve_request_duration_seconds",
            "From a generation request's arrival to its last byte.",
            buckets=_DURATION_BUCKETS,
            registry=self._registry,
        )

    def observe(self, record: RequestRecord, duration_s: float) -> None:
        """Count a finished request. *Mutates* the registry."""
        self._requests.labels(record.endpoint, str(record.status)).inc()
        if record.ttft_s is None:
            return
        self._ttft.observe(record.ttft_s)
        self._duration.observe(duration_s)
        for timing in record.choices.values():
            if timing.seconds_per_token is not None:
                self._tpot.observe(timing.seconds_per_token)

    async def show(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``GET /metrics``."""
        return Response(
            generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


class _EngineCollector(Collector):
    """Reads the engine's figures at the moment of a scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every metric that the engine's statistics make."""
        stats, info = self._engine.stats, self._engine.info
        yield InfoMetricFamily(
            "radixserve_model",
            "What is served.",
            value={
                "model": info.model,
                "architecture": info.architecture,
                "dtype": info.dtype,
                "device": info.device,
            },
        )
        for name, help_text, value in (
            ("engine_up", "1 while the engine process lives.", float(self._engine.is_alive)),
            ("requests_waiting", "Answers waiting for their turn.", stats.num_waiting),
            ("requests_running", "Answers being computed.", stats.num_running),
            (
                "prefix_hit_rate",
                "Share of prompt tokens since the start that the cache already held.",
                stats.cached_tokens / stats.prompt_tokens if stats.prompt_tokens else 0.0,
            ),
            ("page_size_tokens", "Tokens per KV page.", stats.cache.page_size),
        ):
            yield GaugeMetricFamily(f"radixserve_{name}", help_text, value=value)
        pages = GaugeMetricFamily(
            "radixserve_pages",
            "KV pages by state: used by a request, kept for reuse, or free.",
            labels=["state"],
        )
        pages.add_metric(["in_use"], stats.cache.in_use_pages)
        pages.add_metric(["cached"], stats.cache.cached_pages)
        pages.add_metric(["free"], stats.cache.free_pages)
        yield pages
        sources = CounterMetricFamily(
            "radixserve_prompt_tokens_by_source",
            "Prompt tokens of admitted requests: held by the cache, computed by another request in "
            "flight while this one waited, or computed for it.",
            labels=["source"],
        )
        sources.add_metric(["device"], stats.cached_tokens - stats.in_flight_tokens)
        sources.add_metric(["in_flight"], stats.in_flight_tokens)
        sources.add_metric(["computed"], stats.prompt_tokens - stats.cached_tokens)
        yield sources
        causes = CounterMetricFamily(
            "radixserve_admissions",
            "Requests admitted, by why the cache held no more of their prompts.",
            labels=["cause"],
        )
        for cause in MISS_CAUSES:
            causes.add_metric([cause], stats.admissions.get(cause, 0))
        yield causes
        for name, help_text, count in (
            ("prompt_tokens", "Prompt tokens of admitted requests.", stats.prompt_tokens),
            ("cached_tokens", "Those of them that the cache already held.", stats.cached_tokens),
            ("computed_tokens", "Tokens run through the model.", stats.computed_tokens),
            ("generated_tokens", "Tokens generated.", stats.generated_tokens),
            ("engine_steps", "Forward passes.", stats.num_steps),
            ("preemptions", "Times a request gave its pages to another.", stats.preemptions),
            ("evicted_pages", "Cached pages dropped to make room.", stats.evicted_pages),
        ):
            yield CounterMetricFamily(f"radixserve_{name}", help_text, value=count)
