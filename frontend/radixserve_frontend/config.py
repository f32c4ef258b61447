"""The front end's settings: the engine's, and what HTTP and the terminal add to them.

Flags, environment variables, defaults and help derive from these classes (``flags.py``), so an
option is declared once and nowhere else. Nothing here imports torch or Starlette.
"""

from dataclasses import dataclass, fields

from radixserve.config import EngineConfig, option
from radixserve.errors import ConfigError

LOG_LEVELS = ("debug", "info", "warning", "error")


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
        "who can reach it, and there is no password.",
    )
    port: int = option(8000, "Port to listen on; 0 takes any free one and prints it.")
    served_model_name: str | None = option(
        None,
        "Name that clients put into 'model'. Default: MODEL as given, which works in any case.",
    )
    log_level: str = option(
        "info", "How much to log. Prompts and answers are never logged.", choices=LOG_LEVELS
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
        for name in ("host", "served_model_name", "record_trace"):
            if getattr(self, name) == "":
                raise ConfigError(f"{name} is empty; give it a value or leave it out")

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
