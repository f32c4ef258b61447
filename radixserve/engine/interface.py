"""What a front end sees of an engine: token ids in, a stream of text out.

``AsyncEngine`` (``async_engine.py``) implements it over the engine process; tests of the front end
may bring their own. Nothing here knows HTTP, and nothing here knows how the engine is reached.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from radixserve.ids import DEFAULT_NAMESPACE, Namespace, RequestId
from radixserve.sampling.params import SamplingParams
from radixserve.text.tokenizer import Tokenizer
from radixserve.types import (
    NO_HINTS,
    CacheEvent,
    CacheExplanation,
    CacheHints,
    CacheReport,
    CacheStats,
    EngineInfo,
    EngineStats,
    FinishReason,
    TokenLogprob,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """What became known of one choice: some text, some tokens, perhaps its end.

    Text may lag behind tokens: half a UTF-8 character, or the beginning of what could become a stop
    string, is held back until it is decided. Over a whole stream the texts concatenate to the
    answer and the token ids to everything that was generated.
    """

    index: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    """The stop string or stop token id that ended the choice, if one of the request's own did."""
    num_cached_tokens: int = 0
    cache_report: CacheReport | None = None
    """Comes once, with the request's first delta of its first choice."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """Comes once, likewise, if the request asked."""
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """How the engine process is. It is restarted when it dies, and requests go on."""

    is_up: bool
    """There is one, and it has loaded the model."""
    is_ready: bool
    """It has said something in the last half minute, and takes requests."""
    has_given_up: bool = False
    """It died and does not come back."""
    num_restarts: int = 0
    num_resumed_requests: int = 0
    """Requests that were in a process when it died, and went on in another."""


class TextStream(Protocol):
    """The deltas of all choices of one request, in the order in which they became known.

    Iteration ends after every choice has finished. ``aclose`` before that aborts the request: its
    pages come back, and what it has computed stays in the cache. Idempotent.
    """

    request_id: RequestId
    queued_s: float | None
    """How long it waited for its first admission; None as long as that has not come."""

    def __aiter__(self) -> AsyncIterator[TextDelta]: ...

    async def aclose(self) -> None: ...


class CacheEventStream(Protocol):
    """What comes into the cache and goes: a snapshot, then every event. Who reads too slowly gets
    a ``lost`` event and another snapshot instead of some.

    Iteration ends when the engine drains or ends. ``aclose`` ends it before. Idempotent.
    """

    def __aiter__(self) -> AsyncIterator[CacheEvent]: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeViewer:
    """Who looks at the radix tree, and what is theirs."""

    sees_all: bool
    """Otherwise own nodes, and of the public ones on the way to them where they part."""
    owns: Callable[[Namespace], bool]


class ViewedNode(NamedTuple):
    """A node as one viewer sees it."""

    id: int
    """Counted for this viewer alone."""
    parent: int
    """0: there is none above."""
    start: int
    """Depth at which its tokens begin."""
    tokens: int
    pages: int
    locks: int | None
    """Requests that use it. None: not told."""
    age_s: float | None
    """Since it was last in use. None: it is, or not told."""
    owner: int
    """0: public; 1: the viewer's own; others count on from 2, as they appear."""


@dataclass(frozen=True, slots=True)
class TreeNodes:
    """Forget ``gone``, then insert or replace ``nodes``; a new node's parent comes before it. What
    is left is a tree."""

    at_s: float
    """When that was so, and ages are as of: since the viewer came."""
    nodes: list[ViewedNode]
    gone: list[int]


@dataclass(frozen=True, slots=True)
class TreeWhole:
    """The first picture is complete."""


@dataclass(frozen=True, slots=True)
class TreeLost:
    """The tree is another one now: forget everything."""


@dataclass(frozen=True, slots=True)
class TreeFigures:
    """The engine's figures, for who sees all."""

    stats: EngineStats


TreeEvent = TreeNodes | TreeWhole | TreeLost | TreeFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTokens:
    """What lies in a node."""

    start: int
    end: int
    before: list[int]
    """The last ones on the way to it."""
    first: list[int]
    last: list[int]
    """Its end, if ``first`` does not go so far."""


