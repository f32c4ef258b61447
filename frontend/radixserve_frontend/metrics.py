"""``GET /metrics`` for Prometheus: what the engine says of itself, and what this server measured.

Names are the field's (vLLM's, where it has one) behind our own prefix. One registry per app, so two
apps in one process (tests) do not meet. Gauges and counters of the engine are read from its newest
figures when somebody scrapes; histograms are fed by the record of each finished request. Labels
come from fixed lists or from the keys' file, never from what a client sent.
"""

from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from radixserve.engine.interface import Engine
from radixserve.types import MISS_CAUSES, REFUSAL_REASONS, TierInfo
from radixserve_frontend.cache_report import tokens_by_source
from radixserve_frontend.key_store import KeyStore
from radixserve_frontend.record import GAP_BOUNDS_S, Gaps, RequestRecord

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
    """The app's registry and what is fed by hand. ``keys``: count by tenant, too."""

    def __init__(self, engine: Engine, keys: KeyStore | None = None) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_EngineCollector(engine))
        self._gaps = Gaps()
        self._registry.register(_GapsCollector(self._gaps))
        self._tenants = None if keys is None else _TenantCounters(self._registry)
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
            "radixserve_e2e_request_latency_seconds",
            "From a generation request's arrival to its last byte.",
            buckets=_DURATION_BUCKETS,
            registry=self._registry,
        )
        self._queue_time = Histogram(
            "radixserve_request_queue_time_seconds",
            "From a prompt's submission to its first admission.",
            buckets=_TTFT_BUCKETS,
            registry=self._registry,
        )

    def observe(self, record: RequestRecord, duration_s: float) -> None:
        """Count a finished request. *Mutates* the registry."""
        self._requests.labels(record.endpoint, str(record.status)).inc()
        if self._tenants is not None and record.tenant:
            self._tenants.observe(record)
        for queued_s in record.queued_s:
            self._queue_time.observe(queued_s)
        if record.ttft_s is None:
            return
        self._ttft.observe(record.ttft_s)
        self._duration.observe(duration_s)
        self._gaps.add(record.gaps)
        for timing in record.choices.values():
            if timing.seconds_per_token is not None:
                self._tpot.observe(timing.seconds_per_token)

    async def show(self, request: Request) -> Response:  # noqa: ARG002  # Starlette passes it
        """``GET /metrics``."""
        return Response(
            generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


class _TenantCounters:
    """What each tenant used. Only names of the keys' file become labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "radixserve_tenant_requests",
            "Requests finished, by tenant and status.",
            ["tenant", "status"],
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "radixserve_tenant_prompt_tokens",
            "Prompt tokens of requests that were taken, cached ones included.",
            ["tenant"],
            registry=registry,
        )
        self._cached_tokens = Counter(
            "radixserve_tenant_cached_tokens",
            "Those of them that the cache already held.",
            ["tenant"],
            registry=registry,
        )
        self._generation_tokens = Counter(
            "radixserve_tenant_generation_tokens",
            "Tokens generated and delivered.",
            ["tenant"],
            registry=registry,
        )

    def observe(self, record: RequestRecord) -> None:
        tenant = record.tenant
        self._requests.labels(tenant, str(record.status)).inc()
        self._prompt_tokens.labels(tenant).inc(record.prompt_tokens)
        self._cached_tokens.labels(tenant).inc(record.cached_tokens)
        self._generation_tokens.labels(tenant).inc(record.generated_tokens)


class _GapsCollector(Collector):
    """The times between tokens. A histogram of the library's would cost more per token than all
    else that is done for it: here a token costs a count in its request's record."""

    def __init__(self, gaps: Gaps) -> None:
        self._gaps = gaps

    def collect(self) -> Iterator[Metric]:
        """One histogram."""
        bounds = [*map(str, GAP_BOUNDS_S), "+Inf"]
        yield HistogramMetricFamily(
            "radixserve_inter_token_latency_seconds",
            "Between one delivery of an answer's tokens and the next.",
            buckets=[*zip(bounds, accumulate(self._gaps.counts), strict=True)],
            sum_value=self._gaps.sum_s,
        )


class _EngineCollector(Collector):
    """Reads the engine's figures at the moment of a scrape."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Every metric that the engine's statistics make."""
        stats, info, health = self._engine.stats, self._engine.info, self._engine.health
        yield InfoMetricFamily(
            "radixserve_model",
            "What is served.",
            value={
                "model": info.model,
                "architecture": info.architecture,
                "dtype": info.dtype,
                "quantization": info.quantization,
                "device": info.device,
            },
        )
        for name, help_text, value in (
            ("engine_up", "1 while the engine process lives.", float(health.is_up)),
            ("num_requests_waiting", "Answers waiting for their turn.", stats.num_waiting),
            ("num_requests_running", "Answers being computed.", stats.num_running),
            (
                "prefix_hit_rate",
                "Share of prompt tokens since the start that the cache already held.",
                stats.cached_tokens / stats.prompt_tokens if stats.prompt_tokens else 0.0,
            ),
            (
                "expected_wait_seconds",
                "How long a request that came now would wait for its turn, as estimated.",
                stats.expected_wait_s,
            ),
            (
                "kv_cache_usage_perc",
                "Share of the KV pages, from 0 to 1, that requests use; what is only kept for "
                "reuse does not count.",
                stats.cache.in_use_pages / stats.cache.total_pages,
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
            "Prompt tokens of admitted requests: held by the cache, loaded from host memory or "
            "files, computed by another request in flight while this one waited, or computed for "
            "it.",
            labels=["source"],
        )
        for source, num_tokens in tokens_by_source(stats).items():
            sources.add_metric([source], num_tokens)
        yield sources
        causes = CounterMetricFamily(
            "radixserve_admissions",
            "Requests admitted, by why the cache held no more of their prompts.",
            labels=["cause"],
        )
        for cause in MISS_CAUSES:
            causes.add_metric([cause], stats.admissions.get(cause, 0))
        yield causes
        refused = CounterMetricFamily(
            "radixserve_requests_refused",
            "Requests answered with 429, by the bound of the queue that they met.",
            labels=["reason"],
        )
        for reason in REFUSAL_REASONS:
            refused.add_metric([reason], stats.refused.get(reason, 0))
        yield refused
        for name, help_text, count in (
            ("prompt_tokens", "Prompt tokens of admitted requests.", stats.prompt_tokens),
            ("cached_tokens", "Those of them that the cache already held.", stats.cached_tokens),
            ("computed_tokens", "Tokens run through the model.", stats.computed_tokens),
            (
                "prefilled_tokens",
                "Those of them that nobody had asked for yet: next turns, computed while idle.",
                stats.prefilled_tokens,
            ),
            ("generation_tokens", "Tokens generated.", stats.generated_tokens),
            ("engine_steps", "Forward passes.", stats.num_steps),
            ("num_preemptions", "Times a request gave its pages to another.", stats.preemptions),
            ("evicted_pages", "Cached pages dropped to make room.", stats.evicted_pages),
            ("engine_restarts", "Times the engine process was started again.", health.num_restarts),
            (
                "resumed_requests",
                "Requests that were in an engine process when it died, and went on in another.",
                health.num_resumed_requests,
            ),
        ):
            yield CounterMetricFamily(f"radixserve_{name}", help_text, value=count)
        if stats.tiers is not None:
            yield from _tier_metrics(stats.tiers)


def _tier_metrics(tiers: TierInfo) -> Iterator[Metric]:
    """Only where there are tiers below the KV cache."""
    pages = GaugeMetricFamily(
        "radixserve_host_pages",
        "Pages of the host cache by state: in a transfer just now, kept, or free.",
        labels=["state"],
    )
    pages.add_metric(["in_use"], tiers.host_in_use_pages)
    pages.add_metric(["cached"], tiers.host_cached_pages)
    pages.add_metric(["free"], tiers.host_free_pages)
    yield pages
    for name, help_text, value in (
        ("disk_pages", "Pages of this model in the cache directory.", tiers.disk_pages),
        ("disk_bytes", "Size of all files in the cache directory.", tiers.disk_bytes),
        ("disk_limit_bytes", "Most that they may take together.", tiers.disk_limit_bytes),
    ):
        yield GaugeMetricFamily(f"radixserve_{name}", help_text, value=value)
    loaded = CounterMetricFamily(
        "radixserve_loaded_pages",
        "Pages loaded into the KV cache, by where they came from.",
        labels=["source"],
    )
    loaded.add_metric(["host"], tiers.host_loaded_pages)
    loaded.add_metric(["disk"], tiers.disk_loaded_pages)
    yield loaded
    for name, help_text, count in (
        ("disk_stored_pages", "Pages written to the cache directory.", tiers.disk_stored_pages),
        (
            "rejected_files",
            "Files of the cache directory that were torn, foreign or damaged, and not used.",
            tiers.rejected_files,
        ),
        (
            "lost_pages",
            "Evicted pages that the host cache had no room for.",
            tiers.lost_pages,
        ),
    ):
        yield CounterMetricFamily(f"radixserve_{name}", help_text, value=count)
