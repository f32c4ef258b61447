"""What crosses the engine's border: requests going in, tokens coming out. Plain data, no behaviour.

The same frozen dataclasses serve the in-process API and, encoded by ``messages.py``, the engine
process. Nothing here knows text: the engine takes token ids and gives token ids.
"""

from dataclasses import dataclass
from typing import Literal

from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.params import SamplingDefaults, SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One prompt, ready to run: validated, tokenized, its parameters resolved."""

    request_id: RequestId
    prompt_ids: list[int]
    params: SamplingParams
    end_token_ids: list[int]
    """Every token id that ends the answer: the checkpoint's, unless ignored, and the request's."""
    namespace: Namespace = DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """The log-probability of one chosen token and of the likeliest alternatives at its place.

    They come from the model's own distribution: the log-softmax of the raw logits, before
    penalties, bias, temperature and truncation.
    """

    token_id: int
    logprob: float
    top: list[tuple[int, float]]
    """(token id, log-probability), likeliest first; as many as the request asked for."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One token that the sampler chose."""

    token_id: int
    logprob: TokenLogprob | None = None
    """Present if the request asked for log-probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDelta:
    """What one step added to one choice of one request."""

    request_id: RequestId
    index: int
    """Which of the request's ``n`` choices."""
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    """One entry per token id, if the request asked."""
    finish_reason: FinishReason | None = None
    """Set on the choice's last delta."""
    stop_token_id: int | None = None
    """The token that ended it, when ``finish_reason`` is "stop": the last of ``token_ids``."""
    num_cached_tokens: int = 0
    """Prompt tokens that the tree already held when the request was first admitted."""
    error: str | None = None
    """What went wrong, when ``finish_reason`` is "error"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheInfo:
    """Where the pages are. Each is counted once: free + cached + in_use == total."""

    free_pages: int
    cached_pages: int
    in_use_pages: int
    total_pages: int
    page_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """Gauges (now) and counters (since start), sent along with the tokens."""

    num_waiting: int
    num_running: int
    cache: CacheInfo
    num_steps: int = 0
    prompt_tokens: int = 0
    """Prompt tokens of admitted requests (counted once, at first admission)."""
    cached_tokens: int = 0
    """Those of them that the tree held."""
    computed_tokens: int = 0
    """Tokens run through the model, recomputation after preemption included."""
    generated_tokens: int = 0
    preemptions: int = 0
    evicted_pages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What the engine found out at start and everybody in front of it needs to know."""

    model: str
    model_dir: str
    """Local directory of the checkpoint: tokenizer and template are read from it."""
    architecture: str
    num_parameters: int
    device: str
    dtype: str
    attention: str
    max_model_len: int
    vocab_size: int
    page_size: int
    num_pages: int
    kv_cache_bytes: int
    """Memory that the KV pages take."""
    eos_token_ids: list[int]
    sampling_defaults: SamplingDefaults
    load_seconds: float
    """From the first look at the checkpoint until a step could run."""
