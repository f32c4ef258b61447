"""The front end's settings: the engine's, and what HTTP and the terminal add to them.

Flags, environment variables, defaults and help derive from these classes (``flags.py``), so an
option is declared once and nowhere else. Nothing here imports torch or Starlette.
"""

import re
from dataclasses import dataclass, field, fields
from typing import Any

from radixserve.config import EngineConfig, QueueLimits, option
from radixserve.errors import ConfigError

_QUEUE = QueueLimits()
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


def secret(help_text: str) -> Any:
    """A setting that only the environment can give: flags are in every list of processes. It is
    in no ``repr``, and None by default."""
    return field(
        default=None, repr=False, metadata={"help": help_text, "choices": (), "env_only": True}
    )


def engine_config(config: EngineConfig) -> EngineConfig:
    """The engine's part of a front end's config, and nothing more: what crosses to the engine."""
    return EngineConfig(**{part.name: getattr(config, part.name) for part in fields(EngineConfig)})


def _check_range(name: str, value: float | None, low: float, high: float) -> None:
    # `not (low <= value)` also catches NaN, which compares false with everything.
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{name} is {value}; it must lie in [{low}, {high}]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(EngineConfig):
    """What ``radixserve serve`` needs. Raises ``ConfigError`` on construction for a bad value."""

    host: str = option(
        "127.0.0.1",
        "Address to listen on. The default answers this machine only; 0.0.0.0 answers everybody "
        "who can reach it: give the server API keys then.",
    )
    port: int = option(8000, "Port to listen on; 0 takes any free one and prints it.")
    served_model_name: str | None = option(
        None,
        "Name that clients put into 'model'. Default: MODEL as given, which works in any case.",
    )
    log_level: str = option(
        "info",
        "How much to log. What users write is logged only with --log-requests.",
        choices=LOG_LEVELS,
    )
    log_format: str = option(
        "text",
        "How the log is written: lines for people, or a JSON object a line.",
        choices=LOG_FORMATS,
    )
    log_requests: bool = option(
        False,
        "Log what users write and what they are answered, and the paths that they ask for. For "
        "debugging: such a log holds everybody's secrets.",
    )
    api_keys_file: str | None = option(
        None,
        "Ask for an API key: a TOML file of tenants and their keys (see the README), read again "
        "when it changes. Default: no keys, and everybody may do everything.",
    )
    api_keys: str | None = secret(
        "API keys as TENANT:KEY,TENANT:KEY ('TENANT+admin:KEY' for an administrator's), besides "
        "those of --api-keys-file."
    )
    public_prompts: str | None = option(
        None,
        "System prompts whose cached tokens all tenants share: a JSON list of strings if the name "
        "ends in .json, else a text file that holds one. How fast they are tells everybody whether "
        "somebody has used them. Default: tenants share nothing.",
    )
    prefill_ahead: bool = option(
        True,
        "Where the chat template shows an answer otherwise than the model gave it (without its "
        "thinking, say): compute what the next turn begins with while there is nothing else to do.",
    )
    public_metrics: bool = option(False, "Where there are keys: answer GET /metrics without one.")
    metrics_by_tenant: bool = option(
        False, "Where there are keys: count requests and tokens in /metrics by tenant, too."
    )
    cors_origins: str | None = option(
        None,
        "Origins whose web pages may call the server, with commas between, or '*' for all. "
        "Default: none.",
    )
    max_connections: int = option(
        1000, "Most connections at once; requests on further ones are answered with 503."
    )
    max_header_bytes: int = option(
        64 * 2**10, "Largest request head (line and headers), in bytes; a larger one gets 431."
    )
    header_timeout_s: float = option(
        30.0, "How long a client may take to send a request's head; then it gets 408."
    )
    body_timeout_s: float = option(
        60.0, "How long a client may take to send a request's body; then it gets 408."
    )
    send_timeout_s: float = option(
        60.0,
        "How long a client may leave unread what it was sent; then its connection is broken off, "
        "and its request aborted.",
    )
    debug_endpoints: bool = option(
        False,
        "Answer GET /debug/requests, /debug/tasks and /debug/stacks (where there are keys, to "
        "administrators).",
    )
    otel: bool = option(
        False,
        "Send a trace span per request by OpenTelemetry (pip install 'radixserve[otel]'), to where "
        "the standard OTEL_* variables say. Never text.",
    )
    shutdown_timeout_s: float = option(
        30.0,
        "After SIGTERM or Ctrl-C, give the answers in flight this many seconds to finish; new "
        "requests get 503 meanwhile. A second Ctrl-C does not wait.",
    )
    max_body_bytes: int = option(
        16 * 2**20, "Largest request body, in bytes; a larger one is answered with 413."
    )
    max_choices: int = option(
        256, "Most answers that one request may ask for (its prompts times n)."
    )
    max_queued_requests: int = option(
        _QUEUE.max_queued_requests,
        "Most requests that may wait for their turn; one more is answered with 429 at once.",
    )
    max_queued_tokens: int = option(
        _QUEUE.max_queued_tokens,
        "Most prompt tokens that may wait for their turn; likewise.",
    )
    max_queue_s: float = option(
        _QUEUE.max_queue_s,
        "Longest that a new request may have to wait for its turn, in seconds, as estimated from "
        "how fast the engine starts them; likewise. Lower: quicker answers under overload. Higher: "
        "longer bursts are taken.",
    )
    max_request_s: float | None = option(
        None,
        "Longest that any request may take, in seconds; then it is ended with an error. Requests "
        "can ask for less ('timeout'). Default: as long as it takes.",
    )
    max_stored_responses: int = option(
        1000,
        "Most answers of /v1/responses to remember, for clients that go on from them by "
        "previous_response_id; 0 remembers none. They are in memory: a restart forgets them.",
    )
    max_stored_response_tokens: int = option(
        8 * 2**20, "Most tokens that the remembered answers may have, their prompts included."
    )
    response_ttl_s: float = option(
        3600.0, "How long to remember an answer of /v1/responses, in seconds."
    )
    token_memory_mib: int = option(
        128,
        "Memory for the tokens that conversations have been made of, in MiB: so that what clients "
        "send back as text comes in the very tokens that are cached, and is not tokenized anew in "
        "every turn. 0 remembers none.",
    )
    record_trace: str | None = option(
        None,
        "Record when which prompts came, as a Mooncake trace that bench/hit_rate.py replays: "
        "lengths, times and numbers of blocks, never text. A new file; gzipped if it ends in .gz.",
    )
    sse_ping_s: float = option(
        15.0,
        "While a stream is silent (a long prompt, a full queue), send a comment line every so "
        "many seconds, so that proxies keep the connection.",
    )

    def __post_init__(self) -> None:
        # Not super(): the slotted dataclass is another class than the one written here.
        EngineConfig.__post_init__(self)
        _check_range("port", self.port, 0, 65535)
        _check_range("shutdown_timeout_s", self.shutdown_timeout_s, 0, 86400)
        _check_range("max_body_bytes", self.max_body_bytes, 1024, 2**31)
        _check_range("max_choices", self.max_choices, 1, 65536)
        _check_range("sse_ping_s", self.sse_ping_s, 0.1, 86400)
        _check_range("max_stored_responses", self.max_stored_responses, 0, 10**7)
        _check_range("max_stored_response_tokens", self.max_stored_response_tokens, 1, 2**40)
        _check_range("token_memory_mib", self.token_memory_mib, 0, 2**20)
        _check_range("response_ttl_s", self.response_ttl_s, 1, 30 * 86400)
        _check_range("max_queued_requests", self.max_queued_requests, 1, 2**31)
        _check_range("max_queued_tokens", self.max_queued_tokens, 1, 2**40)
        _check_range("max_queue_s", self.max_queue_s, 0.01, 86400)
        # Not needed for --help, and behind it is numpy.
        from radixserve.types import MAX_DEADLINE_S  # noqa: PLC0415

        _check_range("max_request_s", self.max_request_s, 0.01, MAX_DEADLINE_S)
        _check_range("max_connections", self.max_connections, 1, 10**6)
        _check_range("max_header_bytes", self.max_header_bytes, 1024, 2**20)
        _check_range("header_timeout_s", self.header_timeout_s, 0.01, 86400)
        _check_range("body_timeout_s", self.body_timeout_s, 0.01, 86400)
        _check_range("send_timeout_s", self.send_timeout_s, 0.01, 86400)
        for name in (
            "host",
            "served_model_name",
            "record_trace",
            "api_keys_file",
            "api_keys",
            "public_prompts",
            "cors_origins",
        ):
            # An empty variable must not mean "no keys".
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty; give it a value or leave it out")
        for origin in self.allowed_origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ConfigError(
                    f"cors_origins has {origin!r}; expected origins such as "
                    "https://chat.example.com, without a path, or '*'"
                )
        for name in ("public_metrics", "metrics_by_tenant"):
            if getattr(self, name) and not self.has_keys:
                raise ConfigError(
                    f"{name} is set, but there are no API keys; give api_keys_file, or leave it out"
                )

    @property
    def queue_limits(self) -> QueueLimits:
        """How much may wait in front of the engine."""
        return QueueLimits(
            max_queued_requests=self.max_queued_requests,
            max_queued_tokens=self.max_queued_tokens,
            max_queue_s=self.max_queue_s,
        )

    @property
    def has_keys(self) -> bool:
        """Whether callers must say who they are."""
        return self.api_keys_file is not None or self.api_keys is not None

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """Origins whose pages may call the server."""
        return tuple((self.cors_origins or "").replace(",", " ").split())

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names under which requests may address the model, the advertised one first."""
        if self.served_model_name is None or self.served_model_name == self.model:
            return (self.model,)
        return (self.served_model_name, self.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatConfig(EngineConfig):
    """What ``radixserve chat`` needs. Raises ``ConfigError`` on construction for a bad value."""

    url: str | None = option(
        None,
        "Chat with a running server at this address (say http://127.0.0.1:8000) instead of "
        "starting an engine here.",
    )
    system: str | None = option(None, "System prompt to begin with.")
    temperature: float | None = option(
        None, "0 always takes the likeliest token. Default: what the checkpoint recommends."
    )
    max_tokens: int | None = option(
        None, "Longest answer, in tokens. Default: what is left of the context."
    )
    log_level: str = option("warning", "How much to log.", choices=LOG_LEVELS)

    def __post_init__(self) -> None:
        EngineConfig.__post_init__(self)
        _check_range("temperature", self.temperature, 0.0, 100.0)
        _check_range("max_tokens", self.max_tokens, 1, 2**31 - 1)
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"url is {self.url!r}; it must start with http:// or https://")
