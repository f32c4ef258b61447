"""What crosses the engine's border: requests going in, tokens coming out. Plain data, no behaviour.

The same frozen dataclasses serve the in-process API and, encoded by ``messages.py``, the engine
process. Nothing here knows text: the engine takes token ids and gives token ids.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.params import SamplingDefaults, SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]

MissCause = Literal[
    "complete", "never_seen", "diverged", "evicted", "whole_pages", "cache_off", "scored"
]
"""Why a prompt's match in the cache went no further (``cache/explain.py``); "cache_off": the engine
shares nothing between requests; "scored": the request asked for its prompt's log-probabilities, so
all of it was to be computed."""

MISS_CAUSES: Final[tuple[MissCause, ...]] = get_args(MissCause)
"""All of them."""


RefusalReason = Literal["requests", "tokens", "wait"]
"""Which bound of the queue a refused request met (``engine/gate.py``)."""

REFUSAL_REASONS: Final[tuple[RefusalReason, ...]] = get_args(RefusalReason)
"""All of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixMark:
    """Keep the prompt's first ``num_tokens`` tokens about ``keep_s`` seconds after the answer."""

    num_tokens: int
    keep_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheHints:
    """What a client knows about when its prefix comes back. See ``retention.py``."""

    keep_s: float = 0.0
    """Keep the whole prompt about so long, in seconds after the answer."""
    marks: tuple[PrefixMark, ...] = ()
    """Keep parts of it, each from its beginning, each for a time of its own."""
    returns_soon: bool = False
    """Prompt and answer come back shortly, as after a tool call: keep both, a minute at least."""


NO_HINTS: Final = CacheHints()
MAX_KEEP_S: Final = 86_400
"""The longest that a hint may ask for: a day."""