class TreeStream(Protocol):
    """The radix tree as one viewer sees it: the nodes there are, and then, now and then, what has
    become of them. Who reads slowly gets less often what is then the newest.

    Iteration ends when the engine drains or ends. ``aclose`` ends it before. Idempotent.
    """

    def __aiter__(self) -> AsyncIterator[TreeEvent]: ...

    async def read(
        self, node_id: int, *, num_before: int, num_first: int, num_last: int
    ) -> NodeTokens | None:
        """At most so many tokens of and before a node that this stream has told of; None if it is
        not there any more. *Raises* ``EngineDeadError``."""
        ...

    async def aclose(self) -> None: ...


class Engine(Protocol):
    """An engine as a front end uses it."""

    info: EngineInfo
    tokenizer: Tokenizer

    @property
    def stats(self) -> EngineStats:
        """The newest figures that the engine has sent."""
        ...

    @property
    def is_alive(self) -> bool:
        """False once the engine has ended for good: closed, or given up."""
        ...

    @property
    def health(self) -> EngineHealth:
        """How the engine process is at this moment."""
        ...

    async def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        hints: CacheHints = NO_HINTS,
        tenant: str = "",
        priority: int = 0,
        deadline_s: float | None = None,
        follows: RequestId | None = None,
        continues_prompt: bool = False,
        visible_ids: frozenset[int] = frozenset(),
    ) -> TextStream:
        """Start a request. Returns as soon as it is accepted, also while the engine restarts.

        ``tenant``: on whose account; ``priority``: smaller goes first, among the same tenant's.
        ``deadline_s``: how many seconds it has from now; then its stream raises ``DeadlineError``.

        ``follows``: another prompt of the same client's request, which was accepted. It is not
        refused for what waits: whoever sends many prompts at once would never be served.

        ``continues_prompt``: the answer's text goes on from the prompt's (a completion) rather than
        being one of its own (a chat): see ``Detokenizer``. ``visible_ids``: special tokens that are
        part of the text nevertheless.

        *Raises* ``InvalidRequestError`` (``ContextLengthError`` if it cannot fit),
        ``OverloadedError``, ``ShuttingDownError``, ``EngineDeadError``; then nothing was started.
        """
        ...

    def set_public_prefixes(self, prefixes: Sequence[Sequence[int]]) -> None:
        """Let every namespace share what is cached of these token ids, and no others from now on;
        it stays so when the engine restarts. Whether somebody has used one of them lately then
        shows to everybody in how fast it is.

        Never waits. *Raises* ``InvalidRequestError`` for ids that no prompt could begin with.
        """
        ...

    def prefill_ahead(
        self,
        prompt_ids: Sequence[int],
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        tenant: str = "",
    ) -> None:
        """Have a prefix computed while the engine has nothing else to do: a prompt of the
        namespace will begin with it soon. Best effort; ignored while the engine drains or restarts.

        Never waits. *Raises* ``InvalidRequestError`` for ids that no prompt could begin with.
        """
        ...

    async def explain(
        self,
        prompt_ids: Sequence[int],
        *,
        namespace: Namespace = DEFAULT_NAMESPACE,
        looks_elsewhere: bool = False,
    ) -> CacheExplanation:
        """What a prompt would find in the cache now, without running it. ``looks_elsewhere``, for
        whoever runs the server: also whether other namespaces hold more of it.

        *Raises* ``InvalidRequestError``, ``EngineDeadError``.
        """
        ...

    async def clear_cache(self, namespace: Namespace | None = None) -> int:
        """Forget what is cached and not in use, of one namespace or all. Returns how many pages
        became free. *Raises* ``EngineDeadError``."""
        ...

    async def cache_stats(self) -> CacheStats:
        """The figures at this moment. *Raises* ``EngineDeadError``."""
        ...

    def watch_cache(self) -> CacheEventStream:
        """Watch which pages the cache holds; the engine notes it only while somebody does.

        *Raises* ``ShuttingDownError``, ``EngineDeadError``.
        """
        ...

    def watch_tree(self, viewer: TreeViewer) -> TreeStream:
        """Watch the radix tree; the engine notes what becomes of it only while somebody does.

        *Raises* ``ShuttingDownError``, ``EngineDeadError``.
        """
        ...

    async def drain(self, timeout_s: float) -> None:
        """Take no more requests, end who watches the cache or the tree, and wait until the requests
        in flight have ended, or the time is up."""
        ...

    async def aclose(self) -> None:
        """Abort what is in flight and end the engine process."""
        ...
