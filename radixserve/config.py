"""The engine's settings: one frozen dataclass from which flags, defaults and help texts derive.

A field's ``help`` metadata is the sentence that ``radixserve serve --help`` prints; ``choices``
are the values it takes. The front end's own settings extend this class (``ServerConfig``).
Nothing here imports torch, so that ``--help`` and ``--version`` answer at once.
"""

from dataclasses import dataclass, field
from typing import Any

from radixserve.errors import ConfigError

DEMO_MODEL = "demo"


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one step may hold."""

    max_batch_tokens: int
    max_running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """How much may wait in front of an engine that serves; past it requests are refused."""

    max_queued_requests: int = 512
    max_queued_tokens: int = 2**20
    max_queue_s: float = 2.0


NO_QUEUE_LIMITS = QueueLimits(
    max_queued_requests=2**62, max_queued_tokens=2**62, max_queue_s=float("inf")
)
"""Nobody is refused."""


_DEFAULT_LIMITS = {"cpu": BatchLimits(2048, 64), "cuda": BatchLimits(8192, 256)}
"""By kind of device. On a GPU a step must be this large before its arithmetic, and not the reading
of the weights, is what takes the time."""


def option(default: Any, help_text: str, *, choices: tuple[str, ...] = ()) -> Any:
    """A dataclass field that carries its own command-line help."""
    return field(default=default, metadata={"help": help_text, "choices": choices})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What the engine needs to start. Raises ``ConfigError`` on construction for a bad value."""

    model: str = option(
        DEMO_MODEL,
        "Local checkpoint directory or Hugging Face repository id; 'demo' is a small model that "
        "comes with radixserve and answers questions about a document.",
    )
    revision: str | None = option(None, "Revision (branch, tag, commit) of a Hugging Face model.")
    device: str = option(
        "auto",
        "Where the model runs. 'auto': on the GPU if torch can use one, else on the CPU. Of "
        "several GPUs, CUDA_VISIBLE_DEVICES chooses.",
        choices=("auto", "cpu", "cuda"),
    )
    dtype: str = option(
        "auto",
        "Type of weights and KV pages. 'auto': bfloat16 where the device multiplies it in "
        "hardware, else float16 on a GPU and float32 on a CPU.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantization: str = option(
        "none",
        "Weights in fewer bits, made while loading (CPU). With up to about four answers at a time "
        "a step waits for the weights, and in bfloat16 fewer bytes are faster; with more answers "
        "it is slower, and prompts a little. 'int8': half of bfloat16's memory, answers hardly "
        "differ. 'int4': a third, faster still, and answers lose quality. Embeddings stay as they "
        "are. In float32 it only saves memory.",
        choices=("none", "int8", "int4"),
    )
    attention: str = option(
        "auto",
        "Attention backend, and with it how a layer's other small operations are computed. 'auto': "
        "'triton' on a GPU, 'cpu' on a CPU. 'triton': kernels for GPUs. 'cpu': kernels that numba "
        "compiles for this processor at the first start (15 to 20 s, once) and keeps on disk. "
        "'torch': plain torch on either, compiles nothing; slow, to compare with, or where kernels "
        "do not run. 'varlen': torch's own paged attention (GPU, torch 2.12 or newer).",
        choices=("auto", "cpu", "torch", "triton", "varlen"),
    )
    cascade: bool = option(
        True, "In each step read the pages that running requests share once, not once a request."
    )
    cuda_graphs: bool = option(
        True, "Record decode steps as CUDA graphs at start (GPU with Triton attention)."
    )
    page_size: int = option(16, "Tokens per KV page.")
    num_pages: int | None = option(None, "Size of the KV cache in pages; overrides --kv-cache-gib.")
    kv_cache_gib: float | None = option(
        None,
        "Size of the KV cache in GiB. Default: 40% of the memory that is really available; on a "
        "GPU, 92% of what the largest step leaves free.",
    )
    max_model_len: int | None = option(
        None, "Longest prompt plus answer, in tokens. Default: what the model was made for."
    )
    max_batch_tokens: int | None = option(
        None, "Most tokens computed in one step. Default: 2048 on a CPU, 8192 on a GPU."
    )
    max_running: int | None = option(
        None, "Most requests computed together in one step. Default: 64 on a CPU, 256 on a GPU."
    )
    host_cache_gib: float | None = option(
        None,
        "Host memory for what the KV cache has no room for, in GiB: it is loaded back instead of "
        "computed again. On a GPU this memory is page-locked. Default: none.",
    )
    cache_dir: str | None = option(
        None,
        "Directory in which computed prefixes are kept: a restart finds them there. Made if it is "
        "not there; used by one server at a time. Default: none.",
    )
    cache_dir_gib: float = option(
        32.0, "Most that --cache-dir may hold, in GiB; what was not used for longest goes first."
    )
    enable_prefix_cache: bool = option(True, "Share computed prefixes between requests.")
    eviction_policy: str = option(
        "return-time",
        "Which cached prefix goes first when room is needed. 'return-time': the one that is least "
        "likely to come back soon, learnt from what came back; 'lru': the one used longest ago.",
        choices=("return-time", "lru"),
    )
    max_itl_stretch: float | None = option(
        None,
        "While answers are streaming, bound a step with prompt chunks to this many times a step "
        "without. Default: 2 when serving, unbounded offline.",
    )
    chat_template: str | None = option(
        None, "Jinja chat template to use instead of the checkpoint's: a file, or the text itself."
    )
    tool_format: str = option(
        "auto",
        "How the model writes calls of tools. 'auto': as the chat template tells; 'none': requests "
        "with tools are refused.",
        choices=("auto", "hermes", "llama3", "mistral", "none"),
    )
    reasoning_format: str = option(
        "auto",
        "How the model sets its thinking apart. 'think': <think>...</think>; 'auto': so, if the "
        "checkpoint knows these; 'none': thinking is part of the answer.",
        choices=("auto", "think", "none"),
    )
    num_threads: int | None = option(None, "CPU threads for the model. Default: one per core.")
    engine_timeout_s: float = option(
        300.0,
        "An engine process that has work and ends no step in so many seconds hangs: it is killed "
        "and started again. Longer than any step.",
    )

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
        for name, above, most, demand in (
            ("kv_cache_gib", 0.0, 2.0**20 - 1, "be positive"),
            ("host_cache_gib", 0.0, 2.0**20 - 1, "be positive"),
            ("cache_dir_gib", 0.0, 2.0**30, "be positive"),
            ("max_itl_stretch", 1.0, float("inf"), "exceed 1"),
            ("engine_timeout_s", 0.0, float("inf"), "be positive"),
        ):
            value = getattr(self, name)
            if value is None and self.__dataclass_fields__[name].default is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"{name} is {value!r}; it must be a number")
            if not above < value <= most:
                raise ConfigError(f"{name} is {value}; it must {demand}")
        if self.max_batch_tokens is not None and self.max_running is not None:
            self.batch_limits("cpu")
        if self.cache_dir is not None and not _is_path(self.cache_dir):
            # An empty one would be the working directory.
            raise ConfigError(f"cache_dir is {self.cache_dir!r}; it must be a directory's name")
        if not self.enable_prefix_cache and (self.cache_dir or self.host_cache_gib):
            raise ConfigError(
                "cache_dir and host_cache_gib keep what the prefix cache evicts, and "
                "enable_prefix_cache is off; leave them out, or turn it on"
            )
        self._check_choices()

    def _check_choices(self) -> None:
        for option_field in self.__dataclass_fields__.values():
            choices = option_field.metadata.get("choices", ())
            value = getattr(self, option_field.name)
            if isinstance(option_field.default, bool) and not isinstance(value, bool):
                raise ConfigError(f"{option_field.name} is {value!r}; it must be True or False")
            if choices and value is not None and value not in choices:
                raise ConfigError(
                    f"{option_field.name} is {value!r}; it must be one of {', '.join(choices)}"
                )

    def batch_limits(self, device: str) -> BatchLimits:
        """The limits of a step on this kind of device ("cpu", "cuda"): what was asked for, else the
        device's defaults.

        *Raises* ``ConfigError`` if not every running request could get its one token a step.
        """
        default = _DEFAULT_LIMITS[device]
        max_running = self.max_running or default.max_running
        max_batch_tokens = self.max_batch_tokens or max(default.max_batch_tokens, max_running)
        if self.max_running is None:
            max_running = min(max_running, max_batch_tokens)
        if max_batch_tokens < max_running:
            raise ConfigError(
                f"max_batch_tokens ({max_batch_tokens}) is smaller than max_running "
                f"({max_running}): not every running request could get its one token a step; "
                "raise the first or lower the second"
            )
        return BatchLimits(max_batch_tokens, max_running)


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.strip() != "" and "\0" not in value