MAX_PRIORITY: Final = 100
"""Priorities lie between minus this and this."""
MAX_DEADLINE_S: Final = 7 * 86_400
"""The most time that a request can be given: a week."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumedChoice:
    """One choice of a request that ran before, in an engine that has died since."""

    index: int
    token_ids: list[int]
    """Its answer so far; at least one token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One prompt, ready to run: validated, tokenized, its parameters resolved."""

    request_id: RequestId
    prompt_ids: list[int]
    params: SamplingParams
    end_token_ids: list[int]
    """Every token id that ends the answer: the checkpoint's, unless ignored, and the request's."""
    namespace: Namespace = DEFAULT_NAMESPACE
    hints: CacheHints = NO_HINTS
    tenant: str = ""
    """On whose account it runs: admission is fair between tenants."""
    priority: int = 0
    """Smaller goes first, among the requests of its tenant."""
    resumed: list[ResumedChoice] = field(default_factory=list)
    """If it ran before: the choices that have not ended, each with what it had said. The engine
    goes on from there and reports only what is new. Empty: a request of its own."""


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
class CacheReport:
    """How a request's prompt fared with the cache at its first admission.

    Every prompt token has one of the five sources. What preemption makes of it later is not
    told: it is no fault of the prefix.
    """

    device_tokens: int
    """Held by the tree."""
    host_tokens: int = 0
    """Loaded from host memory, where eviction had put them."""
    disk_tokens: int = 0
    """Loaded from files."""
    in_flight_tokens: int
    """Held by the tree too, because the request waited while another one computed them."""
    computed_tokens: int
    """Held by nobody: to be run."""
    cause: MissCause
    evicted_seconds_ago: float | None = None
    """Set if the cause is "evicted"."""

    @property
    def matched_tokens(self) -> int:
        """Where the match ended: the index of the first token to be run."""
        return self.device_tokens + self.in_flight_tokens + self.host_tokens + self.disk_tokens


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
    cache_report: CacheReport | None = None
    """Comes once, with the first delta of the request's first choice, if it was ever admitted."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """Comes once, likewise, if the request asked: an entry per prompt token, the first one None."""
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
class TierInfo:
    """The tiers below the device pool: gauges (now) and counters (since start).

    Host pages are counted once each: free + cached + in_use == total.
    """

    host_free_pages: int
    host_cached_pages: int
    """Hold a page that can be loaded, and may be given up for another."""
    host_in_use_pages: int
    """A transfer reads or writes them just now."""
    host_total_pages: int
    disk_pages: int = 0
    disk_bytes: int = 0
    disk_limit_bytes: int = 0
    host_loaded_pages: int = 0
    """Loaded into the device pool out of host memory."""
    disk_loaded_pages: int = 0
    """Loaded into it out of files."""
    disk_stored_pages: int = 0
    """Files written."""
    rejected_files: int = 0
    """Files that were torn, foreign or damaged, and not used."""
    lost_pages: int = 0
    """Evicted from the device pool with no room below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEvent:
    """One change of what the cache holds, in hashes of prefixes (``cache/events.py``)."""

    kind: Literal["snapshot", "stored", "removed", "cleared", "lost"]
    """``snapshot``: forget what you know; the next ``stored`` events tell of ``count`` pages, all
    that there are. ``cleared``: nothing is stored any more. ``lost``: ``count`` events could not be
    delivered, and a snapshot comes next."""
    hashes: list[int] = field(default_factory=list)
    """Stored: of consecutive pages, each the next one's parent. Removed: in no special order."""
    parent: int | None = None
    """Stored: the hash before the first one; None if that is a namespace's first page. Snapshot:
    the default namespace's hash of no page at all."""
    count: int = 0


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
    in_flight_tokens: int = 0
    """Those of these that were computed while the request waited for them."""
    admissions: dict[MissCause, int] = field(default_factory=dict)
    """First admissions by the cause of their miss; a cause that has not occurred may be missing."""
    host_tokens: int = 0
    """Prompt tokens of admitted requests that were loaded from host memory; part of
    ``cached_tokens``."""
    disk_tokens: int = 0
    """Those that were loaded from files; part of ``cached_tokens``."""
    tiers: TierInfo | None = None
    """None if there are none below the device pool."""
    computed_tokens: int = 0
    """Tokens run through the model, recomputation after preemption included."""
    prefilled_tokens: int = 0
    """Those of these that nobody had asked for yet (``PrefillAhead``)."""
    num_ahead: int = 0
    """Prefixes that nobody has asked for, and that are still to be computed."""
    generated_tokens: int = 0
    preemptions: int = 0
    evicted_pages: int = 0
    num_deferred: int = 0
    """Of those waiting, who waits for another one's prefix, or for its own grammar, and not for
    room."""
    refused: dict[RefusalReason, int] = field(default_factory=dict)
    """Requests refused because too many waited; one that has not occurred may be missing. Counted
    in front of the engine (``engine/gate.py``), not in it."""
    expected_wait_s: float = 0.0
    """How long a request would wait that came now. Estimated in front of the engine, likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheExplanation:
    """What a prompt would find in the cache now: for whoever runs the server."""

    num_prompt_tokens: int
    matched_tokens: int
    """Held by the tree."""
    host_tokens: int = 0
    """Behind these, tokens that would be loaded from host memory."""
    disk_tokens: int = 0
    """Those that would be loaded from files."""
    cause: MissCause
    """Why the match goes no further, whatever lies below the tree."""
    evicted_seconds_ago: float | None
    """Set if the cause is "evicted"."""
    in_other_namespaces: bool | None
    """Whether another namespace holds more of the prompt; None where nobody looked. Never to be
    told to a tenant, nor looked for on a tenant's behalf: how long that takes tells, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """The engine's figures, and those of the cache that take a walk over the tree."""

    engine: EngineStats
    num_namespaces: int
    num_nodes: int
    """Edges of the tree."""
    eviction_policy: str


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
    """Of activations, keys and values, and of weights that are not quantised."""
    quantization: str = "none"
    """Of the weights: "none", "int8" or "int4"."""
    attention: str
    max_model_len: int
    vocab_size: int
    page_size: int
    num_pages: int
    kv_cache_bytes: int
    """Memory that the KV pages take."""
    num_host_pages: int = 0
    """Pages in the host tier; 0: there is none."""
    cache_dir: str | None = None
    """Where pages are kept over a restart; None: nowhere."""
    eos_token_ids: list[int]
    sampling_defaults: SamplingDefaults
    load_seconds: float
    """From the first look at the checkpoint until a step could run."""
