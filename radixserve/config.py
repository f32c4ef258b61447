"""The engine's settings: one frozen dataclass from which flags, defaults and help texts derive.

A field's ``help`` metadata is the sentence that ``radixserve serve --help`` prints; ``choices``
are the values it takes. The front end's own settings extend this class (``ServerConfig``).
Nothing here imports torch, so that ``--help`` and ``--version`` answer at once.
"""

from dataclasses import dataclass, field
from typing import Any

from radixserve.errors import ConfigError

DEMO_MODEL = "demo"


def option(default: Any, help_text: str, *, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that carries its own command-line help."""
    return field(default=default, metadata={"help": help_text, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine needs to start. Raises ``ConfigError`` on construction for a bad value."""

    model: str = option(
        DEMO_MODEL,
        "Local checkpoint directory or Hugging Face repository id; 'demo' is a built-in tiny model "
        "with random weights.",
    )
    revision: str | None = option(None, "Revision (branch, tag, commit) of a Hugging Face model.")
    device: str = option(
        "auto",
        "Where the model runs; for now on the CPU, whatever else there is.",
        choices=("auto", "cpu"),
    )
    dtype: str = option(
        "auto",
        "Type of weights and KV pages. 'auto': bfloat16 where the processor multiplies it in "
        "hardware, else float32.",
        choices=("auto", "float32", "bfloat16"),
    )
    attention: str = option("auto", "Attention backend.", choices=("auto", "torch"))
    page_size: int = option(16, "Tokens per KV page.")
    num_pages: int | None = option(None, "Size of the KV cache in pages; overrides --kv-cache-gib.")
    kv_cache_gib: float | None = option(
        None, "Size of the KV cache in GiB. Default: 40% of the memory that is really available."
    )
    max_model_len: int | None = option(
        None, "Longest prompt plus answer, in tokens. Default: what the model was made for."
    )
    max_batch_tokens: int = option(2048, "Most tokens computed in one step.")
    max_running: int = option(64, "Most requests computed together in one step.")
    enable_prefix_cache: bool = option(True, "Share computed prefixes between requests.")
    max_itl_stretch: float | None = option(
        None,
        "While answers are streaming, bound a step with prompt chunks to this many times a step "
        "without. Default: 2 when serving, unbounded offline.",
    )
    chat_template: str | None = option(
        None, "Jinja chat template to use instead of the checkpoint's: a file, or the text itself."
    )
    num_threads: int | None = option(None, "CPU threads for the model. Default: one per core.")

    def __post_init__(self) -> None:
        for name, low, high in (
            ("page_size", 1, 4096),
            ("num_pages", 2, 2**31 - 1),
            ("max_model_len", 2, 2**31 - 1),
            ("max_batch_tokens", 1, 2**20),
            ("max_running", 1, 4096),
            ("num_threads", 1, 1024),
        ):
            value = getattr(self, name)
            if value is None and self.__dataclass_fields__[name].default is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{name} is {value!r}; it must be a whole number")
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}; it must lie in [{low}, {high}]")
        for name in ("kv_cache_gib", "max_itl_stretch"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not is_number:
                raise ConfigError(f"{name} is {value!r}; it must be a number")
        if self.kv_cache_gib is not None and not 0 < self.kv_cache_gib < 2**20:
            raise ConfigError(f"kv_cache_gib is {self.kv_cache_gib}; it must be positive")
        if self.max_itl_stretch is not None and not self.max_itl_stretch > 1:
            raise ConfigError(f"max_itl_stretch is {self.max_itl_stretch}; it must exceed 1")
        if self.max_batch_tokens < self.max_running:
            raise ConfigError(
                f"max_batch_tokens ({self.max_batch_tokens}) is smaller than max_running "
                f"({self.max_running}): not every running request could get its one token a step; "
                "raise the first or lower the second"
            )
        for option_field in self.__dataclass_fields__.values():
            choices = option_field.metadata.get("choices", ())
            value = getattr(self, option_field.name)
            if choices and value is not None and value not in choices:
                raise ConfigError(
                    f"{option_field.name} is {value!r}; it must be one of {', '.join(choices)}"
                )
